"""Probabilities and quantiles of the usual distributions, without `scipy.stats`, whose import takes about a second.

    P(X >= k) = I_p(k, n - k + 1),   X binomial(n, p),   I the regularised incomplete beta function

The values are those of `scipy.stats`, up to rounding; the quantiles are the same bit for bit in one release of SciPy.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np


def at_least(hits: int, n: int, p: float) -> float:
    """Return the probability of at least so many hits in n independent trials, each a hit with probability p."""
    from scipy.special import betainc

    if hits <= 0:
        return 1.0
    return 0.0 if hits > n else float(betainc(float(hits), float(n - hits + 1), p))


def at_most(hits: int, n: int, p: float) -> float:
    """Return the probability of at most so many hits in n independent trials, each a hit with probability p."""
    from scipy.special import betaincc

    if hits >= n:
        return 1.0
    return 0.0 if hits < 0 else float(betaincc(float(hits + 1), float(n - hits), p))


def hypergeometric_at_least(hits: int, population: int, marked: int, drawn: int) -> float:
    """Return the probability of at least so many marked ones among those that are drawn without replacement."""
    from scipy.special import gammaln

    k = np.arange(max(hits, 0, drawn + marked - population), min(marked, drawn) + 1)
    if hits <= max(0, drawn + marked - population):
        return 1.0

    def ways(n: int | np.ndarray, of: int | np.ndarray) -> np.ndarray:
        return np.asarray(gammaln(np.add(n, 1)) - gammaln(np.add(of, 1)) - gammaln(np.subtract(n, of) + 1))

    logs = ways(marked, k) + ways(population - marked, drawn - k) - ways(population, drawn)
    return min(1.0, float(np.exp(logs).sum()))


def binomial_quantile(level: float, n: int, p: float) -> int:
    """Return the least number that the hits of n independent trials do not exceed with probability `level`."""
    return bisect_left(range(n), level, key=lambda hits: at_most(hits, n, p))


def beta_quantile(level: float, a: float, b: float) -> float:
    """Return the quantile of the beta distribution."""
    from scipy.special import betaincinv

    return float(betaincinv(float(a), float(b), level))


def student_quantile(level: float, freedom: float) -> float:
    """Return the quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(float(freedom), level))


def normal_quantile(level: float) -> float:
    """Return the quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(level))


def normal_probabilities(ends: np.ndarray) -> np.ndarray:
    """Return the probabilities that a standard normal variable is at most these numbers."""
    from scipy.special import ndtr

    return np.asarray(ndtr(ends))
