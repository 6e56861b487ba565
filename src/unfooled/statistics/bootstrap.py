"""Bootstrap intervals; every statistic is a function of weights, so that all share one resampling.

resample     draws of *images* with replacement; all rows of an image, of every seed, are drawn together
statistic    (columns (n,), weights (D, n)) -> (D,): weights of 1 give the figure, counts its resampled value
figure       the mean over seeds of the statistic of each seed's rows: networks of different scale are never pooled
interval     95 % from 2,000 resamples: corrected for bias, skew and few images, see `corrected_limits`

In shapes, n is the number of rows, D the number of rows of weights (resamples).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unfooled.statistics.intervals import NO_SAMPLES, Interval, corrected_limits, limits, spread_limits

DRAWS = 2000
"""Number of resamples for an interval."""
MIN_SAMPLES = 10
"""Fewest samples, also of the smaller of two groups, for which `Cases` returns a figure."""

MAX_CORRECTED = 400
"""Images up to which intervals are corrected; beyond, the middle 95 % of the resamples is the same."""

Columns = Mapping[str, np.ndarray]
"""Measures by name, (n,) each, one entry per row; "id" is the image."""
Statistic = Callable[[Columns, np.ndarray], np.ndarray]
"""(columns (n,) of one seed, weights (D, n), one row per resample) -> (D,); NaN where undefined."""


@dataclass(frozen=True)
class Cases:
    """Measures of the same images, seed by seed.

    Attributes:
        seeds: Columns of each seed; an image has the same "id" in all of them.
    """

    seeds: tuple[Columns, ...]

    @property
    def n(self) -> int:
        """Number of rows of all seeds."""
        return sum(len(columns["id"]) for columns in self.seeds)

    def interval(self, statistic: Statistic, needed: Sequence[str], *, draws: int = DRAWS) -> Interval:
        """Compute a figure with its 95 % interval over images.

        Args:
            statistic: Function of columns and weights.
            needed: Columns that must be finite; other rows are left out.
            draws: Number of resamples.
        """
        return self.tested(statistic, needed, 0.0, draws=draws)[0]

    def tested(
        self, statistic: Statistic, needed: Sequence[str], bound: float, *, draws: int = DRAWS
    ) -> tuple[Interval, float]:
        """Compute a figure with its interval, and the two-sided bootstrap p-value of the hypothesis that it is `bound`.

        Returns:
            The interval and p; both NaN where the statistic is defined for fewer than half of the resamples.
        """
        value, resampled, n = self._resampled(statistic, needed, draws)
        if len(resampled) < draws / 2:
            return NO_SAMPLES._replace(n=n), np.nan
        ends = _ends(statistic, [finite_rows(c, needed) for c in self.seeds], value, resampled)
        tail = min((resampled <= bound).sum(), (resampled >= bound).sum())
        return Interval(value, *ends, n), float(min(1.0, 2 * (tail + 1) / (len(resampled) + 1)))

    def by_seed(self, statistic: Statistic, needed: Sequence[str]) -> list[float]:
        """Return the figure of each seed alone, without seeds for which it is NaN."""
        values = [Cases((columns,))._resampled(statistic, needed, 1)[0] for columns in self.seeds]
        return [v for v in values if np.isfinite(v)]

    def _resampled(self, statistic: Statistic, needed: Sequence[str], draws: int) -> tuple[float, np.ndarray, int]:
        """Return the figure, the finite figures of the resamples, and n."""
        seeds = [finite_rows(columns, needed) for columns in self.seeds]
        n = sum(len(columns["id"]) for columns in seeds)
        if n < MIN_SAMPLES:
            return np.nan, np.zeros(0), n
        value, resampled = resample(statistic, seeds, draws)
        return value, resampled[np.isfinite(resampled)], n


def over_images(statistic: Statistic, columns: Columns) -> Interval:
    """Compute a figure over rows that are finite in every column; its n counts images, not rows."""
    rows = finite_rows(columns, list(columns))
    if not len(rows["id"]):
        return NO_SAMPLES
    value, resampled = resample(statistic, [rows], DRAWS)
    return Interval(value, *_ends(statistic, [rows], value, resampled), len(np.unique(rows["id"])))


def _ends(statistic: Statistic, seeds: Sequence[Columns], value: float, resampled: np.ndarray) -> tuple[float, float]:
    """Return the ends of the interval of a resampled figure."""
    ids, place = np.unique(np.concatenate([c["id"] for c in seeds]), return_inverse=True)
    good = resampled[np.isfinite(resampled)]
    if len(ids) > MAX_CORRECTED or len(ids) < 2 or not len(good):
        return limits(resampled)
    without, start, left_out = 1 - np.eye(len(ids)), 0, []
    for c in seeds:
        rows = place[start : start + len(c["id"])]
        start += len(rows)
        if len(rows) and np.isfinite(statistic(c, np.ones((1, len(rows))))[0]):
            left_out.append(statistic(c, without[:, rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # mean of no values, for an image that no seed has
        return corrected_limits(value, good, np.nanmean(left_out, axis=0))


def resample(statistic: Statistic, seeds: Sequence[Columns], draws: int) -> tuple[float, np.ndarray]:
    """Compute a statistic, averaged over seeds, of all images and of samples of them with replacement.

    Args:
        statistic: Function of columns and weights; seeds for which it is NaN are left out.
        seeds: Columns of each seed, with an "id".
        draws: Number of resamples.

    Returns:
        The figure, and the figures of the resamples, (draws,); NaN and an empty array where it is NaN for every seed.
    """
    ids, place = np.unique(np.concatenate([columns["id"] for columns in seeds]), return_inverse=True)
    counts = image_counts(len(ids), draws)
    resampled, values, start = [], [], 0
    for columns in seeds:
        rows = place[start : start + len(columns["id"])]
        start += len(rows)
        value = statistic(columns, np.ones((1, len(rows))))[0] if len(rows) else np.nan
        if np.isfinite(value):
            resampled.append(statistic(columns, counts[:, rows]))
            values.append(value)
    if not values:
        return np.nan, np.zeros(0)
    return float(np.mean(values)), np.mean(resampled, axis=0)


@lru_cache(maxsize=8)
def image_counts(n: int, draws: int) -> np.ndarray:
    """Return how often each of n images is in each resample, (draws, n)."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def finite_rows(columns: Columns, needed: Sequence[str]) -> Columns:
    """Return the rows in which all `needed` columns are finite."""
    good = np.logical_and.reduce([np.isfinite(columns[name]) for name in needed])
    return {name: values[good] for name, values in columns.items()}


