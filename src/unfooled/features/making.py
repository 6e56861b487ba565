"""Shared parts of the data sets made from features: options of the search, storage of the work, the manifest."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled._version import __version__
from unfooled.core.ascent import Polyak, Rule
from unfooled.core.errors import BadInput, option
from unfooled.core.model.calls import run
from unfooled.core.threats import L2, Threat
from unfooled.data.formats.feature_sets import FeatureSet, to_bytes
from unfooled.features.inversion import weights_of
from unfooled.runs.chunks import Progress, Rows, Run
from unfooled.runs.failures import ALONE, Start
from unfooled.runs.hashes import code_hashes, network_hash, tensors_hash
from unfooled.runs.opening import Place
from unfooled.runs.settings import PRINTS, difference
from unfooled.runs.share_records import Share

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the residual in the manifest."""

Clean = Callable[[Tensor], Tensor]
"""x (B, *D) -> x, applied to images before they are stored, such as `open_mask`."""


@dataclass(frozen=True)
class Search:
    """Options of the inversions that rebuild images, see `invert_features`.

    Args:
        threat: Constraint set of the rebuilt image around its start; one eps for all.
        steps: Largest number of gradients per image.
        tol: Residual at which an inversion ends.
        rule: Step sizes.
        batch: Samples computed at once; results do not depend on it. None: as many as fit in memory.
    """

    threat: Threat = L2(torch.inf)  # noqa: RUF009  (frozen)
    steps: int = 100
    tol: float = 0.05
    rule: Rule = Polyak(cap=1.0)  # noqa: RUF009  (frozen)
    batch: int | None = None


@dataclass(frozen=True)
class Storage:
    """Storage of unfinished work on a set, which a second run continues.

    Args:
        folder: Folder, URL or store of the chunks, which stay there until `runs.folder.discard`. None: in memory.
        chunk: Images per file in the folder.
        finished: Set that is already stored; returned if it was made with the same settings, else refused. None: no
            such set.
        start: Start that this process works for, where several share the work, see `Run`.
        share: Share of the rows to compute, see `Run`. None: all.
    """

    folder: Place | None = None
    chunk: int = 500
    finished: FeatureSet | None = None
    start: Start = ALONE
    share: Share | None = None

    def rows(self, work: Callable[[Tensor], Rows], about: dict[str, Any], n: int, progress: Progress | None) -> Rows:
        """Compute rows 0 to n of a set, chunk by chunk, or read those that are stored.

        Args:
            work: `(rows (b,) int64) -> {name: (b, ...)}`; must not depend on which rows come together.
            about: Settings, "kind" included, that must equal those in the folder for its work to be continued.
            n: Number of rows.
            progress: Callback `(kind, done, in all)`.

        Raises:
            BadInput: The folder was written with other settings; the message names the first that differs.
        """
        config = {**about, "n": n}
        run = Run(self.folder, config, chunk=self.chunk, progress=progress, start=self.start, share=self.share)
        return run.map(about["kind"], work, n)


SEARCH, STORAGE = Search(), Storage()
"""Default options of the search and the storage."""


def same_set(
    finished: FeatureSet, about: dict[str, Any], classes: Sequence[str], progress: Progress | None
) -> FeatureSet:
    """Return the set that is stored already, if it was made with the same settings.

    Raises:
        BadInput: The set was made with other settings.
    """
    settings = {**about, "classes": list(classes) or finished.classes}
    before = {**finished.manifest, "classes": finished.classes}
    if changed := difference({name: before.get(name) for name in settings}, settings):
        raise BadInput(
            f"the stored set has other settings: {changed}; choose another {option('out')}, or start again with "
            f"{option('fresh', True)}"
        )
    if progress is not None:
        progress(str(about["kind"]), len(finished), len(finished))
    return finished


