"""Units of the study of LIME under attack: explanations under attack and noise, LIME's own instability, scaffolds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.core.goals import read_logits
from unfooled.explanations.lime import blur, constant, grid, noise
from unfooled.runs.records import Record
from unfooled.runs.units import Units
from unfooled.studies.common.records import listed
from unfooled.studies.common.run import map_jobs
from unfooled.studies.lime_shift.bench import ALL, LAST, NETWORK, ShiftBench
from unfooled.studies.lime_shift.measures import compared, jaccard, over_segments, ranks
from unfooled.studies.lime_shift.scaffold import INNOCENT, SAMPLERS, SENSITIVE, by_column, table_bench
from unfooled.studies.lime_shift.scale import ShiftTask, TableScale

PART = 20
"""Number of images of one unit; an interruption loses at most the unit that was being computed."""
ATTACK, NOISE, SEED = "attack", "noise", "seed"
ARMS = (ATTACK, NOISE, SEED)
CLASSES = ("original", "new")
MEASURES = ("rank", "top", "flips")
BASELINES: dict[str, Any] = {"baseline 0": constant(0.0), "baseline blur": blur, "baseline noise": noise}
NETWORKS = (LAST, ALL)


class Trained(Record):
    """Number of test images, `n`, of which the network classifies `right` correctly."""

    seed: int
    right: int
    n: int
    seconds: float


class Compared(Record):
    """Comparisons of explanations, image by image.

    Attributes:
        seed: Random seed.
        images: Indices of the test images, those that the network classifies correctly.
        columns: Measure -> one value an image; None: undefined, or the attack failed.
        seconds: Seconds of the unit.
    """

    seed: int
    images: list[int]
    columns: dict[str, list[float | None]]
    seconds: float


class Scaffolded(Record):
    """Explanations of a scaffold by one sampler, row by row.

    Attributes:
        sampler: Name of the sampler.
        seed: Random seed.
        auc: Area under the detector's ROC curve, of perturbed against real rows.
        biased: Column of the largest |weight| for the biased model, row by row.
        scaffold: The same for the scaffold.
        seconds: Seconds of the unit.
    """

    sampler: str
    seed: int
    auc: list[float]
    biased: list[int]
    scaffold: list[int]
    seconds: float


@dataclass(frozen=True)
class Results:
    """Records of one data set, over all seeds."""

    task: ShiftTask
    trained: Sequence[Trained]
    shifts: Sequence[Compared]
    own: Sequence[Compared]


def measure(task: ShiftTask, benches: Iterable[ShiftBench], units: Units) -> Results:
    """Compute all units of one data set, or read those of an earlier start."""
    trained: list[Trained] = []
    shifts: list[Compared] = []
    own: list[Compared] = []
    for bench in benches:
        stage = f"{task.source}, seed {bench.seed}"
        trained += map_jobs(units, f"{stage}, network", Trained, {"network": bench}, train_and_test)
        count = trained[-1].right
        parts = {f"{first}": first for first in range(0, count, PART)}
        shifts += map_jobs(units, f"{stage}, under attack", Compared, parts, partial(shift, bench))
        few = min(count, bench.size.own_n)
        parts = {f"{first}": first for first in range(0, few, PART)}
        own += map_jobs(units, f"{stage}, own instability", Compared, parts, partial(instability, bench))
    return Results(task, trained, shifts, own)


def measure_tables(size: TableScale, seeds: Sequence[int], units: Units) -> list[Scaffolded]:
    """Compute the scaffolding experiment for every seed and sampler."""
    rows: list[Scaffolded] = []
    for seed in seeds:
        stage = f"table, seed {seed}"
        rows += map_jobs(units, stage, Scaffolded, {name: name for name in SAMPLERS}, partial(scaffolded, size, seed))
    return rows


def train_and_test(bench: ShiftBench) -> Trained:
    """Train the network, or read it, and test it."""
    x, y = bench.test
    right = int((bench.labels(bench.network(NETWORK), x) == y).sum())
    return Trained(seed=bench.seed, right=right, n=len(y), seconds=round(bench.seconds[NETWORK], 1))


def shift(bench: ShiftBench, first: int) -> Compared:
    """Compare explanations of images with those under attack, under noise of equal size, and with other masks."""
    began = time.perf_counter()
    x, y, images = _part(bench, first, bench.size.n)
    x_adv = bench.attacked(x, y)
    net = bench.network(NETWORK)
    with torch.no_grad():
        logits = read_logits(net, x_adv)
    new = logits.argmax(1)
    fooled = new != y
    runner_up = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    labels = torch.stack([y, new.where(fooled, runner_up)], 1)
    clean = bench.explained(x, labels)
    others = {
        ATTACK: bench.explained(x_adv, labels),
        NOISE: bench.explained(bench.noisy(x, x_adv), labels),
    }
    comparisons = {arm: compared(clean, other, bench.size.top) for arm, other in others.items()}
    redrawn = bench.explained(x, labels, seed=bench.seed + 1)
    a, b = clean.weights.flatten(0, 1), redrawn.weights.flatten(0, 1)
    own = {"rank": ranks(a, b), "top": jaccard(a, b, bench.size.top), "flips": _sign_changes(clean, redrawn).flatten()}
    comparisons[SEED] = {name: value.reshape(labels.shape) for name, value in own.items()}
    columns = {"fooled": fooled.double()}
    fits = {"clean": clean, **others}
    columns |= {f"held-out R2, {arm}": one.r2_held_out[:, 0].where(fooled, torch.nan) for arm, one in fits.items()}
    columns |= {
        f"{arm}, {name}, {measure}": comparisons[arm][measure][:, t].where(fooled, torch.nan)
        for arm in ARMS
        for t, name in enumerate(CLASSES)
        for measure in MEASURES
    }
    return _record(bench, images, columns, began)


def instability(bench: ShiftBench, first: int) -> Compared:
    """Compare explanations of clean images with those by other settings of LIME, and of randomised networks."""
    began = time.perf_counter()
    x, y, images = _part(bench, first, bench.size.own_n)
    size, reference = bench.size, bench.explained(x, y)
    weights = reference.weights[:, 0]
    assert reference.segments is not None
    ids = reference.segments[0]
    others = {"seed": bench.explained(x, y, seed=bench.seed + 1).weights[:, 0]}
    others |= {f"{n} masks": bench.explained(x, y, samples=n, seed=bench.seed + 2).weights[:, 0] for n in size.sizes}
    others |= {name: bench.explained(x, y, baseline=one).weights[:, 0] for name, one in BASELINES.items()}
    for cells in size.other_cells:
        maps = bench.explained(x, y, segments=grid(cells)).heatmap()
        others[f"grid of {cells}"] = over_segments(maps, ids)
    columns: dict[str, Tensor] = {}
    for name, other in others.items():
        columns |= {f"{name}, rank": ranks(weights, other), f"{name}, top": jaccard(weights, other, size.top)}
    for depth in NETWORKS:
        other = bench.explained(x, y, net=bench.randomised(depth)).weights[:, 0]
        columns[f"{depth}, rank"] = ranks(weights, other)
        columns[f"{depth}, rank of |w|"] = ranks(weights.abs(), other.abs())
    return _record(bench, images, columns, began)


def scaffolded(size: TableScale, seed: int, sampler: str) -> Scaffolded:
    """Explain the biased model and its scaffold by one sampler."""
    began = time.perf_counter()
    bench = table_bench(size, seed)
    return Scaffolded(
        sampler=sampler, seed=seed, auc=[round(value, 5) for value in bench.auc(sampler)],
        biased=bench.leading(by_column(SENSITIVE), sampler), scaffold=bench.leading(bench.scaffold, sampler),
        seconds=round(time.perf_counter() - began, 1),
    )  # fmt: skip


def hidden(row: Scaffolded) -> list[float]:
    """Return for each row whether the scaffold's leading column is the innocent one."""
    return [float(column == INNOCENT) for column in row.scaffold]


def _sign_changes(a: Any, b: Any) -> Tensor:
    """Return the share of changes of sign beyond 2 standard errors, for explanations with independent masks, (B, T)."""
    far = (a.weights - b.weights).abs() > 2 * (a.se**2 + b.se**2).sqrt()
    share: Tensor = (far & (a.settled().sign() * b.settled().sign() < 0)).double().mean(2)
    return share


def _part(bench: ShiftBench, first: int, most: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return images, labels and numbers of one part."""
    x, y, numbers = bench.correctly_classified()
    rows = slice(first, min(first + PART, most, len(y)))
    return x[rows], y[rows], numbers[rows]


def _record(bench: ShiftBench, images: list[int], columns: dict[str, Tensor], began: float) -> Compared:
    """Return the record of one part."""
    seconds = round(time.perf_counter() - began, 1)
    plain = {name: listed(values) for name, values in columns.items()}
    return Compared(seed=bench.seed, images=images, columns=plain, seconds=seconds)
