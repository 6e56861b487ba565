"""Samplers of table rows: perturbed columns, and which features stayed in their bin.

    by_bins              each feature from a training row drawn for it (as LIME, but with values of real rows)
    hidden               masks in pairs; hidden features each from a training row drawn for it, the others kept
    conditional          the same; all hidden features from one of the k rows nearest on the shown ones
    neighbours           real rows of the cluster of the sample, no draw (DLIME)
    around               numeric columns normal around the sample, in standard deviations; no bins
    stratified_normal    the same from a Latin hypercube

A sampler is a function `(columns, features, row, samples, seed) -> Perturbed`. Draws depend on the seed and the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import at_least
from unfooled.explanations.lime.columns import Column, is_missing
from unfooled.explanations.lime.samplers import Sampler, paired, repeating

REMEMBERED = 1 << 20  # largest draw of donors that is remembered
Columns = tuple[Column, ...]
Features = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Perturbed:
    """Perturbed rows.

    Attributes:
        columns: Values of each column, (S,) each.
        z: Features of the surrogate, (S, M): 1 where a feature stayed, or distances in standard deviations.
        unit: Consecutive rows that are one independent draw; 0 for real rows that were not drawn.
        binary: True for masks.
        weights: Weight of each row besides the kernel's, (S,); see `Design`. None: 1.
        donors: Training row of each feature, (S, M), where the draw does not depend on the sample. None: it does.
        words: Values of hidden features, or how the rows were drawn where none is hidden, for captions.
    """

    columns: list[npt.NDArray[Any]]
    z: Tensor
    unit: int = 1
    binary: bool = True
    weights: Tensor | None = None
    donors: npt.NDArray[np.int64] | None = None
    words: str = "training rows"


TableSampler = Callable[[Columns, Features, list[Any], int, int], Perturbed]
"""(columns, features, row, samples, seed) -> `Perturbed`."""

LOPSIDED = 0.01
"""Share of the draws in a bin, or outside of it, below which more of them are put there."""
FORCED = 0.05
"""Share of the draws that are put there."""


def by_bins(columns: Columns, features: Features, row: list[Any], samples: int, seed: int) -> Perturbed:
    """Draw a training row for each feature, its donor; z is 1 where the value is in the bin of the row.

    A bin that nearly no draw hits, such as that of a category that no training row has, is taken by the row's own value
    in a share `FORCED` of the draws; one that nearly every draw hits is left as often, to identify the weight.
    """
    donors = _donors(columns, features, samples, seed)
    z = in_bins(columns, features, row, donors)
    rare, common = lopsided(z)
    if not (rare.any() or common.any()):
        return Perturbed(_values(columns, features, row, donors), z, donors=donors)
    donors, forced = donors.copy(order="K"), _forced(len(features), samples, seed)
    for j in rare.nonzero()[:, 0].tolist():
        donors[forced[:, j], j] = -1
    for j in common.nonzero()[:, 0].tolist():
        alike = [columns[c].code_of_rows == columns[c].code(row[c]) for c in features[j]]
        others = np.flatnonzero(~np.logical_and.reduce(alike))
        if len(others):
            donors[forced[:, j], j] = others[donors[forced[:, j], j] % len(others)]
    own = torch.as_tensor(donors < 0)
    return Perturbed(_values(columns, features, row, donors), in_bins(columns, features, row, donors) | own)


def lopsided(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return which features nearly no draw has in their bin, and which nearly every draw has, (M,) bool each.

    None are where there are too few draws to tell, below `1 / LOPSIDED`.
    """
    if len(z) * LOPSIDED < 1:
        none = torch.zeros(z.shape[1], dtype=torch.bool)
        return none, none
    share = z.count_nonzero(0).double() / len(z)
    return share < LOPSIDED, share > 1 - LOPSIDED


def _forced(features: int, samples: int, seed: int) -> npt.NDArray[np.bool_]:
    """Draw where a lopsided feature changes sides, (S, M): from bits that the numbers of the donors do not use."""
    seeds = rng.seeds(torch.tensor([[features]]), seed, stage=rng.Stream.LIME_VALUES).expand(samples)
    bits = rng.bits(seeds, features, draw=torch.arange(samples)).numpy()
    forced: npt.NDArray[np.bool_] = (bits & 0xFFFF) < FORCED * 0x10000
    return forced


def hidden(sampler: Sampler = paired) -> TableSampler:
    """Return the sampler that keeps shown values and takes each hidden feature from a training row drawn for it.

    Args:
        sampler: Sampler of masks.
    """
    return partial(hide_by, sampler=sampler)


def hide_by(
    columns: Columns, features: Features, row: list[Any], samples: int, seed: int, *, sampler: Sampler
) -> Perturbed:
    """Draw masks, and a training row for each hidden feature."""
    design = repeating(len(features), samples, seed, sampler=sampler)
    donors = _donors(columns, features, len(design.masks), seed).copy(order="K")
    donors[design.masks.numpy()] = -1
    return Perturbed(_values(columns, features, row, donors), design.masks, design.unit, weights=design.weights)


