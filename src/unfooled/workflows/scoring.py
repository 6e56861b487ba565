"""Compare stored attribution maps before and after a perturbation, with the level of chance beside each score."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import AliasChoices, Field
from torch import Tensor

from unfooled import distances
from unfooled.core.limits import Limits, allowing
from unfooled.data.formats.maps import read_maps
from unfooled.evaluation.explanations.locality import Survival, score_maps
from unfooled.report.lens_page import compose_lens, draw_pairs, reading_warnings
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.hashes import tensors_hash
from unfooled.runs.opening import Place
from unfooled.runs.records import Environment, Record
from unfooled.runs.settings import Settings
from unfooled.runs.store import Store
from unfooled.workflows import catalog
from unfooled.workflows.blocks import shared_run
from unfooled.workflows.errors import BadOption
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import open_out
from unfooled.workflows.words import at_least, choose

MAPS_AT_ONCE = 32
NEGATIVE_VALUES_NOTE = (
    "The maps hold negative values and are ranked with their sign; save their absolute values if that is not meant."
)


class LensRecord(Record):
    """Scores of maps before and after a perturbation.

    Attributes:
        clean, perturbed: Files, or "tensors".
        reduce: Reduction of channels to one map. None: the maps had no channels.
        scores: The scores; named "found" in the stored JSON.
        warnings: Cautions to read before quoting a score.
        seconds: Wall time.
        command: Command line that reproduces the record.
        created: Time of creation.
        environment: Versions and device.
    """

    clean: str
    perturbed: str
    reduce: str | None
    scores: Survival = Field(validation_alias=AliasChoices("scores", "found"), serialization_alias="found")
    warnings: list[str] = Field(default_factory=list)
    seconds: float
    command: str
    created: str
    environment: Environment


def lens(
    clean: str | Path | Tensor,
    perturbed: str | Path | Tensor,
    *,
    k: list[int],
    w: list[int] | None = None,
    diverse: bool = False,
    reduce: str | None = None,
    out: Place | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    command: str = "",
    progress: Progress | None = None,
) -> LensRecord:
    """Score how similar attribution maps are before and after a perturbation, with the level of chance beside each.

    Args:
        clean: Maps before, (N, H, W), (N, C, H, W) or (H, W): a .npy, .npz or .safetensors file, "file.npz:name", or a
            tensor.
        perturbed: Maps after, in the same order.
        k: Numbers of top pixels to compare, one score each.
        w: Distances in pixels at which a top pixel still counts as found; None: 1.
        diverse: Also score the top k that lie apart from each other.
        reduce: Name in `catalog.REDUCTIONS` of the reduction of channels. None: "abs-sum" if there are
            channels.
        out: Folder, URL or open store for lens.json and the page, report.html; None: nothing is written.
        limits: Sizes above which a file is refused; None: the defaults of `Limits`.
        seed: Random seed.
        machine: The device, maps computed at once, and the processes that share the work.
        command: Command line that reproduces the record.
        progress: Called as `progress(stage, maps done, maps in all)`.

    Raises:
        BadInput: maps that cannot be read or do not fit each other, options that cannot be used.
    """
    for option, values, least in (("k", k, 1), ("w", w or [], 0)):
        for value in values:
            at_least(option, value, least)
    store = open_out(out)
    reduction = choose(catalog.REDUCTIONS, reduce, "reduction") if reduce else None
    device = machine.prepare(seed, shares=True)
    start = time.perf_counter()
    task = _Task(clean, perturbed, reduction, limits, k, w or [1], diverse, seed, machine.alone(device))
    a, b, used = task.maps()
    with shared_run(task, task.settings(a, b), machine, task.block, store, progress) as on:
        run, helpers = on
        scores = task.scored(a, b, run)
        signed = used is None and bool(((a < 0).any() | (b < 0).any()).item())
        record = LensRecord(
            clean=_name_of(clean),
            perturbed=_name_of(perturbed),
            reduce=used,
            scores=scores,
            warnings=[*reading_warnings(scores), *([NEGATIVE_VALUES_NOTE] if signed else [])],
            seconds=time.perf_counter() - start,
            command=command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            environment=Environment.here(device),
        )
        pictures = [] if store is None else draw_pairs(a, b, scores)
        _write(store, record, pictures)
    if helpers.notes:  # known once the helpers have ended
        record = record.model_copy(update={"warnings": [*record.warnings, *helpers.notes]})
        _write(store, record, pictures)
    return record


def _write(store: Store | None, record: LensRecord, pictures: list[Any]) -> None:
    """Write the record and its page, if there is a place for them."""
    if store is not None:
        full = record.model_dump(mode="json") | {"pictures": pictures}
        store.write_whole("lens.json", json.dumps(full, indent=1).encode())
        store.write_whole("report.html", compose_lens(full).encode("utf-8", "replace"))


@dataclass(frozen=True)
class _Task:
    """Maps to compare, and how, so that helpers can load them."""

    clean: str | Path | Tensor
    perturbed: str | Path | Tensor
    reduction: Any
    limits: Limits | None
    k: Sequence[int]
    w: Sequence[int]
    diverse: bool
    seed: int
    machine: Machine

    @property
    def block(self) -> int:
        """Pairs computed at once."""
        return self.machine.batch or MAPS_AT_ONCE

    def maps(self) -> tuple[Tensor, Tensor, str | None]:
        """Read both, and return the reduction used too."""
        with allowing(self.limits):
            a, b, used = pair(self.clean, self.perturbed, self.reduction)
        return a.to(self.machine.device), b.to(self.machine.device), used

    def settings(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        """Return what identifies the work."""
        return {"maps": tensors_hash(a, b), "k": list(self.k), "w": list(self.w), "diverse": self.diverse}

    def scored(self, a: Tensor, b: Tensor, run: Run) -> Survival:
        """Score the pairs, block by block."""
        return score_maps(a, b, k=self.k, w=self.w, diverse=self.diverse, seed=self.seed, batch=self.block, run=run)

    def loaded(self) -> tuple[Settings, Callable[[Run], object]]:
        """Read the maps in another process."""
        self.machine.prepare(self.seed)
        a, b, _ = self.maps()
        return self.settings(a, b), partial(self.scored, a, b)


def pair(
    clean: str | Path | Tensor, perturbed: str | Path | Tensor, reduction: str | None
) -> tuple[Tensor, Tensor, str | None]:
    """Read both as maps, (N, H, W), and return the reduction used too, None where there were no channels."""
    a, b = (maps if isinstance(maps, Tensor) else read_maps(str(maps)) for maps in (clean, perturbed))
    if a.shape != b.shape:
        raise BadOption(
            "{0} holds maps of shape {1}, {2} of {3}; pairs need one shape",
            _name_of(clean), tuple(a.shape), _name_of(perturbed), tuple(b.shape),
        )  # fmt: skip
    kind = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(kind), b.to(kind)
    if a.ndim == 4:
        reduce = getattr(distances, reduction or "abs_sum")
        return reduce(a), reduce(b), (reduction or "abs_sum")
    if reduction is not None:
        raise BadOption(
            "{reduce} is for channels, (N, C, H, W), but {0} has shape {1}, which is read as N maps; save one image of "
            "C channels as a[None]",
            _name_of(clean), tuple(a.shape),
        )  # fmt: skip
    return a, b, None


def _name_of(maps: str | Path | Tensor) -> str:
    return "tensors" if isinstance(maps, Tensor) else str(maps)
