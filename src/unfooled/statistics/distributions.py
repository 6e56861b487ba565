"""Probabilities and quantiles of the usual distributions, without `scipy.stats`, whose import takes about a second.

    P(X >= k) = I_p(k, n - k + 1),   X binomial(n, p),   I the regularised incomplete beta function

The values are those of `scipy.stats`, up to rounding; the quantiles are the same bit for bit in one release of SciPy.
"""

from __future__ import annotations

import math
from bisect import bisect_left

import numpy as np

TINY, STEPS = 1e-300, 10_000


def at_least(hits: int, n: int, p: float) -> float:
    """Return the probability of at least so many hits in n independent trials, each a hit with probability p."""
    from scipy.special import betainc

    if hits <= 0:
        return 1.0
    return 0.0 if hits > n else float(betainc(float(hits), float(n - hits + 1), p))


def median_rank(level: float, n: int) -> int:
    """Return `binomial_quantile(level, n, 0.5)`, exactly and without SciPy."""
    rank, ways, total = 0, 1, 1
    while total < level * 2**n if n < 1000 else math.log(total) < math.log(level) + n * math.log(2):
        ways = ways * (n - rank) // (rank + 1)
        rank, total = rank + 1, total + ways
    return rank


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


def light_beta_quantile(level: float, a: float, b: float) -> float:
    """Return the quantile of the beta distribution to ten digits, without SciPy, whose import takes 0.3 seconds.

    Newton's method inside a bracket that shrinks; for what is shown, not for what is stored.
    """
    low, high = 0.0, 1.0
    p = a / (a + b)
    for _ in range(200):
        at = _incomplete_beta(a, b, p) - level
        low, high = (p, high) if at < 0 else (low, p)
        slope = math.exp(_log_beta_power(a, b, p)) / (p * (1 - p))
        following = p - at / slope if slope > TINY else low
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - p) <= 1e-13 * p:
            return following
        p = following
    return p


def _log_beta_power(a: float, b: float, p: float) -> float:
    """Return log(p^a (1 - p)^b / B(a, b))."""
    return math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(p) + b * math.log1p(-p)


def _incomplete_beta(a: float, b: float, p: float) -> float:
    """Return I_p(a, b) for 0 < p < 1, by its continued fraction (Lentz's method)."""
    if p > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - p)
    c, d = 1.0, 1 / _away(1 - (a + b) * p / (a + 1))
    value = d
    for m in range(1, STEPS):
        for term in (
            m * (b - m) * p / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * p / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return math.exp(_log_beta_power(a, b, p)) * value / a


def _away(value: float) -> float:
    """Return a number that can be divided by."""
    return value if abs(value) > TINY else TINY


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
