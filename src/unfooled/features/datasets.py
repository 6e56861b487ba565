"""Data sets made of what a network sees (Ilyas et al., section 3).

    robust set       { (x_r, y) }        x_r = invert(g, g(x)), g robust, from a start that is independent of y
    non-robust set   the same with g of a standard network
    D_rand           { (x_adv, t) }      x_adv = argmin CE(f(x'), t) in the threat, t uniform over all classes
    D_det            the same with       t = (y + 1) mod K

In D_rand robust features tell nothing about t (t may be y: leaving it out would anti-correlate them), in D_det they
mislead. Samples for which the attack fails stay in.

Every sample's random numbers belong to its row in the source data, so a set does not depend on which rows are made
together. With `folder` the work is kept in shards: a kill loses at most one, and any number of processes on one machine
share it (start the same call in each). The shards stay; `shards.discard` removes them once the set is stored.

References:
    Ilyas et al., Adversarial examples are not bugs, they are features, NeurIPS 2019, arXiv:1905.02175, section 3.
    xziyue/robust_mnist_feature_py, 2019 (inversion of a group-robust network). Differs: every other row is a start,
    the last one as well, and each start is recorded.
"""

from __future__ import annotations

import inspect
import json
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled._version import __version__
from unfooled.attacks.pgd import pgd
from unfooled.core import rng
from unfooled.core.ascent import Polyak, Rule
from unfooled.core.checks import check_attack, check_inputs, check_labels, check_mode, check_threat
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.losses import margin
from unfooled.core.model.batching import BatchBudget, batched, fitting_batch
from unfooled.core.shapes import flat
from unfooled.core.threats import L2, Threat
from unfooled.core.types import Model
from unfooled.data.formats.feature_sets import FeatureSet, to_bytes
from unfooled.features.inversion import Encode, check_search, invert_features, weights_of
from unfooled.runs.hashes import network_hash, tensors_hash
from unfooled.runs.shards import Progress, Rows, changed, in_shards

NOISE, GREY = -1, -2
"""What `FeatureSet.start` says of a start that is no image of the source data."""

