"""Data sets made from the features of a network (Ilyas et al., section 3).

    robust set       { (x_r, y) }        x_r = invert(g, g(x)), g robust, from a start that is independent of y
    non-robust set   the same with g of a standard network
    D_rand           { (x_adv, t) }      x_adv = argmin CE(f(x'), t) in the threat, t uniform over all classes
    D_det            the same with       t = (y + 1) mod K

g are the features of a network, f its logits. In D_rand, robust features carry no information on t (t may equal y:
excluding y would anti-correlate them with it); in D_det they mislead. Samples for which the attack fails stay in.

The random numbers of a sample depend on its row in the source data, so a set does not depend on how rows are
batched. With a `Storage` that names a folder, work is stored in chunks: a kill loses at most one chunk, and several
processes share the work (start the same call in each). The chunks stay; `runs.folder.discard` removes them once the set
is stored.

References:
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175, section 3.
    xziyue/robust_mnist_feature_py, 2019 (inversion of a group-robust network). Differs: any other row may be a start,
    including the last, and each start is recorded.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.pgd import pgd
from unfooled.core import rng
from unfooled.core.checks import check_attack, check_inputs, check_labels, check_mode, check_threat
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.losses import margin
from unfooled.core.model.batching import BatchBudget, batched, fitting_batch
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.core.unanswered import check_answered
from unfooled.data.formats.feature_sets import FeatureSet
from unfooled.features.inversion import Encode, check_search, invert_features
from unfooled.features.making import (
    SEARCH,
    STORAGE,
    Clean,
    Search,
    Storage,
    as_stored,
    assembled,
    check_one_eps,
    cleaning,
    device_of,
    identity,
    name_and_options,
    rows_of,
    same_set,
    seconds_each,
    share,
)
from unfooled.runs.chunks import Progress, Rows

NOISE, GREY = -1, -2
"""Values of `FeatureSet.start` for a start that is not an image of the source data."""

STARTS = ("images", "noise", "grey")
KINDS = ("d-rand", "d-det")

RELABEL = partial(pgd, steps=100, stop=False)
"""The attack of D_rand and D_det: every step is taken, the lowest cross-entropy of the target is kept."""


def robust_set(
    encode: Encode,
    x: Tensor,
    y: Tensor,
    *,
    search: Search = SEARCH,
    seed: int = 0,
    index: Tensor | None = None,
    start: str = "images",
    clean: Clean | None = None,
    classes: Sequence[str] = (),
    storage: Storage = STORAGE,
    progress: Progress | None = None,
    kind: str = "robust",
) -> FeatureSet:
    """Rebuild images from their features; what the features do not determine comes from the start image.

    Args:
        encode: Features of a robust network, as an `Encoder` or any differentiable callable. Not modified.
        x: Source images, (N, *D) in the unit box; also the pool of starts. Moved to the encoder's device in chunks.
        y: Labels, (N,) int64, which the rebuilt images keep.
        search: Options of the inversions.
        seed: Random seed of the starts.
        index: Rows to rebuild, (n,) int64. None: all.
        start: "images", uniform over the other rows of x whatever their labels; "noise", uniform; "grey", .5.
        clean: x -> x, applied to images before they are stored, such as `open_mask`; residuals are measured after it.
        classes: Class names in the order of the labels.
        storage: Storage of the work until it is done.
        progress: Callback `(kind, done, in all)`.
        kind: Name of the set in the manifest.

    Returns:
        A `FeatureSet`, its images rounded to bytes, its residuals those after rounding. Cost: that of
        `invert_features`, and 3 forward passes.

    Raises:
        BadInput: Inputs, labels, index, start, steps or tol that cannot be used, or a folder or finished set that was
            made with other settings.
    """
    check_inputs(x, y, box=search.threat.box)
    check_threat(x, search.threat)
    check_mode(encode)
    check_search(search.steps, search.tol)
    rows = rows_of(index, len(x))
    if start not in STARTS:
        raise BadInput(f"start is {start!r}; it must be {', '.join(STARTS)}")
    if start == "images" and len(x) < 2:
        raise BadInput("there is one image, and no other to start from; give more, or start from noise or grey")
    check_one_eps(search.threat)
    about = {
        **identity(kind, encode, x, y, rows, seed),
        "layer": getattr(encode, "layer", None),
        "relu": getattr(encode, "relu", None),
        "rule": str(search.rule),
        "steps": search.steps,
        "tol": search.tol,
        "threat": str(search.threat),
        "start": start,
        "cleaned": cleaning(clean),
    }
    if storage.finished is not None:
        return same_set(storage.finished, about, classes, progress)
    made = storage.rows(_Rebuilding(encode, x, rows, search, start, seed, clean), about, len(rows), progress)
    figures = {"gradients": float(made["gradients"].double().mean()), "vanished": share(made["vanished"])}
    return assembled(made, y[rows].cpu(), rows, classes, {**about, **figures})


class _Rebuilding:
    """Computation of some rows of a rebuilt set."""

    def __init__(
        self, encode: Encode, x: Tensor, rows: Tensor, search: Search, start: str, seed: int, clean: Clean | None
    ) -> None:
        self.encode, self.x, self.rows, self.search = encode, x, rows, search
        self.start, self.seed, self.clean = start, seed, clean
        self.device = device_of(encode, x)
        size = search.batch or min(1024, BatchBudget(encode, x[:1].to(self.device)).batch)
        self.features = torch.no_grad()(batched(encode, size))

    def __call__(self, part: Tensor) -> Rows:
        """Rebuild the images of `self.rows[part]`, part (b,)."""
        began, source, search = time.perf_counter(), self.rows[part], self.search
        target = self.features(self.x[source].to(self.device)).detach()
        first, from_row = _starts(self.x, source, self.start, self.seed)
        result = invert_features(
            self.encode, target, first.to(self.device), threat=search.threat, steps=search.steps, tol=search.tol,
            rule=search.rule, batch=search.batch,
        )  # fmt: skip
        stored = as_stored(result.x, self.clean)
        off = flat(self.features(stored.to(result.x) / 255) - target).norm(dim=1)
        length = flat(target).norm(dim=1)
        return {
            "x": stored,
            "start": from_row,
            "before": result.residual,
            "residual": off / torch.where(length > 0, length, torch.ones_like(length)),
            "gradients": result.gradients,
            "reached": result.reached,
            "vanished": result.vanished,
            "seconds": seconds_each(part, began),
        }


def non_robust_set(encode: Encode, x: Tensor, y: Tensor, **options: Any) -> FeatureSet:
    """Rebuild images from the features of a standard network: `robust_set` under another name, with its options."""
    return robust_set(encode, x, y, **{"kind": "non-robust", **options})


def d_rand(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    index: Tensor | None = None,
    attack: Callable[..., Tensor] = RELABEL,
    clean: Clean | None = None,
    classes: Sequence[str] = (),
    storage: Storage = STORAGE,
    progress: Progress | None = None,
    kind: str = "d-rand",
) -> FeatureSet:
    """Move images towards a label drawn at random, and give them that label.

    Args:
        model: Standard classifier, any callable to logits. Not modified.
        x: Source images, (N, *D) in the unit box.
        y: Labels, (N,) int64.
        threat: Constraint set of the moved images, one eps for all; see `smallest_threat`.
        seed: Random seed of the targets and of the attack.
        index: Rows to use, (n,) int64. None: all.
        attack: `(model, x, t, threat, *, targeted, generator) -> x_adv`. If it has a parameter `batch`, it gets the
            value bound to it, else one that fits in memory; its points must not depend on it.
        clean: x -> x, applied to images before they are stored, such as `open_mask`; residuals are measured after it.
        classes: Class names in the order of the labels.
        storage: Storage of the work until it is done.
        progress: Callback `(kind, done, in all)`.
        kind: "d-rand", or "d-det", where the target is the class after the image's own.

    Returns:
        A `FeatureSet`: `y` are the targets, `source` and `start` the rows of x, `residual` the margin of the best other
        class over the target, negative where the attack succeeded. Rounding to bytes may exceed the threat by half
        a byte per entry. Cost: the attack's, and 3 forward passes.

    Raises:
        BadInput: a model without finite answers, inputs, labels, threat, index or kind that cannot be used, or a folder
            or finished set that was made with other settings.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    if kind not in KINDS:
        raise BadInput(f"kind is {kind!r}; it must be {' or '.join(KINDS)}")
    rows = rows_of(index, len(x))
    check_one_eps(threat)
    device = device_of(model, x)
    with torch.no_grad():
        k = read_logits(model, x[:1].to(device), y[:1].to(device)).shape[1]
    check_labels(y, len(x), k)
    name, options = name_and_options(attack)
    about = {
        **identity(kind, model, x, y, rows, seed),
        "threat": str(threat),
        "attack": name,
        "options": {option: str(value) for option, value in options.items() if option != "batch"},
        "cleaned": cleaning(clean),
    }
    if storage.finished is not None:
        return same_set(storage.finished, about, classes, progress)
    t = _targets(kind, y, seed, k)
    size = options.get("batch") or fitting_batch(model, x[:1].to(device), ceiling=1024)
    work = _MovedRows(model, x, t, threat, rows, seed, attack, size, clean, device)
    made = storage.rows(work, about, len(rows), progress)
    return assembled(made, t[rows].cpu(), rows, classes, about)