def discrete_mean(values: np.ndarray, draws: int = DRAWS) -> Interval:
    """Compute the mean of values in [-1, 1] with few distinct levels, such as shares and their differences.

    The counts of the levels in a resample are multinomial: 2,000 resamples of 10,000 images cost no more than 2,000
    draws of a few counts. Up to `MAX_CORRECTED` values the interval is that of `intervals.mean`, since the percentile
    bootstrap is too narrow there. Where all values are equal, a bootstrap has no spread. The interval then reaches as
    far as the mean would move if a share 1 - .025^(1/n) of the values, the Clopper-Pearson bound for an event that
    occurred in none of n samples, differed by 1.

    Args:
        values: Values, (n,); those that are not finite are left out.
        draws: Number of resamples.
    """
    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    n = int(counts.sum())
    if not n:
        return NO_SAMPLES
    if len(levels) > 1 and n <= MAX_CORRECTED:
        low, high = spread_limits(np.repeat(levels, counts), (-1.0, 1.0), np.random.default_rng(0), draws)
        return Interval(float(levels @ counts / n), low, high, n)
    low, high = limits(np.random.default_rng(0).multinomial(n, counts / n, size=draws) @ levels / n)
    if len(levels) == 1:
        unseen = 1 - 0.025 ** (1 / n)
        low, high = max(low - unseen, -1.0), min(high + unseen, 1.0)
    return Interval(float(levels @ counts / n), low, high, n)
