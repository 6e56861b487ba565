"""Shares and means with their 95 % intervals."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class _Interval(BaseModel):
    """Immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Interval):
    """A share of n samples with its 95 % interval (Clopper-Pearson); value is None where n = 0."""

    value: float | None
    low: float
    high: float
    n: int


class Mean(_Interval):
    """A mean over n samples with its 95 % interval (bootstrap); all None where n = 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def share(hits: Tensor) -> Estimate:
    """A share with its Clopper-Pearson interval, which never covers less than 95 %.

    Args:
        hits: (n,) bool, or frequencies in [0, 1] whose sum is rounded.

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
    """A mean with its percentile bootstrap interval; values that are not finite are left out."""
    kept = values.detach().cpu().double().numpy()
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return Mean(value=None, low=None, high=None, n=0)
    rows = np.random.default_rng(seed).integers(len(kept), size=(draws, len(kept)))
    low, high = np.quantile(kept[rows].mean(1), [0.025, 0.975])
    return Mean(value=float(kept.mean()), low=float(low), high=float(high), n=len(kept))


def mcnemar(a: Tensor, b: Tensor) -> float:
    """The exact two-sided p-value that two attacks fool the same images equally often.

    Args:
        a: whom the first fooled, (n,) bool.
        b: whom the second fooled, on the same images, (n,) bool.

    Returns:
        McNemar's p; 1 where they agree on every image. Only the images on which they differ count.

    References:
        McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 1947.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}; they must be the same images")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)