@dataclass(frozen=True)
class _MovedRows:
    """Computation of some rows of D_rand or D_det."""

    model: Model
    x: Tensor
    t: Tensor
    threat: Threat
    rows: Tensor
    seed: int
    attack: Callable[..., Tensor]
    batch: int
    clean: Clean | None
    device: torch.device

    def __call__(self, part: Tensor) -> Rows:
        """Attack the images of `self.rows[part]`, part (b,)."""
        began, source = time.perf_counter(), self.rows[part]
        z, goal = self.x[source].to(self.device), self.t[source].to(self.device)
        logits_of = torch.no_grad()(batched(partial(read_logits, self.model), self.batch))
        check_answered(logits_of(z), source)
        options: dict[str, Any] = {"targeted": True, "generator": torch.Generator().manual_seed(self.seed)}
        if "batch" in inspect.signature(self.attack).parameters:
            options["batch"] = self.batch
        z_adv = self.attack(self.model, z, goal, self.threat, **options)
        stored = as_stored(z_adv, self.clean)
        before, after = (_target_gap(logits_of(points), goal) for points in (z_adv, stored.to(z_adv) / 255))
        return {
            "x": stored,
            "start": source,
            "before": before,
            "residual": after,
            "reached": after < 0,
            "seconds": seconds_each(part, began),
        }


