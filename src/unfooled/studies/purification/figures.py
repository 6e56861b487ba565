"""Figures of the study of purification: means and paired differences over images, made from the stored columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unfooled.statistics.association import mean_of, quantile_of
from unfooled.statistics.bootstrap import Cases, discrete_mean
from unfooled.statistics.intervals import NO_SAMPLES, Interval
from unfooled.studies.common.records import array
from unfooled.studies.purification.judging import ATTACKS, BLACK, CARRIED, WORST
from unfooled.studies.purification.scale import NONE
from unfooled.studies.purification.units import Judged, Moved

BySeed = dict[int, np.ndarray]
"""Seed -> one value for each image."""
Cell = tuple[str, str]
"""Names of a network and a purifier."""


def interval(values: BySeed) -> Interval:
    """Return the mean over images in [-1, 1], with its interval over images and seeds; NaN is left out."""
    rows = {seed: one for seed, one in values.items() if np.isfinite(one).any()}
    if not rows:
        return NO_SAMPLES
    every = np.concatenate(list(rows.values()))
    if len(rows) == 1 or len(np.unique(every[np.isfinite(every)])) == 1:
        return discrete_mean(every)
    return Cases(tuple({"id": np.arange(len(one)), "value": one} for one in rows.values())).interval(
        mean_of("value"), ["value"]
    )


def median_interval(values: BySeed) -> Interval:
    """Return the median over images, with its interval; NaN is left out."""
    rows = [one for one in values.values() if np.isfinite(one).any()]
    if not rows:
        return NO_SAMPLES
    return Cases(tuple({"id": np.arange(len(one)), "value": one} for one in rows)).interval(
        quantile_of("value", 0.5), ["value"]
    )


def minus(a: BySeed, b: BySeed) -> BySeed:
    """Return a - b, paired by image, for the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b and len(a[seed]) == len(b[seed])}


def every_second(values: BySeed, first: int) -> BySeed:
    """Return every second image, from `first` on."""
    return {seed: one[first::2] for seed, one in values.items()}


@dataclass(frozen=True)
class Grid:
    """The grid of networks, purifiers and attacks.

    Attributes:
        rows: Records of all seeds.
        radii: Radii in increasing order.
    """

    rows: Sequence[Judged]
    radii: Sequence[float]

    @property
    def cells(self) -> list[Cell]:
        """Networks and purifiers, in their order."""
        return list(dict.fromkeys((row.network, row.purifier) for row in self.rows))

    def column(self, network: str, purifier: str, attack: str, eps: float) -> BySeed:
        """Return 1 for each image that is classified correctly, else 0, by seed; empty where this was not measured.

        The bare network's "static" column is that of the attack on itself. WORST counts points of smaller radii, too.
        """
        if attack == WORST and (carried := self._stored(network, purifier, CARRIED, eps)):
            return carried
        if attack == WORST:
            columns = [self._stored(network, purifier, attack, radius) for radius in self.radii if radius <= eps]
            return {seed: np.minimum.reduce([one[seed] for one in columns]) for seed in (columns[0] if columns else {})}
        return self._stored(network, purifier, attack, eps)

    def _stored(self, network: str, purifier: str, attack: str, eps: float) -> BySeed:
        return {
            row.seed: array(row.columns[f"{attack}, {eps:g}"])
            for row in self.rows
            if (row.network, row.purifier) == (network, purifier) and f"{attack}, {eps:g}" in row.columns
        }

    def pair(self, a: Cell, b: Cell, attack: str, eps: float) -> tuple[BySeed, BySeed]:
        """Return two columns; under the worst attack without the black box, unless both cells were attacked by it."""
        if attack != WORST or all(self._stored(*cell, BLACK, eps) for cell in (a, b)):
            return self.column(*a, attack, eps), self.column(*b, attack, eps)
        return self.without_black_box(a, eps), self.without_black_box(b, eps)

    def without_black_box(self, cell: Cell, eps: float) -> BySeed:
        """Return which images are right under every attack but the black box, at this radius and smaller ones."""
        if not self._stored(*cell, BLACK, eps) and (worst := self.column(*cell, WORST, eps)):
            return worst
        kinds = [kind for kind in (*ATTACKS, WORST) if kind != BLACK]
        known = any(kind in ATTACKS and self._stored(*cell, kind, eps) for kind in kinds)
        kinds = [kind for kind in kinds if (kind != WORST) == known]
        columns = [self._stored(*cell, kind, radius) for kind in kinds for radius in self.radii if radius <= eps]
        columns = [one for one in columns if one]
        return {seed: np.minimum.reduce([one[seed] for one in columns]) for seed in (columns[0] if columns else {})}

    def share(self, network: str, purifier: str, attack: str, eps: float) -> Interval:
        """Return the accuracy under an attack."""
        return bounded(interval(self.column(network, purifier, attack, eps)))

    def gap(self, a: Cell, b: Cell, attack: str, eps: float) -> Interval:
        """Return the accuracy of one cell less that of another, paired; static: the bare one under its own attack."""
        return interval(minus(*self.pair(a, b, attack, eps)))

    def raw_rises(self) -> list[str]:
        """Return cells whose accuracy under the worst attack rises with eps before points are carried over."""
        rising = []
        for network, purifier in self.cells:
            means = [_mean(self._stored(network, purifier, WORST, eps)) for eps in self.radii]
            if any(later > sooner + 1e-9 for sooner, later in pairwise(means)):
                rising.append(f"{network} behind {purifier}")
        return rising

    def best(self, eps: float, plain: str, others: Sequence[Cell]) -> tuple[Cell | None, Interval]:
        """Choose the best cell on every second image, and compare it with plain training on the other images."""
        base = self.without_black_box((plain, NONE), eps)
        gaps = {cell: minus(self.without_black_box(cell, eps), base) for cell in others}
        gaps = {cell: gap for cell, gap in gaps.items() if gap}
        if not gaps:
            return None, NO_SAMPLES
        best = max(gaps, key=lambda cell: _mean(every_second(gaps[cell], 0)))
        return best, interval(every_second(gaps[best], 1))


def _mean(values: BySeed) -> float:
    return float(np.nanmean(np.concatenate(list(values.values())))) if values else float("nan")


def bounded(figure: Interval) -> Interval:
    """Return an interval of a share, clipped to [0, 1]."""
    value, low, high, n = figure
    return Interval(value, max(low, 0.0), min(high, 1.0), n) if n else figure


def column_of(rows: Sequence[Judged], network: str, purifier: str, field: str, key: str) -> BySeed:
    """Return a column of `assigned`, `left` or `sure`, by seed."""
    return {
        row.seed: array(getattr(row, field)[key])
        for row in rows
        if (row.network, row.purifier) == (network, purifier) and key in getattr(row, field)
    }


def by_name(rows: Sequence[Moved]) -> dict[str, list[Moved]]:
    """Return records by their names, in the order of the first of each."""
    groups: dict[str, list[Moved]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    return groups
