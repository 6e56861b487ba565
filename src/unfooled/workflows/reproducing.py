"""Reproduce a published experiment, and write its report page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from unfooled.core.limits import Limits, allowing
from unfooled.report.study_page import render_study_beside
from unfooled.runs.chunks import Progress
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.opening import Place, seen_by_helpers
from unfooled.runs.records import record_bytes
from unfooled.runs.store import Store
from unfooled.studies.attention import OwnNetwork as StudyNetwork
from unfooled.studies.common.records import StudySummary
from unfooled.workflows import catalog
from unfooled.workflows.errors import BadOption
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import open_out
from unfooled.workflows.words import at_least, choose, size_of, statistics


@dataclass(frozen=True)
class OwnNetwork:
    """A user's own network, for the studies that take one. Fields that are None take the study's defaults.

    Args:
        model: Model, as for `load_model`.
        boxes: CSV with the boxes of the objects in the data.
        arch: Architecture of a checkpoint.
        n: Number of images.
        split: Split of the data, such as "test".
        mean: Mean that the inputs are normalised by; one number, one per channel, or "0.49,0.48,0.45".
        std: Standard deviation, likewise.
        size: (height, width) that images are resized to, or "32" or "32x48".
        labels: Class names in the model's order.
        channels: Channels that images are converted to, 1 (grey) or 3 (colour).
        trust_pickle: Allow unpickling of the model, which can run code from the file.
    """

    model: str | Callable[..., Any] | None = None
    boxes: str | Path | None = None
    arch: str | None = None
    n: int | None = None
    split: str | None = None
    mean: str | float | Sequence[float] | None = None
    std: str | float | Sequence[float] | None = None
    size: str | int | tuple[int, int] | None = None
    labels: str | Path | None = None
    channels: int | None = None
    trust_pickle: bool | None = None


MAX_SEEDS = 10_000
FIELDS = {"size": "image_size"}
"""Option -> field of a study's `OwnNetwork`, where the names differ."""


def study(
    name: str,
    scale: str = "small",
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    own: OwnNetwork = OwnNetwork(),
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    limits: Limits | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> StudySummary:
    """Reproduce a published experiment, and say which of its claims hold.

    Args:
        name: Name in `catalog.STUDIES`.
        scale: "small" (minutes), "medium" or "full".
        out: Run folder, URL or open store, with the page report.html; a second run continues it. None:
            "runs/NAME-SCALE".
        seeds: Random seeds.
        data: Names of the data sets to use, of those of the scale; None: all.
        own: Your own network.
        machine: The device, if the study takes one, and the processes that share its units. Its `batch` is not used.
        limits: Sizes beyond which a file is refused; None: the defaults of `Limits`.
        command: Command line that reproduces the study, for the record.
        progress: Called as `(stage, units done, units in all)`.

    Raises:
        BadInput: no such study or scale, an option that it does not take, data that are not there, or a folder that
            holds other work.
    """
    row = choose(catalog.STUDIES, name, "study")
    choose(row.costs, scale, "scale")
    if len(seeds) > MAX_SEEDS:
        raise BadOption("{seeds} is {0}; it must be at most {1}", len(seeds), MAX_SEEDS)
    seeds = list(seeds)
    if not seeds:
        raise BadOption("{seeds} is {0}; it must be at least 1", 0)
    at_least("n", own.n, 1)
    store = open_out(Path("runs") / f"{name}-{scale}" if out is None else out)
    assert store is not None
    device = machine.prepare(max(seeds), shares=True)
    machine.prepare(min(seeds), shares=True)
    function = catalog.resolve(row.path)
    takes = catalog.takes(function)
    network = _network(own)
    options: dict[str, Any] = {"data": list(data)} if data else {}
    if "device" in takes or machine.device not in ("auto", "cpu"):
        options["device"] = device
    for option in (*options, *(() if "own" in takes else network)):
        if option not in takes:
            raise BadOption("the study {0} takes no {" + option + "}; leave it out", name)
    if network:
        options["own"] = StudyNetwork(**{FIELDS.get(option, option): value for option, value in network.items()})
    helpers = Helpers(machine.helpers())
    store = seen_by_helpers(store, helped=helpers.count > 0)
    job = partial(function, scale, out=store, seeds=seeds, command=command)
    with allowing(limits), helpers.on(partial(_help, partial(job, **options), limits, helpers.watch)):
        summary: StudySummary = job(progress=progress, **options)
    summary = _with_notes(summary, helpers.notes, store)
    render_study_beside(store)
    return summary


def _network(own: OwnNetwork) -> dict[str, Any]:
    """Return the options of the user's network that are given: a study's names and forms."""
    options = {f.name: getattr(own, f.name) for f in fields(own)}
    mean, std = statistics(own.mean, own.std)
    options |= {"mean": mean, "std": std, "size": size_of(own.size)}
    return {option: value for option, value in options.items() if value is not None}


def _with_notes(summary: StudySummary, notes: Sequence[str], store: Store) -> StudySummary:
    """Return a summary with further notes, and write it where there are some."""
    if not notes:
        return summary
    summary = summary.model_copy(update={"notes": [*summary.notes, *notes]})
    store.write_whole("summary.json", record_bytes(summary))
    return summary


def _help(job: Callable[..., StudySummary], limits: Limits | None, watch: Watch) -> None:
    """Help with a study in another process: compute the units that nobody else computes.

    A helper that sees the end of the study writes the same summary as the process that was started.
    """
    with allowing(limits):
        job(progress=watch)
