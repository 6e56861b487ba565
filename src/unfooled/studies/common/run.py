"""Run of a study: settings -> units of work -> findings -> `StudySummary`.

name, sizes = pick_scale(SCALES, scale)
run = StudyRun(NAME, TITLE, name, seeds, out=out, progress=progress, command=command)
units = run.units(sizes.settings(), n=sizes.n)
results = map_jobs(units, "networks", Network, jobs, measure)
return run.finish(Findings(tables=..., claims=..., notes=..., pictures=..., seconds=...))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from unfooled.data.load import load_dataset
from unfooled.drawing.figures import Picture
from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place, open_store
from unfooled.runs.records import Config, Environment, record_bytes
from unfooled.runs.units import Units, file_name, requested_sets
from unfooled.studies.common.records import Claim, StudySummary, Table

J = TypeVar("J")
R = TypeVar("R", bound=BaseModel)
Measure = Callable[[Any, Iterator[Any], Units], Any]
"""`(task, benches, units) -> results of one data set`."""


@dataclass(frozen=True)
class Findings:
    """Findings of a study, made from the results of its units alone.

    Attributes:
        tables: Title -> rows.
        claims: Claims with their verdicts.
        notes: Limits of the figures, in sentences.
        pictures: Pictures of the page, in their order.
        seconds: Seconds of all units.
        answer: Answers to the question of the title, one sentence for each data set.
    """

    tables: Mapping[str, Table]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    seconds: float = 0.0
    answer: Sequence[str] = ()


@dataclass(frozen=True)
class StudyRun:
    """One run of a study, with its options.

    Args:
        study: Name in the catalogue.
        title: Heading of the page.
        scale: Name of the scale.
        seeds: Random seeds.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        device: Device of the networks, for the record.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run.
    """

    study: str
    title: str
    scale: str
    seeds: Sequence[int]
    out: Place | None = None
    device: str = "cpu"
    progress: Progress | None = None
    command: str = ""

    def units(self, settings: Mapping[str, Any], *, n: int) -> Units:
        """Open the folder for units of work.

        Args:
            settings: Plain values that change a result; see `Scale.settings`.
            n: Number of samples, for the record.

        Raises:
            BadInput: the folder holds a run with other settings; the message gives the first that differs.
        """
        config = Config(
            model=f"study {self.study}", data="the scale's", n=n, threat="the scale's", seed=0,
            options={"scale": self.scale, **settings},
        )  # fmt: skip
        return Units(self.out, config, self.progress)

    def task_results(
        self, size: Any, data: Sequence[str] | None, measure: Measure, bench: Callable[..., Any], *, n: int
    ) -> tuple[list[Any], Units]:
        """Measure each data set of a scale with a bench for every seed, one at a time in memory.

        Args:
            size: The scale, with `tasks` and `settings()`.
            data: Data sets to look at; None: all of the scale's.
            measure: `(task, benches, units) -> results`.
            bench: `(task, size, seed, folder=, device=, progress=) -> bench`.
            n: Number of samples, for the record.

        Returns:
            The results of each data set, and the folder of units.

        Raises:
            BadInput: no such data set, data that are not there, or a folder of another run.
        """
        tasks = {task.source: task for task in size.tasks}
        sources = pick_data(list(tasks), data)
        for source in sources:  # missing data must not leave a folder behind
            load_dataset(source, "test", n=1)
        units = self.units(size.settings(), n=n)
        results = []
        for task in (tasks[source] for source in sources):
            made = (
                bench(task, size, seed, folder=self.out, device=self.device, progress=self.progress)
                for seed in self.seeds
            )
            results.append(measure(task, made, units))
        return results, units

    def finish(self, findings: Findings) -> StudySummary:
        """Make the summary, and write it to `summary.json` where results are stored."""
        summary = StudySummary(
            study=self.study, title=self.title, scale=self.scale, seeds=list(self.seeds),
            seconds=round(findings.seconds, 1), environment=Environment.here(self.device),
            tables=dict(findings.tables), claims=list(findings.claims), notes=list(findings.notes),
            answer=list(findings.answer), pictures=list(findings.pictures), command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        if self.out is not None:
            open_store(self.out).write_whole("summary.json", record_bytes(summary))
        return summary


def map_jobs(units: Units, stage: str, kind: type[R], jobs: Mapping[str, J], compute: Callable[[J], R]) -> list[R]:
    """Compute a stage, one unit per job, or read the units of an earlier run.

    Args:
        units: The study's folder.
        stage: Name of the stage.
        kind: Record that a unit is stored as.
        jobs: Name -> job; names may hold any character.
        compute: `job -> record`.

    Returns:
        The records, in the order of the jobs.
    """
    by_file = {file_name(name): job for name, job in jobs.items()}
    return units.map(stage, kind, list(by_file), lambda name: compute(by_file[name]))


def map_names(units: Units, stage: str, kind: type[R], names: Iterable[str], compute: Callable[[str], R]) -> list[R]:
    """Compute a stage whose jobs are names, such as those of networks; see `map_jobs`."""
    return map_jobs(units, stage, kind, {name: name for name in names}, compute)


def pick_data(known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the data sets that were asked for.

    Args:
        known: Data sets of the scale.
        wanted: Data sets that were asked for; None: all.

    Raises:
        BadInput: the scale has no such data set.
    """
    return requested_sets(list(dict.fromkeys(known)), wanted)


def seconds_of(*records: Iterable[Any]) -> float:
    """Add up the seconds of lists of records."""
    return sum(one.seconds for rows in records for one in rows)
