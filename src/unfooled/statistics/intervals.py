"""Shares and means with their 95 % intervals.

    share           share of hits: Clopper-Pearson
    mean_of_shares  mean of values in [0, 1], such as frequencies over draws: Gaffke; for hits it equals Clopper-Pearson
    share_lost      part of a mean that is lost, such as of the clean accuracy of a random model under attack
    mean            mean of any values: the union of Student's interval and the studentised bootstrap's

For Gaffke's interval, the smallest possible value is added to the sample for its lower end, the largest for its upper
end, and the values get random weights (Dirichlet, all 1): the ends are quantiles of the weighted mean. Its width is
never 0. Student's interval alone covers too little where values are skewed, the bootstrap's where there are few.

References:
    Clopper, Pearson, The use of confidence or fiducial limits, Biometrika 1934.
    Gaffke, Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable,
    Mathematical Methods of Statistics 2005.
    Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 12 (bootstrap-t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from unfooled.statistics.distributions import (
    beta_quantile,
    normal_probabilities,
    normal_quantile,
    student_quantile,
)

if TYPE_CHECKING:
    from torch import Tensor


class Interval(NamedTuple):
    """A figure with its 95 % interval.

    Attributes:
        value: The figure; NaN for no samples.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of samples.
    """

    value: float
    low: float
    high: float
    n: int

    def complement(self) -> Interval:
        """Return the interval of 1 minus the figure."""
        return Interval(1 - self.value, 1 - self.high, 1 - self.low, self.n)

    def text(self, digits: int = 3) -> str:
        """Format as "0.829 [0.821, 0.836]"; empty for no samples."""
        if not np.isfinite(self.value):
            return ""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


ROUND_OFF = 1e-6  # round-off allowed in records

NO_SAMPLES = Interval(np.nan, np.nan, np.nan, 0)
"""Interval for zero samples."""


class _Figures(BaseModel):
    """Figures as a record: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Figures):
    """A share of n samples, or a mean of frequencies, with its 95 % interval; value is None where n = 0."""

    value: float | None = Field(ge=0, le=1, allow_inf_nan=False)
    low: float = Field(ge=0, le=1, allow_inf_nan=False)
    high: float = Field(ge=0, le=1, allow_inf_nan=False)
    n: int = Field(ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Estimate:
        """Raise if the numbers contradict each other."""
        _check_figure(self.value, self.low, self.high, self.n)
        return self

    def interval(self) -> Interval:
        """Return the share as an `Interval`; `NO_SAMPLES` where n = 0."""
        return NO_SAMPLES if self.value is None else Interval(self.value, self.low, self.high, self.n)


class Mean(_Figures):
    """A mean, or a correlation, over n samples with its 95 % interval; all None where n = 0.

    A correlation is None for fewer than three samples and for constant ones, too; a single value has no interval.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int = Field(ge=0)

    @model_validator(mode="after")
    def _possible(self) -> Mean:
        """Raise if the numbers contradict each other."""
        _check_figure(self.value, self.low, self.high, self.n if self.value is not None else 0)
        return self


def _check_figure(value: float | None, low: float | None, high: float | None, n: int) -> None:
    """Raise if a value comes without samples, is missing despite samples, or lies outside of its interval."""
    if (value is None) != (n == 0):
        raise ValueError(f"the figure is {value} of {n} samples")
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"the interval goes from {low:g} to {high:g}")
    if value is not None and low is not None and high is not None and not low - ROUND_OFF <= value <= high + ROUND_OFF:
        raise ValueError(f"the figure {value:g} lies outside of its interval, {low:g} to {high:g}")


def share(hits: Tensor) -> Estimate:
    """Compute a share with its Clopper-Pearson interval, whose coverage is at least 95 %.

    Args:
        hits: Hits, (n,) bool, or frequencies in [0, 1], whose sum is rounded to a number of hits.

    Returns:
        An `Estimate`; value None, low 0 and high 1 where n = 0.
    """
    return share_of_hits(float(hits.double().sum()), len(hits))


def share_of_hits(
    total: float, n: int, *, quantile: Callable[[float, float, float], float] = beta_quantile
) -> Estimate:
    """Compute a share from its counts, see `share`.

    Args:
        total: Number of hits, or a sum of frequencies.
        n: Number of samples.
        quantile: Quantile of the beta distribution; `light_beta_quantile` for what is only shown.
    """
    if n == 0:
        return Estimate(value=None, low=0.0, high=1.0, n=0)
    k = round(total)
    low = 0.0 if k == 0 else quantile(0.025, k, n - k + 1)
    high = 1.0 if k == n else quantile(0.975, k + 1, n - k)
    return Estimate(value=total / n, low=low, high=high, n=n)


GAFFKE_DRAWS = 10_000
"""Number of random weightings of the values for the ends of Gaffke's interval."""
MAX_SKEW_CORRECTED = 2000
"""Number of samples above which Student's interval is used alone, since skew then hardly matters."""
UNBOUNDED = (-math.inf, math.inf)
"""Range of values that are not bounded."""


def mean_of_shares(shares: Tensor) -> Estimate:
    """Compute the mean of values in [0, 1] with an interval that covers at least 95 % and never has width 0.

    Args:
        shares: One value per sample, such as the share of a random model's draws that are right, (n,).

    Returns:
        An `Estimate`; value None, low 0 and high 1 where n = 0. The interval covers the randomness of samples and
        of draws, since each value contains the randomness of its draws.
    """
    values = shares.detach().cpu().double().numpy()
    if not len(values) or bool(np.isin(values, (0.0, 1.0)).all()):
        return share(shares.detach().cpu() > 0.5)
    low, high = _gaffke(values)
    return Estimate(value=float(values.mean()), low=low, high=high, n=len(values))


def share_lost(before: Tensor, after: Tensor) -> Estimate:
    """Compute the part of a mean that is lost, 1 - mean(after) / mean(before), at least 0, with its interval.

    Args:
        before: Values in [0, 1], (n,).
        after: Values in [0, 1] of the same samples, (n,).

    Returns:
        An `Estimate` over the samples; value None where the first mean is 0. The interval is the union of that of the
        mean of the linearised ratio and of Gaffke's, since what a few samples lose says little about the others.
    """
    a, b = before.detach().cpu().double(), after.detach().cpu().double()
    whole = float(a.mean()) if len(a) else 0.0
    if whole == 0:
        return Estimate(value=None, low=0.0, high=1.0, n=0)
    lost = 1 - float(b.mean()) / whole
    parts = lost + ((a - b) - lost * a) / whole
    ratio = mean(parts)
    edges = mean_of_shares(parts.clamp(0, 1))
    low, high = min(edges.low, lost if ratio.low is None else ratio.low), max(edges.high, ratio.high or 0.0)
    value = min(max(lost, 0.0), 1.0)
    return Estimate(value=value, low=min(max(low, 0.0), value), high=max(min(high, 1.0), value), n=len(a))


def _gaffke(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of Gaffke's interval for values in [0, 1]."""
    levels, counts = np.unique(values, return_counts=True)
    draw = np.random.default_rng(0)
    weights = draw.gamma(counts, size=(GAFFKE_DRAWS, len(levels)))
    extra = draw.exponential(size=GAFFKE_DRAWS)
    weighted, total = weights @ levels, weights.sum(1) + extra
    low, high = np.quantile(weighted / total, 0.025), np.quantile((weighted + extra) / total, 0.975)
    return min(float(low), float(values.mean())), max(float(high), float(values.mean()))


def mean(values: Tensor, *, within: tuple[float, float] = UNBOUNDED, seed: int = 0, draws: int = 999) -> Mean:
    """Compute a mean with an interval that covers 95 % down to some ten samples; values not finite are left out.

    Args:
        values: Values, (n,).
        within: Smallest and largest value possible; the interval is clipped to them. Where all values are equal and
            both are finite, it is Gaffke's.
        seed: Random seed of the resamples.
        draws: Number of resamples.
    """
    finite = values.detach().cpu().double().numpy()
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Mean(value=None, low=None, high=None, n=0)
    value = float(finite.mean())
    low, high = mean_limits(finite, within, np.random.default_rng(seed), draws)
    return Mean(value=value, low=low, high=high, n=len(finite))


def median_limits(values: Tensor) -> tuple[float, float, float]:
    """Return the lower end of the median's interval, the median, and the upper end; infinite values are allowed.

    The ends are order statistics, whose coverage is at least 95 % for any distribution (binomial, p = 1/2); -inf and
    inf where there are too few values, below 6.
    """
    ordered = values.detach().cpu().double().sort().values.tolist()
    n, tail, skipped = len(ordered), 0.0, 0
    while n and (tail := tail + math.comb(n, skipped) / 2**n) <= 0.025:
        skipped += 1
    middle = ordered[(n - 1) // 2] if n else math.nan
    return (ordered[skipped - 1], middle, ordered[n - skipped]) if skipped else (-math.inf, middle, math.inf)


def mean_limits(
    values: np.ndarray, within: tuple[float, float], draw: np.random.Generator, draws: int
) -> tuple[float, float] | tuple[None, None]:
    """Return the ends of the interval of a mean, see `mean`; None for a single value without bounds.

    Args:
        values: Finite values, (n,), n at least 1.
        within: Smallest and largest value possible.
        draw: Source of the resamples.
        draws: Number of resamples.
    """
    n, bottom, top = len(values), *within
    if np.ptp(values) == 0 or n == 1:
        if math.isfinite(bottom) and math.isfinite(top):
            low, high = _gaffke((values - bottom) / (top - bottom))
            return bottom + low * (top - bottom), bottom + high * (top - bottom)
        return (None, None) if n == 1 else (float(values[0]), float(values[0]))
    return spread_limits(values, within, draw, draws)


def spread_limits(
    values: np.ndarray, within: tuple[float, float], draw: np.random.Generator, draws: int
) -> tuple[float, float]:
    """Return the ends of the interval of a mean of values that are not all equal, see `mean_limits`."""
    n, (bottom, top) = len(values), within
    value, error = float(values.mean()), float(values.std(ddof=1)) / n**0.5
    reach = student_quantile(0.975, n - 1)
    below, above = -reach, reach
    if n <= MAX_SKEW_CORRECTED:
        first, last = _studentised(values, draw, draws)
        below, above = min(below, first), max(above, last)
    low, high = value - above * error, value - below * error
    return max(low, bottom), min(high, top)


def _studentised(values: np.ndarray, draw: np.random.Generator, draws: int) -> tuple[float, float]:
    """Return the quantiles of (mean of a resample - mean) / its standard error; undefined ratios (0 / 0) are left out.

    A resample of equal values has standard error 0, and its ratio is infinite; an infinite quantile is replaced by the
    farthest finite ratio.
    """
    n = len(values)
    resampled = values[draw.integers(n, size=(draws, n))]
    shift, error = resampled.mean(1) - values.mean(), resampled.std(1, ddof=1) / n**0.5
    flat = error <= 1e-9 * values.std()
    ends = np.where(shift > 0, np.inf, -np.inf)
    ratio = np.sort(np.where(flat, ends, shift / np.where(flat, 1.0, error))[~flat | (shift != 0)])
    low, high = np.quantile(ratio, 0.025, method="lower"), np.quantile(ratio, 0.975, method="higher")
    inner = ratio[np.isfinite(ratio)]
    return (float(max(low, inner[0])), float(min(high, inner[-1]))) if len(inner) else (0.0, 0.0)


def limits(resampled: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of resampled figures."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def corrected_limits(value: float, resampled: np.ndarray, left_out: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a resampled figure: bias-corrected, accelerated, with quantiles of t.

    Args:
        value: The figure.
        resampled: Figures of the resamples, (draws,), finite.
        left_out: Figures without one sample each, (n,); those that are not finite are left out.

    References:
        Efron, Better bootstrap confidence intervals, JASA 1987. Hesterberg, What teachers should know about the
        bootstrap, The American Statistician 2015 (the quantiles of t in place of the normal's).
    """
    left_out = left_out[np.isfinite(left_out)]
    n = len(left_out)
    if n < 2:
        return limits(resampled)
    apart = left_out.mean() - left_out
    spread = float((apart**2).sum()) ** 1.5
    skew = float((apart**3).sum()) / (6 * spread) if spread > 0 else 0.0
    below = float(((resampled < value) + 0.5 * (resampled == value)).mean())
    bias = normal_quantile(min(max(below, 1e-3), 1 - 1e-3))
    reach = (n / (n - 1)) ** 0.5 * student_quantile(0.975, n - 1)
    moved = [bias + (bias + z) / max(1 - skew * (bias + z), 0.05) for z in (-reach, reach)]
    low, high = np.quantile(resampled, normal_probabilities(np.array(moved)))
    return min(float(low), value), max(float(high), value)


def over_seeds(by_seed: Sequence[float], interval: Interval) -> Interval:
    """Widen an interval over images by that over seeds (Student's t), if there are at least three seeds.

    Args:
        by_seed: The figure of each seed alone.
        interval: The figure over all seeds, with its interval over images.
    """
    if len(by_seed) < 3 or not np.isfinite(interval.value):
        return interval
    reach = student_quantile(0.975, len(by_seed) - 1) * float(np.std(by_seed, ddof=1)) / len(by_seed) ** 0.5
    value, low, high, n = interval
    return Interval(value, min(low, value - reach), max(high, value + reach), n)
