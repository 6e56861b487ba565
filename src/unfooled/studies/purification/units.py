"""Units of the study of purification: the grid, transfer, unseen attacks, detection, clusters and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.attacks import low_frequency, pgd
from unfooled.core.errors import BadInput
from unfooled.core.losses import margin
from unfooled.core.threats import L1, L2, Linf
from unfooled.drawing.figures import Picture
from unfooled.features.corruptions import groups
from unfooled.features.extra_corruptions import EXTRA
from unfooled.purification import SemanticPurifier, guard
from unfooled.purification.guard import purified_alike
from unfooled.runs.records import Record
from unfooled.runs.units import Units
from unfooled.studies.common.records import listed
from unfooled.studies.common.run import map_jobs, map_names
from unfooled.studies.purification.bench import OTHER_ARCH, OTHER_SEED, PurificationBench
from unfooled.studies.purification.detection import Detected, detection
from unfooled.studies.purification.judging import (
    CARRIED,
    END,
    STATIC,
    WORST,
    Defence,
    Points,
    attacked,
    judged,
    lowest,
    without_purifier,
    worst_points,
)
from unfooled.studies.purification.pictures import drawn
from unfooled.studies.purification.scale import (
    AT,
    LATENT,
    LONGER,
    NONE,
    OWN_SRD,
    RESIZED,
    SRD,
    STANDARD,
    PurifierTask,
)

KINDS = ("networks", "grid", "transfer", "unseen", "detected", "clusters", "pictures")
"""Kinds of records."""
L2_EPS, L1_EPS = 2.0, 10.0
"""Radii of unseen attacks on 28x28; they grow with the root of the number of pixels, and with the number."""

AIMED = ("l2", "l1", "low frequency")
"""Unseen changes that are made against a model; the others are the same for every model."""


class Network(Record):
    """A network, and its accuracy on clean test images."""

    seed: int
    name: str
    clean: float
    seconds: float


class Judged(Record):
    """One network behind one purifier, under every attack.

    Attributes:
        seed: Random seed.
        network: Name of the network.
        purifier: Name of the purifier.
        setting: The purifier, as text.
        columns: "attack, eps" -> share of submissions in which each image is right; one submission, or several of a
            random purifier.
        sure: The same, 1 for images that are right in every submission; empty unless the purifier is random.
        assigned: "clean" or "eps" -> 1 where the dictionary is of a cluster of the right class; empty without clusters.
        left: "eps" -> part of the perturbation's length that is left after purifying, of the end-to-end points.
        seconds: Seconds of the unit.
    """

    seed: int
    network: str
    purifier: str
    setting: str
    columns: dict[str, list[float | None]]
    sure: dict[str, list[float | None]]
    assigned: dict[str, list[float | None]]
    left: dict[str, list[float | None]]
    seconds: float


class Moved(Record):
    """One purifier of another network, or one kind of unseen change, with one value for each image.

    Attributes:
        seed: Random seed.
        name: Network that the purifier was fitted to, or name of the change.
        network: Network that is behind the purifier.
        static: 1 where the guarded network is right on points made for the bare one.
        bare: 1 where the bare network is right on points made for it.
        behind: 1 where the guarded network is right under every attack; under a natural change the same as `static`.
        plain: The control: for a change, 1 where PGD-AT is right; for a purifier, `bare`.
        seconds: Seconds of the unit.
    """

    seed: int
    name: str
    network: str
    static: list[float | None]
    bare: list[float | None]
    behind: list[float | None]
    plain: list[float | None]
    seconds: float


class ClassRow(Record):
    """Clusters of one class."""

    label: str
    n: int
    clusters: int
    sizes: list[int]
    stability: float | None
    silhouette: float | None


class Clustered(Record):
    """Clusters of the latents of one network."""

    seed: int
    network: str
    rows: list[ClassRow]
    seconds: float


class Pictures(Record):
    """Pictures of one data set and seed."""

    pictures: list[Picture]
    seconds: float


@dataclass(frozen=True)
class Results:
    """Records of one data set, over all seeds."""

    task: PurifierTask
    networks: Sequence[Network]
    grid: Sequence[Judged]
    transfer: Sequence[Moved]
    unseen: Sequence[Moved]
    detected: Sequence[Detected]
    clusters: Sequence[Clustered]
    pictures: Sequence[Pictures]


def measure(task: PurifierTask, benches: Iterable[PurificationBench], units: Units) -> Results:
    """Compute all units of one data set, or read those of an earlier start."""
    rows: dict[str, list[Any]] = {name: [] for name in KINDS}
    for bench in benches:
        at = f"{task.name}, seed {bench.seed}"
        networks = [*bench.networks, *bench.size.swept]
        names = [*networks, OTHER_SEED, OTHER_ARCH]
        rows["networks"] += map_names(units, f"{at}, networks", Network, names, partial(tested, bench))
        cells = {f"{net} behind {one}": (net, one) for net in networks for one in _purifiers(bench, net)}
        rows["grid"] += map_jobs(units, f"{at}, grid", Judged, cells, partial(cell, bench))
        three = (STANDARD, OTHER_SEED, OTHER_ARCH)
        pairs = {f"{a} in front of {b}": (a, b) for a in three for b in three}
        rows["transfer"] += map_jobs(units, f"{at}, transfer", Moved, pairs, partial(transferred, bench))
        rows["unseen"] += map_jobs(units, f"{at}, unseen", Moved, unseen_changes(bench), partial(unseen, bench))
        encoders = [name for name in (STANDARD, LATENT) if name in bench.networks]
        rows["detected"] += map_names(units, f"{at}, detection", Detected, encoders, partial(detection, bench))
        rows["clusters"] += map_names(units, f"{at}, clusters", Clustered, encoders, partial(clustered, bench))
        if not rows["pictures"]:
            rows["pictures"] += map_names(units, f"{at}, pictures", Pictures, ["pictures"], partial(_pictures, bench))
    return Results(task, **rows)


def _purifiers(bench: PurificationBench, network: str) -> Sequence[str]:
    """Return the purifiers in front of a network."""
    if network in bench.size.swept:
        return [NONE, SRD]
    own = [OWN_SRD] * (network in bench.size.refitted)
    return [NONE] if network == LONGER else [*bench.size.purifiers, *own]


def tested(bench: PurificationBench, name: str) -> Network:
    """Train a network, or read the stored one, and measure its clean accuracy."""
    x, y = bench.test
    clean = float((bench.labels(bench.network(name), x) == y).double().mean())
    return Network(seed=bench.seed, name=name, clean=clean, seconds=round(bench.seconds.get(name, 0.0), 1))


def defence(bench: PurificationBench, network: str, purifier: str) -> Defence:
    """Return a network behind a purifier, with the sizes of the attacks."""
    size = bench.size
    return Defence(
        bench.network(network), bench.purifier(purifier, network), random=purifier == RESIZED, steps=size.steps,
        queries=size.queries if purifier in size.black_box else 0, few=size.few, draws=size.draws,
        submissions=size.submissions, seed=bench.seed, twin=bench.network(OTHER_SEED),
    )  # fmt: skip


def samples(bench: PurificationBench, n: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the first test images on the bench's device."""
    x, y = bench.test
    return x[:n].to(bench.device), y[:n].to(bench.device)


