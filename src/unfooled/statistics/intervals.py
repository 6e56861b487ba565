"""Shares and means with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
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


BLOCK = 1 << 20
"""Resampled values computed at once."""
NOTHING = Interval(np.nan, np.nan, np.nan, 0)
"""Interval for zero samples."""


class _Figures(BaseModel):
    """Figures as a record: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Figures):
    """A share of n samples with its 95 % interval (Clopper-Pearson); value is None where n = 0."""

    value: float | None
    low: float
    high: float
    n: int

    def interval(self) -> Interval:
        """Return the share as an `Interval`; `NOTHING` where n = 0."""
        return NOTHING if self.value is None else Interval(self.value, self.low, self.high, self.n)


class Mean(_Figures):
    """A mean over n samples with its 95 % interval (bootstrap); all None where n = 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def share(hits: Tensor) -> Estimate:
    """Compute a share with its Clopper-Pearson interval, whose coverage is at least 95 %.

    Args:
        hits: Hits, (n,) bool, or frequencies in [0, 1], whose sum is rounded.

    Returns:
        An `Estimate`; value None, low 0 and high 1 where n = 0.
    """
    n = len(hits)
    if n == 0:
        return Estimate(value=None, low=0.0, high=1.0, n=0)
    from scipy.stats import beta

    total = float(hits.double().sum())
    k = round(total)
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 1, n - k))
    return Estimate(value=total / n, low=low, high=high, n=n)


def mean(values: Tensor, *, seed: int = 0, draws: int = 1000) -> Mean:
    """Compute a mean with its percentile bootstrap interval; values that are not finite are left out.

    Args:
        values: Values, (n,).
        seed: Random seed of the resamples.
        draws: Number of resamples.
    """
    finite = values.detach().cpu().double().numpy()
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Mean(value=None, low=None, high=None, n=0)
    low, high = limits(_resampled(finite, seed, draws))
    return Mean(value=float(finite.mean()), low=low, high=high, n=len(finite))


def _resampled(values: np.ndarray, seed: int, draws: int) -> np.ndarray:
    """Return the means of bootstrap resamples, drawn in blocks of moderate size."""
    source, n = np.random.default_rng(seed), len(values)
    block = max(1, BLOCK // n)
    counts = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([values[source.integers(n, size=(count, n))].mean(1) for count in counts])


def limits(resampled: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % percentile interval of resampled figures."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def over_seeds(by_seed: Sequence[float], interval: Interval) -> Interval:
    """Widen an interval over images by that over seeds (Student's t), if there are at least three seeds.

    Args:
        by_seed: The figure of each seed alone.
        interval: The figure over all seeds, with its interval over images.
    """
    if len(by_seed) < 3 or not np.isfinite(interval.value):
        return interval
    from scipy.stats import t

    reach = float(t.ppf(0.975, len(by_seed) - 1)) * float(np.std(by_seed, ddof=1)) / len(by_seed) ** 0.5
    value, low, high, n = interval
    return Interval(value, min(low, value - reach), max(high, value + reach), n)
