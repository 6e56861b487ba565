"""Attacks, sets of features and studies that several processes share: the same results as alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled import workflows
from unfooled.models import SmallCnn
from unfooled.runs.chunks import Progress
from unfooled.runs.executors import Processes, processes
from unfooled.runs.helpers import MIN_CHUNK, PARTS_EACH, Helpers
from unfooled.runs.store import Store
from unfooled.studies.broken_defences import run_broken_defences
from unfooled.studies.broken_defences.cases import CASES, Case
from unfooled.studies.broken_defences.scale import SCALES
from unfooled.studies.broken_defences.study import Judgement
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.common.run import Findings, StudyRun, map_names
from unfooled.workflows import BadOption, Inputs, Machine, catalog
from unfooled.workflows.map_attack import MapSearch

NETS = """
import os, pathlib, time, torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(64, 16), torch.nn.Linear(16, 10)

    def forward(self, x):
        (pathlib.Path(PLACE) / f"pid-{os.getpid()}").touch()
        return self.last(torch.relu(self.first(x.flatten(1))))

def build():
    return Net().eval()
"""


@pytest.fixture(scope="module")
def two() -> Processes:
    executor = processes(2, threads=1)
    assert executor is not None
    return executor


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS.replace("PLACE", repr(str(tmp_path))))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrays(file: Path) -> dict[str, Any]:
    with np.load(file) as stored:
        return {name: stored[name] for name in stored.files}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def equal(name: str) -> bool:
        return np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")

    return one.keys() == other.keys() and all(map(equal, one))


@pytest.mark.parametrize("effort", [None, "quick"])
def test_an_attack(home: Path, two: Processes, effort: str | None) -> None:
    inputs, n = Inputs("nets.py:build", n=60), 25
    options: dict[str, Any] = {"steps": 8} if effort is None else {"effort": effort}
    with pytest.MonkeyPatch.context() as patch:  # the parts that two processes would have
        patch.setattr("unfooled.workflows.attacking.CHUNK_SAMPLES", n)
        alone = workflows.attack(inputs, "linf:0.05", out="alone.npz", **options)
    assert len(list(home.glob("pid-*"))) == 1
    shared = workflows.attack(inputs, "linf:0.05", out="shared.npz", machine=Machine(workers=two), **options)
    assert len(list(home.glob("pid-*"))) == 2
    assert shared.model_dump(exclude={"out"}) == alone.model_dump(exclude={"out"})
    assert same(arrays(home / "shared.npz"), arrays(home / "alone.npz"))
    assert not (home / "shared.npz.parts").exists()


def test_a_set_of_features(home: Path, two: Processes) -> None:
    inputs = Inputs("nets.py:build", n=60, split="train")
    options = workflows.FeatureOptions(steps=5, shard=25)
    alone = workflows.features(inputs, "alone.npz", options=options)
    shared = workflows.features(inputs, "shared.npz", options=options, machine=Machine(workers=two))
    assert len(list(home.glob("pid-*"))) == 2
    apart = {"seconds", "out", "manifest", "manifest_sha256"}
    assert {k: v for k, v in shared.items() if k not in apart} == {k: v for k, v in alone.items() if k not in apart}
    assert same(arrays(home / "shared.npz"), arrays(home / "alone.npz"))


def test_explanations(home: Path, two: Processes) -> None:
    inputs = Inputs("nets.py:build", n=80)
    alone = workflows.explain(inputs, method="saliency", out="alone")
    assert len(list(home.glob("pid-*"))) == 1
    shared = workflows.explain(inputs, method="saliency", out="shared", machine=Machine(workers=two))
    assert len(list(home.glob("pid-*"))) == 2
    assert shared.model_dump(exclude={"files"}) == alone.model_dump(exclude={"files"})
    assert same(arrays(home / "shared" / "maps.npz"), arrays(home / "alone" / "maps.npz"))
    assert sorted(path.name for path in home.iterdir() if path.is_dir()) == ["alone", "shared"]


def test_attacks_on_explanations(home: Path, two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, attack = Inputs("nets.py:build", n=20), workflows.MapAttack("linf:0.05", steps=2, restarts=1)
    alone = workflows.explain(inputs, method="saliency", attack=attack, out="alone")
    real, own = MapSearch.attacked, list[int]()

    def attacked(self: MapSearch, rows: torch.Tensor, seed: int) -> Any:
        end = time.monotonic() + 60
        while not list(home.glob("shared/parts-*/chunks/attack/*")):  # the helper attacks the other half
            assert time.monotonic() < end, "nobody helps"
            time.sleep(0.05)
        own.extend(rows.tolist())
        return real(self, rows, seed)

    monkeypatch.setattr(MapSearch, "attacked", attacked)
    shared = workflows.explain(inputs, method="saliency", attack=attack, out="shared", machine=Machine(workers=two))
    assert len(own) == 10
    assert shared.model_dump(exclude={"files"}) == alone.model_dump(exclude={"files"})
    assert same(arrays(home / "shared" / "maps.npz"), arrays(home / "alone" / "maps.npz"))


def test_scores_of_maps(home: Path, two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = np.random.default_rng(0).random((70, 9, 9))
    np.save("a.npy", maps)
    np.save("b.npy", maps + np.random.default_rng(1).random((70, 9, 9)))
    alone = workflows.lens("a.npy", "b.npy", k=[5], w=[0, 1], diverse=True)
    for out in (None, home / "scores"):
        seen: list[tuple[int, int]] = []
        shared = workflows.lens(
            "a.npy", "b.npy", k=[5], w=[0, 1], diverse=True, out=out, machine=Machine(workers=two),
            progress=lambda _, done, n, seen=seen: seen.append((done, n)),  # type: ignore[misc]
        )  # fmt: skip
        assert shared.scores == alone.scores and shared.warnings == alone.warnings
        # Another process may have stored the first part before this one reports.
        assert seen == sorted(seen) and {n for _, n in seen} == {70} and seen[-1] == (70, 70)
    monkeypatch.setattr("unfooled.workflows.machine.dask", lambda _: two)
    with pytest.raises(BadOption, match="scheduler needs out, a place that its workers see"):
        workflows.lens("a.npy", "b.npy", k=[5], machine=Machine(scheduler="tcp://10.0.0.1:8786"))


def run_toy(
    scale: str, *, out: Store, seeds: Sequence[int], progress: Progress | None = None, command: str = ""
) -> StudySummary:
    """A study whose units say which process measured them."""
    run = StudyRun("broken-defences", "Toy", scale, seeds, out=out, progress=progress, command=command)
    units = run.units({}, n=8)
    place = Path(out.place()).parent

    def measure(name: str) -> Claim:
        (place / f"pid-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len(list(place.glob("pid-*"))) < 2 and os.environ.get("ALONE") != str(os.getpid()):
            assert time.monotonic() < end, "nobody else came"
            time.sleep(0.05)
        return Claim(claim=name, source="toy", verdict="holds", value=float(name), low=0.0, high=9.0, n=1)

    found = map_names(units, "toys", Claim, [str(i) for i in range(8)], measure)
    return run.finish(Findings({"toys": [{"value": one.value} for one in found]}, found))


def test_a_study(home: Path, two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "resolve", lambda path: run_toy)
    shared = workflows.study("broken-defences", out=home / "shared", machine=Machine(workers=two))
    assert len(list(home.glob("pid-*"))) == 2
    monkeypatch.setenv("ALONE", str(os.getpid()))
    alone = workflows.study("broken-defences", out=home / "alone")
    apart = {"seconds", "created"}
    assert shared.model_dump(exclude=apart) == alone.model_dump(exclude=apart)
    assert (home / "shared" / "report.html").is_file()


def judged(case: Case, model: Any, x: Any, y: Any, threat: Any) -> Judgement:
    """A judge that takes no time; its figure depends on every weight of the network."""
    with torch.no_grad():
        robust = float(model(x).softmax(1).double().var())
    return Judgement(
        seed=0, number=case.number, name=case.name, kind=case.kind, n=len(x), eps=float(threat.eps), robust=robust,
        verdict="EXTENDED", trusted=True, findings=["D6"], passes=100.0,
    )  # fmt: skip


def run_tiny_defences(
    scale: str, *, out: Store, seeds: Sequence[int], progress: Progress | None = None, command: str = ""
) -> StudySummary:
    """The study of broken defences with its own training, on a tiny network."""
    size = replace(SCALES[scale], n=10, train_n=200, epochs=1, arch=partial(SmallCnn, width=4))
    few = [case for case in CASES if case.number in (4, 5, 39)]
    return run_broken_defences(size, out=out, seeds=seeds, judge=judged, cases=few, progress=progress, command=command)


def test_broken_defences(home: Path, two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "resolve", lambda path: run_tiny_defences)
    found = []
    for name, workers in (("alone", 1), ("shared", two)):
        record = workflows.study("broken-defences", out=home / name, machine=Machine("cpu", workers=workers))
        found.append(record.model_dump(exclude={"seconds", "created", "cpu_seconds", "load"}))
        for rows in found[-1]["tables"].values():
            for row in rows:
                row.pop("seconds", None)
    assert found[0]["tables"] and found[0]["claims"]
    assert found[0] == found[1]


def test_sizes_of_shared_parts() -> None:
    assert Helpers(None).chunk(100, 1000) == 100
    three = Helpers(Processes(2))
    assert [three.chunk(100, n) for n in (10, 1000, 3 * PARTS_EACH * 60, 10**6)] == [MIN_CHUNK, 42, 60, 100]
    assert three.chunk(10, 10**6) == 10