STARTS = ("images", "noise", "grey")
KINDS = ("d-rand", "d-det")
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The quantiles of the residual that the manifest gives."""

DIFFERENT = partial(pgd, steps=100, stop=False)
"""The attack of D_rand and D_det: every step is taken, the lowest cross-entropy of the target is kept."""


def robust_set(
    encode: Encode,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    index: Tensor | None = None,
    start: str = "images",
    threat: Threat = L2(torch.inf),  # noqa: B008  (frozen)
    steps: int = 100,
    tol: float = 0.05,
    rule: Rule = Polyak(cap=1.0),  # noqa: B008  (frozen)
    batch: int | None = None,
    clean: Callable[[Tensor], Tensor] | None = None,
    classes: Sequence[str] = (),
    folder: str | Path | None = None,
    shard: int = 500,
    progress: Progress | None = None,
    finished: FeatureSet | None = None,
    kind: str = "robust",
) -> FeatureSet:
    """Rebuild images from their features: what the encoder does not see is left to the start.

    Args:
        encode: features of a robust network, as an `Encoder` or any differentiable callable. Not modified.
        x: source images, (N, *D) in the unit box; also the pool of starts. Moved to the encoder's device in parts.
        y: their labels, (N,) int64, which the rebuilt images keep.
        seed: of the starts.
        index: rows to rebuild, (n,) int64; all where None.
        start: "images", uniform over the other rows of x whatever their labels; "noise", uniform; "grey", .5.
        threat: where the answer must lie around the start.
        steps: of each inversion; this and the following two as in `invert_features`.
        tol: residual at which an inversion ends.
        rule: step sizes.
        batch: samples alive at once; from the size of the graph where None. Changes nothing else.
        clean: x -> x, done to the images as they are stored, such as `open_mask`; residuals are of what it leaves.
        classes: names in the order of the labels.
        folder: where the work is kept until it is done.
        shard: rows a file there.
        progress: `(what, done, all)`.
        finished: the set as it was stored; where it was made with these settings it is returned, else refused.
        kind: what the manifest calls the set.

    Returns:
        A `FeatureSet`, its images rounded to bytes, its residuals those after rounding. Cost: those of
        `invert_features`, and 3 forwards.

    Raises:
        BadInput: inputs, labels, index, start, steps or tol that cannot be used, a folder or set that is other work.
    """
    check_inputs(x, y, box=threat.box)
    check_threat(x, threat)
    check_mode(encode)
    check_search(steps, tol)
    rows = _rows(index, len(x))
    if start not in STARTS:
        raise BadInput(f"start is {start!r}; it must be {', '.join(STARTS)}")
    if start == "images" and len(x) < 2:
        raise BadInput("there is one image, and no other to start from; give more, or start from noise or grey")
    if isinstance(threat.eps, Tensor) and threat.eps.ndim:
        raise BadInput("the threat has one eps a sample; rebuilt sets take one for all")
    where = _device(encode, x)
    size = batch or _fitting(encode, x[:1].to(where))
    features = torch.no_grad()(batched(encode, size))

    def work(part: Tensor) -> Rows:
        began_at, source = time.perf_counter(), rows[part]
        target = features(x[source].to(where)).detach()
        began, from_row = _starts(x, source, start, seed)
        found = invert_features(
            encode, target, began.to(where), threat=threat, steps=steps, tol=tol, rule=rule, batch=batch
        )
        stored = _stored(found.x, clean)
        off = flat(features(stored.to(found.x) / 255) - target).norm(dim=1)
        length = flat(target).norm(dim=1)
        return {
            "x": stored,
            "start": from_row,
            "before": found.residual,
            "residual": off / torch.where(length > 0, length, torch.ones_like(length)),
            "gradients": found.gradients,
            "reached": found.reached,
            "vanished": found.vanished,
            "seconds": _each(part, began_at),
        }

    about = {
        **_about(kind, encode, x, y, rows, seed),
        "layer": getattr(encode, "layer", None),
        "relu": getattr(encode, "relu", None),
        "rule": str(rule),
        "steps": steps,
        "tol": tol,
        "threat": str(threat),
        "start": start,
        "cleaned": _cleaned(clean),
    }
    if finished is not None:
        return _again(finished, about, classes, progress)
    made = in_shards(work, len(rows), folder=_path(folder), settings=about, shard=shard, what=kind, progress=progress)
    more = {"gradients": float(made["gradients"].double().mean()), "vanished": _share(made["vanished"])}
    return _set(made, y[rows].cpu(), rows, classes, {**about, **more})


def non_robust_set(encode: Encode, x: Tensor, y: Tensor, **options: Any) -> FeatureSet:
    """`robust_set` with the features of a standard network: the same function under another name."""
    return robust_set(encode, x, y, **{"kind": "non-robust", **options})


def d_rand(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    index: Tensor | None = None,
    attack: Callable[..., Tensor] = DIFFERENT,
    clean: Callable[[Tensor], Tensor] | None = None,
    classes: Sequence[str] = (),
    folder: str | Path | None = None,
    shard: int = 500,
    progress: Progress | None = None,
    finished: FeatureSet | None = None,
    kind: str = "d-rand",
) -> FeatureSet:
    """Images moved towards a label drawn at random, with that label.

    Args:
        model: a standard classifier, any callable to logits. Not modified.
        x: source images, (N, *D) in the unit box.
        y: their labels, (N,) int64.
        threat: where the images may be moved; see `smallest_threat`.
        seed: of the targets and of the attack.
        index: rows to use, (n,) int64; all where None.
        attack: `(model, x, t, threat, *, targeted, generator) -> x_adv`. Where it takes a `batch`, it gets the one that
            is bound to it, else one from the size of the graph; this must change nothing.
        clean: x -> x, done to the images as they are stored, such as `open_mask`; residuals are of what it leaves.
        classes: names in the order of the labels.
        folder: where the work is kept until it is done.
        shard: rows a file there.
        progress: `(what, done, all)`.
        finished: the set as it was stored; where it was made with these settings it is returned, else refused.
        kind: "d-rand", or "d-det", where the target is the class after the image's own.

    Returns:
        A `FeatureSet`: `y` are the targets, `source` and `start` the rows of x, `residual` the margin of the best other
        class over the target, negative where the attack succeeded. Rounding to bytes may leave the threat by half a
        byte an entry. Cost: the attack's, and 2 forwards.

    Raises:
        BadInput: inputs, labels, threat, index or kind that cannot be used, a folder or set that is other work.
    """
    check_attack(x, y, threat)
    check_mode(model)
    if kind not in KINDS:
        raise BadInput(f"kind is {kind!r}; it must be {' or '.join(KINDS)}")
    rows = _rows(index, len(x))
    if isinstance(threat.eps, Tensor) and threat.eps.ndim:
        raise BadInput("the threat has one eps a sample; rebuilt sets take one for all")
    where = _device(model, x)
    with torch.no_grad():
        k = read_logits(model, x[:1].to(where), y[:1].to(where)).shape[1]
    check_labels(y, len(x), k)
    t = _targets(kind, y, seed, k)

    called, options = _named(attack)
    takes = "batch" in inspect.signature(attack).parameters
    size = options.get("batch") or fitting_batch(model, x[:1].to(where), ceiling=1024)

    def work(part: Tensor) -> Rows:
        began_at, source = time.perf_counter(), rows[part]
        z, goal = x[source].to(where), t[source].to(where)
        base = torch.Generator().manual_seed(seed)
        z_adv = attack(model, z, goal, threat, targeted=True, generator=base, **({"batch": size} if takes else {}))
        stored = _stored(z_adv, clean)
        off = torch.no_grad()(batched(lambda z, t: margin(read_logits(model, z, t), t), size))
        after = off(stored.to(z_adv) / 255, goal)
        return {
            "x": stored,
            "start": source,
            "before": off(z_adv, goal),
            "residual": after,
            "reached": after < 0,
            "seconds": _each(part, began_at),
        }

    about = {
        **_about(kind, model, x, y, rows, seed),
        "threat": str(threat),
        "attack": called,
        "options": {name: str(value) for name, value in options.items() if name != "batch"},
        "cleaned": _cleaned(clean),
    }
    if finished is not None:
        return _again(finished, about, classes, progress)
    made = in_shards(work, len(rows), folder=_path(folder), settings=about, shard=shard, what=kind, progress=progress)
    return _set(made, t[rows].cpu(), rows, classes, about)


def d_det(model: Model, x: Tensor, y: Tensor, threat: Threat, **options: Any) -> FeatureSet:
    """Images moved towards the class after their own, (y + 1) mod K, with that label. Options as for `d_rand`."""
    return d_rand(model, x, y, threat, **{"kind": "d-det", **options})


def _targets(kind: str, y: Tensor, seed: int, k: int) -> Tensor:
    """The labels that images are moved to, (N,), on the CPU."""
    y = y.cpu()
    if kind == "d-det":
        return (y + 1) % k
    u = rng.uniform(rng.seeds(torch.arange(len(y))[:, None], seed, stage=31), (1,), dtype=torch.float64)[:, 0]
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
    attack: Callable[..., Tensor] = DIFFERENT,
) -> tuple[Threat, list[float]]:
    """The first of `threats` in which at least `share` of the samples reach their target; else the last.

    Args:
        model: as for `d_rand`.
        x: held-out images, (N, *D).
        y: their labels.
        threats: in increasing order, such as L2 of 1, 1.5, 2 and 3 for MNIST.
        share: of targets reached, those that are the image's own label included.
        kind: "d-rand" or "d-det", whose targets are used.
        seed: of targets and attack.
        attack: as for `d_rand`.

    Returns:
        The threat, and the share reached in each that was tried. Cost: the attack's for each.

    Raises:
        BadInput: no threats, or what `d_rand` refuses.
    """
    if not threats:
        raise BadInput("there are no threats to choose from; give some, in increasing order")
    found: list[float] = []
    for threat in threats:
        moved = d_rand(model, x, y, threat, seed=seed, attack=attack, kind=kind)
        found.append(float(moved.manifest["reached"]))
        if found[-1] >= share:
            return threat, found
    return threats[-1], found


def _starts(x: Tensor, source: Tensor, kind: str, seed: int) -> tuple[Tensor, Tensor]:
    """First points of the rows `source`, and the rows that they are; one number a row, whatever its label."""
    key = rng.seeds(source[:, None], seed, stage=32)
    if kind == "grey":
        return torch.full_like(x[source], 0.5), torch.full_like(source, GREY)
    if kind == "noise":
        return rng.uniform(key, tuple(x.shape[1:]), dtype=x.dtype).to(x.device), torch.full_like(source, NOISE)
    other = (rng.uniform(key, (1,), dtype=torch.float64)[:, 0] * (len(x) - 1)).to(torch.int64)
    other = other + (other >= source)
    return x[other], other


def _rows(index: Tensor | None, n: int) -> Tensor:
    if index is None:
        return torch.arange(n)
    if index.ndim != 1 or index.dtype != torch.int64 or not len(index):
        raise BadInput(f"index is {tuple(index.shape)}, {index.dtype}; it must be rows of x, (n,) int64")
    if int(index.min()) < 0 or int(index.max()) >= n:
        raise BadInput(f"index lies in [{int(index.min())}, {int(index.max())}], x has {n} rows")
    return index.cpu()


def _device(model: Any, x: Tensor) -> torch.device:
    """Where the weights are; where x is if there are none."""
    return next((w.device for w in weights_of(model)), x.device)


def _fitting(encode: Encode, x: Tensor) -> int:
    return min(1024, BatchBudget(encode, x).batch)


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)


def _stored(z: Tensor, clean: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Images as they are stored, uint8."""
    stored = to_bytes(z)
    return stored if clean is None else to_bytes(clean(stored.to(z) / 255))