def identity(kind: str, model: Any, x: Tensor, y: Tensor, rows: Tensor, seed: int) -> dict[str, Any]:
    """Return the entries that identify the work: model, data, rows and seed."""
    encoder = network_hash(model)
    if not encoder:  # a plain function has no weights to hash: it is identified by its outputs
        with torch.no_grad():
            encoder = f"outputs {tensors_hash(run(model, x[:4].to(device_of(model, x))))}"
    return {
        "kind": kind,
        "seed": seed,
        "encoder": encoder,
        "data": tensors_hash(x, y),
        "rows": tensors_hash(rows),
        **({PRINTS: code} if (code := code_hashes(model)) else {}),
    }


def assembled(made: Rows, y: Tensor, rows: Tensor, classes: Sequence[str], about: dict[str, Any]) -> FeatureSet:
    """Build the set and its manifest from computed rows."""
    undefined = int((~made["residual"].isfinite()).sum())
    if undefined == len(rows):
        raise BadInput(
            "the network returns no finite logits for any of the images made; mend the network, or choose another"
        )
    manifest = {
        **about,
        "reached": share(made["reached"] & made["residual"].isfinite()),
        "undefined": undefined,
        "seconds": float(made["seconds"].sum()),
        "residual": {"before_rounding": _quantiles(made["before"]), "stored": _quantiles(made["residual"])},
        "versions": {"unfooled": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return FeatureSet(
        x=made["x"].to(torch.float32) / 255,
        y=y,
        source=rows,
        start=made["start"],
        residual=made["residual"].to(torch.float16),
        classes=list(classes),
        manifest=manifest,
    )


def rows_of(index: Tensor | None, n: int) -> Tensor:
    """Return the rows to compute, on the CPU; all of n where `index` is None.

    Raises:
        BadInput: The index is empty, or holds rows that do not exist.
    """
    if index is None:
        return torch.arange(n)
    if index.ndim != 1 or index.dtype != torch.int64 or not len(index):
        raise BadInput(f"index is {tuple(index.shape)}, {index.dtype}; it must be rows of x, (n,) int64")
    if int(index.min()) < 0 or int(index.max()) >= n:
        raise BadInput(f"index lies in [{int(index.min())}, {int(index.max())}], x has {n} rows")
    return index.cpu()


def check_one_eps(threat: Threat) -> None:
    """Refuse a threat with one eps per sample."""
    if isinstance(threat.eps, Tensor) and threat.eps.ndim:
        raise BadInput("the threat has one eps per sample; rebuilt sets take one for all")


def device_of(model: Any, x: Tensor) -> torch.device:
    """Return the device of the weights; that of x if there are none."""
    return next((w.device for w in weights_of(model)), x.device)


def as_stored(z: Tensor, clean: Clean | None) -> Tensor:
    """Return images in the form that is stored: cleaned, uint8."""
    stored = to_bytes(z)
    return stored if clean is None else to_bytes(clean(stored.to(z) / 255))


def name_and_options(function: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a function, and the options that are bound to it."""
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__), getattr(function, "keywords", {})


def cleaning(clean: Clean | None) -> dict[str, Any] | None:
    """Return the manifest's entry about cleaning; None without cleaning."""
    if clean is None:
        return None
    name, options = name_and_options(clean)
    return {"called": name, **{k: v if isinstance(v, (int, float)) else str(v) for k, v in options.items()}}


def seconds_each(part: Tensor, since: float) -> Tensor:
    """Return the seconds spent per row, (b,), on work that began at `since`."""
    return torch.full((len(part),), (time.perf_counter() - since) / len(part), dtype=torch.float64)


def share(values: Tensor) -> float:
    """Return the share of entries that are True."""
    return float(values.double().mean())


def _quantiles(values: Tensor) -> dict[str, float]:
    """Return the `QUANTILES` of values, by name."""
    # Sorted, not torch.quantile, which refuses more than 16 million values.
    ordered = values[values.isfinite()].double().sort().values
    if not len(ordered):
        return dict.fromkeys((f"{q:g}" for q in QUANTILES), float("nan"))
    return {f"{q:g}": float(ordered[round(q * (len(ordered) - 1))]) for q in QUANTILES}