def cell(bench: PurificationBench, at: tuple[str, str]) -> Judged:
    """Attack one network behind one purifier at every radius."""
    began, (network, name) = time.perf_counter(), at
    one = defence(bench, network, name)
    x, y = samples(bench)
    columns: dict[str, Tensor] = {}
    sure: dict[str, Tensor] = {}
    assigned: dict[str, Tensor] = {}
    left: dict[str, Tensor] = {}

    def shared(eps: float) -> Points:
        return bench.once((network, eps), lambda: without_purifier(one, x, y, Linf(eps)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(bench.seed)
        carried: dict[str, Tensor] = {}
        for eps in bench.task.eps:
            threat = Linf(eps)
            points = attacked(one, x, y, threat, shared(eps))
            shares, worst = worst_points(one, x, y, threat, points)
            if one.random:
                carried[f"{STATIC} {eps:g}"] = worst  # any kind: they only count together
                before = [columns[name] for name in columns if name.startswith(CARRIED)]
                shares[CARRIED] = lowest([judged(one, x, y, threat, carried)[WORST], shares[WORST], *before])
            columns |= {f"{attack}, {eps:g}": value for attack, value in shares.items()}
            if one.random:
                sure |= {f"{attack}, {eps:g}": (value == 1).double() for attack, value in shares.items()}
            if END in points:
                left[f"{eps:g}"] = _left(one, x, points[END])
            if isinstance(one.purify, SemanticPurifier):
                assigned["clean"] = _assigned(one.purify, x, y)
                assigned[f"{eps:g}"] = _assigned(one.purify, points[END], y)
    return Judged(
        seed=bench.seed, network=network, purifier=name, setting=_setting(one.purify), columns=_listed(columns),
        sure=_listed(sure), assigned=_listed(assigned), left=_listed(left),
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def _setting(purify: object) -> str:
    """Return a purifier as text."""
    if isinstance(purify, SemanticPurifier):
        return f"{len(purify.clusters)} clusters, {purify.dictionaries.shape[1]} atoms, stride {purify.stride}"
    options = getattr(purify, "keywords", {})
    return ", ".join(f"{name} {value:g}" for name, value in options.items())


def _listed(columns: dict[str, Tensor]) -> dict[str, list[float | None]]:
    return {name: listed(value) for name, value in columns.items()}


@torch.no_grad()
def _left(one: Defence, x: Tensor, z: Tensor) -> Tensor:
    """Return the part of a perturbation's length that is left after purifying, (B,); NaN without one.

    A random purifier draws the same numbers for both.
    """
    before = (z - x).flatten(1).norm(dim=1)
    purified = purified_alike(one.purify, z, x)
    if purified is None:  # it draws from a generator of its own
        return torch.full_like(before, torch.nan)
    after = (purified[0] - purified[1]).flatten(1).norm(dim=1)
    return torch.where(before > 0, after / before.clamp_min(1e-12), torch.nan)


@torch.no_grad()
def _assigned(purify: SemanticPurifier, z: Tensor, y: Tensor) -> Tensor:
    """Return whether the nearest cluster is of the right class, (B,)."""
    return (purify.label.to(y.device)[purify.distance(z).argmin(1)] == y).double()


def transferred(bench: PurificationBench, at: tuple[str, str]) -> Moved:
    """Attack a network behind the purifier of another one, at the smallest radius."""
    began, (source, target) = time.perf_counter(), at
    purify = bench.semantic() if source == STANDARD else bench.fitted(source)
    one = replace(defence(bench, STANDARD, NONE), model=bench.network(target), queries=0)
    x, y = samples(bench, bench.size.few)
    threat = Linf(bench.task.eps[0])
    bare = judged(one, x, y, threat, attacked(one, x, y, threat))
    behind = replace(one, purify=purify)
    shares = judged(behind, x, y, threat, attacked(behind, x, y, threat))
    return _moved(bench, source, target, (shares["static"], bare[WORST], shares[WORST], bare[WORST]), began)


Change = Callable[[nn.Module, Tensor, Tensor], Sequence[Tensor]]


def unseen_changes(bench: PurificationBench) -> dict[str, tuple[str, Change]]:
    """Return the changes that no network was trained on: name -> (name, `(model, x, y) -> versions of x`)."""
    x, steps, seed = bench.test[0], bench.size.steps, bench.seed
    pixels = x[0].numel() / 784
    climb = partial(pgd, steps=steps, loss=margin)
    changes: dict[str, Change] = {
        "l2": lambda model, x, y: [climb(model, x, y, L2(L2_EPS * pixels**0.5))],
        "l1": lambda model, x, y: [climb(model, x, y, L1(L1_EPS * pixels))],
        "low frequency": lambda model, x, y: [low_frequency(model, x, y, bench.task.threat, steps=steps)],
        "shifts": lambda _model, x, _y: [torch.roll(x, move, (2, 3)) for move in ((1, 0), (-1, 0), (0, 1), (0, -1))],
    }
    if x.shape[1] == 1:
        changes["corruption groups"] = lambda _model, x, _y: list(groups(x, seed=seed).unbind(1))
    for corrupt in EXTRA:
        name = str(getattr(corrupt, "__name__", corrupt)).replace("_", " ")
        try:
            corrupt(x[:1], seed=seed)
        except BadInput:
            continue  # this corruption needs larger images
        changes[name] = lambda _model, x, _y, corrupt=corrupt: [corrupt(x, seed=seed)]  # type: ignore[misc]
    return {name: (name, change) for name, change in changes.items()}


def unseen(bench: PurificationBench, at: tuple[str, Change]) -> Moved:
    """Judge the constrained network behind its purifier, bare, and plain adversarial training under one change."""
    began, (name, change) = time.perf_counter(), at
    x, y = samples(bench, bench.size.few)
    networks = [n if n in bench.networks else STANDARD for n in (LATENT, AT)]
    latent, plain = (bench.network(n) for n in networks)
    guarded = guard(latent, bench.semantic())

    def right(model: nn.Module, versions: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return torch.stack([model(z).argmax(1) == y for z in versions]).double().amin(0)

    own = change(latent, x, y)
    at_guarded, at_plain = (change(model, x, y) for model in (guarded, plain)) if name in AIMED else ((), own)
    shares = (right(guarded, own), right(latent, own), right(guarded, [*own, *at_guarded]), right(plain, at_plain))
    return _moved(bench, name, networks[0], shares, began)


def _moved(bench: PurificationBench, name: str, network: str, shares: Sequence[Tensor], began: float) -> Moved:
    static, bare, behind, plain = (listed(one) for one in shares)
    return Moved(
        seed=bench.seed, name=name, network=network, static=static, bare=bare, behind=behind, plain=plain,
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def clustered(bench: PurificationBench, name: str) -> Clustered:
    """Fit clusters to the latents of a network."""
    began = time.perf_counter()
    purify = bench.semantic() if name == STANDARD else bench.fitted(name)
    rows = [
        ClassRow(
            label=bench.classes[fit.label], n=fit.n, clusters=fit.k, sizes=list(fit.sizes),
            stability=listed(torch.tensor([fit.stability[fit.k - 1]]))[0],
            silhouette=listed(torch.tensor([fit.silhouette]))[0],
        )
        for fit in purify.clusters.fits
    ]  # fmt: skip
    return Clustered(seed=bench.seed, network=name, rows=rows, seconds=round(time.perf_counter() - began, 1))


def _pictures(bench: PurificationBench, _name: str) -> Pictures:
    """Draw bands, clusters, atoms, and images before and after."""
    began = time.perf_counter()
    x, y = samples(bench, bench.size.few)
    purify, net = bench.semantic(), bench.network(STANDARD)
    z = pgd(guard(net, purify), x, y, Linf(bench.task.eps[0]), loss=margin, steps=bench.size.steps)
    made = drawn(purify, x.cpu(), z.cpu(), (bench.train[0][:1000], bench.train[1][:1000]), title=bench.task.name)
    return Pictures(pictures=made, seconds=round(time.perf_counter() - began, 1))