def conditional(k: int = 20, sampler: Sampler = paired) -> TableSampler:
    """Return the sampler that takes all hidden features from one of the k training rows nearest on the shown ones.

    Args:
        k: Number of nearest rows.
        sampler: Sampler of masks.
    """
    return partial(by_nearest, k=at_least(k, 1, "k", "a number of rows"), sampler=sampler)


def by_nearest(
    columns: Columns, features: Features, row: list[Any], samples: int, seed: int, *, k: int, sampler: Sampler
) -> Perturbed:
    """Draw masks, and for each one of the k nearest rows on the shown features."""
    design = repeating(len(features), samples, seed, sampler=sampler)
    squares = [sum(_squares(columns[c], row[c]) for c in group) for group in features]
    distances = np.stack(squares, 1) if squares else np.zeros((len(columns[0].values), 0))
    count = min(k, len(distances))
    which = (_uniform(len(features), len(design.masks), 1, seed)[:, 0] * count).astype(np.int64)
    masks, donors = design.masks.numpy(), np.full((len(design.masks), len(features)), -1)
    for low in range(0, len(masks), 256):
        part = masks[low : low + 256]
        nearest = np.argsort(part @ distances.T, axis=1, kind="stable")[:, :count]
        picked = np.take_along_axis(nearest, which[low : low + 256, None], 1)
        donors[low : low + 256] = np.where(part, -1, picked)
    words = f"one of the {k} nearest training rows"
    values = _values(columns, features, row, donors)
    return Perturbed(values, design.masks, design.unit, weights=design.weights, words=words)


def neighbours(clusters: int = 5, k: int = 5) -> TableSampler:
    """Return the sampler of the real rows in the cluster that most of the k nearest rows belong to.

    Args:
        clusters: Number of clusters of the training rows (agglomerative).
        k: Nearest rows that vote.
    """
    clusters = at_least(clusters, 1, "clusters", "a number of clusters")
    return partial(in_cluster, clusters=clusters, k=at_least(k, 1, "k", "a number of rows"))


def in_cluster(
    columns: Columns, features: Features, row: list[Any], samples: int, seed: int, *, clusters: int, k: int
) -> Perturbed:
    """Return the rows of the sample's cluster; `samples` and `seed` are not used."""
    from sklearn.cluster import AgglomerativeClustering

    table = np.column_stack([_scaled(column) for column in columns])
    label = (
        AgglomerativeClustering(min(clusters, len(table))).fit_predict(table)
        if min(clusters, len(table)) > 1
        else np.zeros(len(table), int)
    )
    distances = sum(_squares(column, value) for column, value in zip(columns, row, strict=True))
    vote = np.bincount(label[np.argsort(distances, kind="stable")[:k]])
    at = np.flatnonzero(label == vote.argmax())
    donors = np.repeat(at[:, None], len(features), 1)
    z, words = in_bins(columns, features, row, donors), "training rows of the row's cluster, as they are"
    return Perturbed(_values(columns, features, row, donors), z, 0, words=words)


def around(scale: float = 1.0) -> TableSampler:
    """Return the sampler of normal numbers around the row; categories are drawn by frequency.

    Args:
        scale: Standard deviation, in those of the columns.
    """
    return partial(normal_around, scale=_positive(scale), stratified=False)


def stratified_normal(scale: float = 1.0) -> TableSampler:
    """Return the sampler of normal numbers around the row from a Latin hypercube: each column has every quantile once.

    Args:
        scale: Standard deviation, in those of the columns.
    """
    return partial(normal_around, scale=_positive(scale), stratified=True)


def normal_around(
    columns: Columns, features: Features, row: list[Any], samples: int, seed: int, *, scale: float, stratified: bool
) -> Perturbed:
    """Draw numbers around the row; z is the distance in standard deviations, of categories -1 where they change."""
    if any(len(group) > 1 for group in features):
        raise BadInput("numbers around a row have no groups of columns; use by_bins, hidden or conditional")
    u = _uniform(len(features), samples, len(features), seed)
    if stratified:
        u = (u.argsort(0).argsort(0) + _uniform(len(features), samples, len(features), seed ^ (1 << 40))) / samples
    steps = torch.special.ndtri(torch.as_tensor(u).clamp(1e-12, 1 - 1e-12)).numpy() * scale
    donors = np.full((samples, len(features)), -1)
    drawn = (u * len(columns[0].values)).astype(np.int64)
    z = np.zeros((samples, len(features)))
    for j, (c,) in enumerate(features):
        if columns[c].edges is None:
            donors[:, j] = drawn[:, j]
            z[:, j] = (columns[c].code_of_rows[drawn[:, j]] == columns[c].code(row[c])) - 1.0
    values = _values(columns, features, row, donors)
    for j, (c,) in enumerate(features):
        if columns[c].edges is not None:
            if is_missing(row[c]):
                raise BadInput(f"column {columns[c].name!r} is missing in the row; use a sampler with bins")
            values[c] = float(row[c]) + columns[c].sd * steps[:, j]
            z[:, j] = steps[:, j]
    words = f"numbers normal around the row, with {scale:g} of the column's standard deviation"
    words += ", from a Latin hypercube" if stratified else ""
    words += "" if all(columns[c].edges is not None for (c,) in features) else "; categories from training rows"
    return Perturbed(values, torch.as_tensor(z), 1, binary=False, words=words)