def _named(function: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """What a function is called, and the options that are bound to it."""
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", type(inner).__name__), getattr(function, "keywords", {})


def _cleaned(clean: Callable[[Tensor], Tensor] | None) -> dict[str, Any] | None:
    if clean is None:
        return None
    called, options = _named(clean)
    return {"called": called, **{k: v if isinstance(v, (int, float)) else str(v) for k, v in options.items()}}


def _again(
    finished: FeatureSet, about: dict[str, Any], classes: Sequence[str], progress: Progress | None
) -> FeatureSet:
    """The set that is there already, if it is the one that is asked for."""
    asked = json.loads(json.dumps({**about, "classes": list(classes) or finished.classes}))
    if said := changed({**finished.manifest, "classes": finished.classes}, asked, asked):
        raise BadInput(f"the set that is there is another: {said}; choose another place, or start again (--fresh)")
    if progress is not None:
        progress(str(about["kind"]), len(finished), len(finished))
    return finished


def _about(kind: str, model: Any, x: Tensor, y: Tensor, rows: Tensor, seed: int) -> dict[str, Any]:
    """What identifies the work: model, data, rows and seed."""
    encoder = network_hash(model)
    if not encoder:  # a plain function: what it returns has to tell it from others
        with torch.no_grad():
            encoder = f"outputs {tensors_hash(model(x[:4].to(_device(model, x))))}"
    return {
        "kind": kind,
        "seed": seed,
        "encoder": encoder,
        "data": tensors_hash(x, y),
        "rows": tensors_hash(rows),
    }


def _each(part: Tensor, since: float) -> Tensor:
    """Seconds a row, (b,), of work that began then."""
    return torch.full((len(part),), (time.perf_counter() - since) / len(part), dtype=torch.float64)


def _share(of: Tensor) -> float:
    return float(of.double().mean())


def _quantiles(values: Tensor) -> dict[str, float]:
    # Sorted, not torch.quantile, which refuses more than 16 million values.
    ordered = values.double().sort().values
    return {f"{q:g}": float(ordered[round(q * (len(ordered) - 1))]) for q in SHARES}


def _set(made: Rows, y: Tensor, rows: Tensor, classes: Sequence[str], about: dict[str, Any]) -> FeatureSet:
    manifest = {
        **about,
        "reached": _share(made["reached"]),
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