def _target_gap(logits: Tensor, t: Tensor) -> Tensor:
    """Return the margin of the best other class over the target; NaN without a finite answer, (b,)."""
    return margin(logits, t).where(torch.isfinite(logits).all(1), torch.nan)


def d_det(model: Model, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> FeatureSet:
    """Move images towards the next class, (y + 1) mod K, and give them that label; options as for `d_rand`."""
    return d_rand(model, x, y, threat, **{"kind": "d-det", **options})


def _targets(kind: str, y: Tensor, seed: int, k: int) -> Tensor:
    """Return the labels that images are moved to, (N,), on the CPU."""
    y = y.cpu()
    if kind == "d-det":
        return (y + 1) % k
    seeds = rng.seeds(torch.arange(len(y))[:, None], seed, stage=rng.Stream.RELABELLING)
    u = rng.uniform(seeds, (1,), dtype=torch.float64)[:, 0]
    return (u * k).to(torch.int64)


def smallest_threat(
    model: Model,
    x: Tensor,
    y: Tensor,
    threats: Sequence[Threat],
    *,
    share: float = 0.95,
    kind: str = "d-rand",
    seed: int = 0,
    attack: Callable[..., Tensor] = RELABEL,
) -> tuple[Threat, list[float]]:
    """Find the first of `threats` in which at least `share` of the samples reach their target; else the last.

    Args:
        model: Standard classifier, as for `d_rand`.
        x: Held-out images, (N, *D).
        y: Labels, (N,).
        threats: Threats in increasing order, such as L2 of 1, 1.5, 2 and 3 for MNIST.
        share: Share of targets to be reached; targets that equal the image's label count too.
        kind: "d-rand" or "d-det", whose targets are used.
        seed: Random seed of targets and attack.
        attack: Attack, as for `d_rand`.

    Returns:
        The threat, and the share reached in each that was tried. Cost: the attack's for each.

    Raises:
        BadInput: No threats, or what `d_rand` refuses.
    """
    if not threats:
        raise BadInput("there are no threats to choose from; give some, in increasing order")
    shares: list[float] = []
    for threat in threats:
        moved = d_rand(model, x, y, threat, seed=seed, attack=attack, kind=kind)
        shares.append(float(moved.manifest["reached"]))
        if shares[-1] >= share:
            return threat, shares
    return threats[-1], shares


def _starts(x: Tensor, source: Tensor, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return the first points for the rows `source`, and the rows they come from; drawn without regard to labels."""
    key = rng.seeds(source[:, None], seed, stage=rng.Stream.INVERSION)
    if kind == "grey":
        return torch.full_like(x[source], 0.5), torch.full_like(source, GREY)
    if kind == "noise":
        return rng.uniform(key, tuple(x.shape[1:]), dtype=x.dtype).to(x.device), torch.full_like(source, NOISE)
    other = (rng.uniform(key, (1,), dtype=torch.float64)[:, 0] * (len(x) - 1)).to(torch.int64)
    other = other + (other >= source)
    return x[other], other