def filled(
    columns: Columns, features: Features, row: list[Any], z: Tensor, count: int, seed: int
) -> list[npt.NDArray[Any]]:
    """Return `count` rows for each mask, in order: shown features are kept, hidden ones come from training rows.

    Args:
        columns: Columns of the training table.
        features: Columns of each feature.
        row: The row.
        z: Masks, (S, M).
        count: Rows for each mask; they have the same training rows for every mask.
        seed: Random seed.
    """
    donors = np.tile(_donors(columns, features, count, seed), (len(z), 1)).copy()
    donors[np.repeat(z.numpy(), count, 0)] = -1
    return _values(columns, features, row, donors)


def _values(
    columns: Columns, features: Features, row: list[Any], donors: npt.NDArray[np.int64]
) -> list[npt.NDArray[Any]]:
    """Return each column with the values of its feature's donors, the row's own value where the donor is -1."""
    own, by_feature = np.full(len(donors), -1), np.ascontiguousarray(donors.T)
    feature = {c: j for j, group in enumerate(features) for c in group}
    return [column.taken(by_feature[feature[c]] if c in feature else own, row[c]) for c, column in enumerate(columns)]


def in_bins(columns: Columns, features: Features, row: list[Any], donors: npt.NDArray[np.int64]) -> Tensor:
    """Return which features have the bins of the row, (S, M) bool."""
    by_feature = np.ascontiguousarray(donors.T)
    same = np.ones(by_feature.shape, dtype=bool)
    for j, group in enumerate(features):
        for c in group:
            alike = columns[c].code_of_rows == columns[c].code(row[c])  # one byte a row: faster to draw from
            same[j] &= alike[by_feature[j]]
    return torch.as_tensor(same).T.contiguous()


def _donors(columns: Columns, features: Features, samples: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw a donor for each feature of each sample: the number of a training row, (S, M); not to be written to."""
    size = (len(features), len(columns[0].values), samples, seed)
    return _numbers(*size) if samples * len(features) <= REMEMBERED else _numbers.__wrapped__(*size)


@lru_cache(maxsize=1)
def _numbers(features: int, rows: int, samples: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw numbers of training rows, (S, M); the last draw is remembered for rows that are explained one by one."""
    seeds = rng.seeds(torch.tensor([[features]]), seed, stage=rng.Stream.LIME_VALUES).expand(samples)
    bits = rng.bits(seeds, features, draw=torch.arange(samples)).numpy()
    # 24 bits after the point, times the rows; in memory by features, as they are read
    numbers: npt.NDArray[np.int64] = np.asfortranarray(((bits >> 40) & 0xFFFFFF) * rows >> 24)
    numbers.flags.writeable = False
    return numbers


def _uniform(features: int, samples: int, width: int, seed: int) -> npt.NDArray[np.float64]:
    """Draw uniform numbers, (S, width)."""
    seeds = rng.seeds(torch.tensor([[features]]), seed, stage=rng.Stream.LIME_VALUES).expand(samples)
    numbers: npt.NDArray[np.float64] = rng.uniform(
        seeds, (width,), draw=torch.arange(samples), dtype=torch.float64
    ).numpy()
    return numbers


def _scaled(column: Column) -> npt.NDArray[np.float64]:
    """Return a numeric column in standard deviations from its mean, missing values at 0; else the codes."""
    if column.edges is None:
        return column.code_of_rows.astype(np.float64)
    numbers = np.array([column.mean if is_missing(v) else float(v) for v in column.values.tolist()])
    return (numbers - column.mean) / (column.sd or 1.0)


def _squares(column: Column, value: Any) -> npt.NDArray[np.float64]:
    """Return the squared distance of each training row from a value; 1 for other categories and missing values."""
    other = (column.code_of_rows != column.code(value)).astype(np.float64)
    if column.edges is None or is_missing(value):
        return other
    gone = column.code_of_rows == len(column.edges) + 1
    return np.where(gone, 1.0, (_scaled(column) - (float(value) - column.mean) / (column.sd or 1.0)) ** 2)


def _positive(scale: Any) -> float:
    """Refuse scales that are not positive."""
    if isinstance(scale, bool) or not isinstance(scale, (int, float, np.number)) or not 0 < scale < math.inf:
        raise BadInput(f"scale is {scale!r}; it is a finite number above 0")
    return cast(float, scale)
