"""Units of the attention study: training, analysis, attack, transfer attack and faithfulness of each network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unfooled.evaluation.verify import verify
from unfooled.runs.opening import Place, open_store
from unfooled.runs.store import StoredFile
from unfooled.runs.units import Units, file_name
from unfooled.statistics.intervals import share
from unfooled.studies.attention.analysis import analyse
from unfooled.studies.attention.faithfulness import measure_faithfulness
from unfooled.studies.attention.judging import judge
from unfooled.studies.attention.recipes import BASE, PLAIN, RECIPES
from unfooled.studies.attention.records import Analysed, Crossed, Faithful, Judged, Results, Trained
from unfooled.studies.attention.samples import Samples, known_samples
from unfooled.studies.attention.scale import AttentionScale
from unfooled.studies.common.arms import ArmBench, Task
from unfooled.studies.common.records import bits
from unfooled.studies.common.run import StudyRun, map_jobs


def measure(task: Task, seed: int, size: AttentionScale, run: StudyRun, units: Units) -> Results:
    """Compute all units of one data set and seed: two networks are analysed, all other steps are for every network."""
    place = f"{task.source}-{255 * task.eps:g}-{seed}"
    bench = ArmBench(
        task, size.arms, seed, train_n=size.train_n, folder=run.out, place=place, progress=run.progress
    )  # fmt: skip
    work = NetworkUnits(bench, size, known_samples(task.source), PointStore(run.out), place)
    stage = f"{work.where}, seed {seed}".replace("/", "-")
    jobs = {f"{place}-{name}": name for name in bench.arms}
    both = {unit: name for unit, name in jobs.items() if name in (PLAIN, BASE)}
    return Results(
        trained=map_jobs(units, f"{stage}: networks", Trained, jobs, work.trained),
        analysed=map_jobs(units, f"{stage}: analysis", Analysed, both, work.analysed),
        judged=map_jobs(units, f"{stage}: attacks", Judged, jobs, work.judged),
        crossed=map_jobs(units, f"{stage}: transfer", Crossed, jobs, work.crossed),
        faithful=map_jobs(units, f"{stage}: faithfulness", Faithful, jobs, work.faithful),
    )


@dataclass(frozen=True)
class PointStore:
    """Adversarial points of every network, on which the other networks are tested; in files, if there is a folder.

    Args:
        out: Folder, URL or open store of the study; None: points stay in memory.
    """

    out: Place | None
    _points: dict[str, Tensor] = field(default_factory=dict)

    def put(self, unit: str, z: Tensor) -> None:
        """Store the points of a unit."""
        self._points[unit] = z
        if (file := self._file(unit)) is not None:
            buffer = io.BytesIO()
            np.save(buffer, z.numpy())
            file.write(buffer.getvalue())

    def get(self, unit: str) -> Tensor | None:
        """Return the points of a unit. None: the file of an earlier run is missing."""
        file = self._file(unit)
        if unit not in self._points and file is not None and (data := file.read()) is not None:
            self._points[unit] = torch.from_numpy(np.load(io.BytesIO(data)))
        return self._points.get(unit)

    def _file(self, unit: str) -> StoredFile | None:
        return None if self.out is None else StoredFile(open_store(self.out), f"points/{file_name(unit)}.npy")


@dataclass(frozen=True)
class NetworkUnits:
    """Computation of the units of each kind, for the networks of one data set and seed.

    Attributes:
        bench: Networks.
        size: Sizes of the study.
        samples: Test images, with masks of the object where these are known.
        points: Adversarial points of the networks.
        place: Data set, radius and seed: the beginning of a unit's name.
    """

    bench: ArmBench
    size: AttentionScale
    samples: Samples
    points: PointStore
    place: str

    @property
    def where(self) -> str:
        """Name of the data set and its radius in tables."""
        task = self.bench.task
        return f"{task.source} {255 * task.eps:g}/255"

    def trained(self, name: str) -> Trained:
        """Train a network, and test it on all test samples."""
        bench, net = self.bench, self.bench.network(name)
        right = bench.labels(net, self.samples.x) == self.samples.y
        return Trained(
            data=self.where, arm=name, seed=bench.seed, clean=share(right), steps=bench.steps(name),
            loss=str(bench.arms[name].loss(bench.task.threat)), passes=RECIPES[name].passes(self.size.inner),
            seconds=round(bench.seconds[name], 1),
        )  # fmt: skip

    def analysed(self, name: str) -> Analysed:
        """Analyse the attention of a network."""
        net, seed = self.bench.network(name), self.bench.seed
        return analyse(net, self.samples, self.size.analysis, data=self.where, arm=name, seed=seed)

    def judged(self, name: str) -> Judged:
        """Attack a network, and store the adversarial points, on which the others are tested."""
        net, threat = self.bench.network(name), self.bench.task.threat
        row, z = judge(
            net, self.samples, threat, self.size.judging, data=self.where, arm=name, seed=self.bench.seed
        )  # fmt: skip
        self.points.put(f"{self.place}-{name}", z)
        return row

    def crossed(self, name: str) -> Crossed:
        """Test a network on the adversarial points of all other networks (transfer attack)."""
        net, threat = self.bench.network(name), self.bench.task.threat
        n = min(self.size.judging.n, len(self.samples.x))
        x, y = self.samples.x[:n], self.samples.y[:n]
        stands = ~verify(net, x, y, x, threat).success
        for z in self._points_of_others(name):
            stands &= ~verify(net, x, y, z, threat).success
        return Crossed(data=self.where, arm=name, seed=self.bench.seed, correct=bits(stands))

    def _points_of_others(self, name: str) -> Sequence[Tensor]:
        others = [self.points.get(f"{self.place}-{other}") for other in self.bench.arms if other != name]
        return [z for z in others if z is not None]

    def faithful(self, name: str) -> Faithful:
        """Measure the faithfulness of a network's attention."""
        net, n, seed = self.bench.network(name), self.size.judging.n, self.bench.seed
        return measure_faithfulness(net, self.samples, n, data=self.where, arm=name, seed=seed)
