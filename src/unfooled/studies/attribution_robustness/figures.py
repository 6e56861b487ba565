"""Figures of the attribution-robustness study, with bootstrap intervals over images.

An image that was looked at on several seeds is one image: all its values are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from unfooled.studies.common.figures import Figures

DRAWS = 2000

Pair = tuple[np.ndarray, np.ndarray]
"""A score under a weak and under a strong perturbation, (n,) each."""


def _figures(statistic: Callable[..., np.ndarray], columns: Sequence[np.ndarray], images: np.ndarray) -> Figures:
    """`statistic(weights (m, n), *columns (n,)) -> (m,)` over the rows that are defined in every column."""
    good = np.logical_and.reduce([np.isfinite(c) for c in columns])
    if not good.any():
        return np.nan, np.nan, np.nan, 0
    kept = [c[good] for c in columns]
    unique, place = np.unique(images[good], return_inverse=True)
    n = len(unique)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)[:, place].astype(float)
    low, high = np.quantile(statistic(drawn, *kept), [0.025, 0.975])
    return float(statistic(np.ones((1, len(place))), *kept)[0]), float(low), float(high), n


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return (weights @ values) / weights.sum(1)


def _share(weights: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    return (1 - _mean(weights, weak)) / np.maximum(1 - _mean(weights, strong), 1e-9)


def average(values: np.ndarray, images: np.ndarray) -> Figures:
    """The mean."""
    return _figures(_mean, (values,), images)


def paired(a: np.ndarray, b: np.ndarray, images: np.ndarray) -> Figures:
    """Mean of a - b over the rows where both are defined."""
    return _figures(lambda w, a, b: _mean(w, a - b), (a, b), images)


def drop_share(pair: Pair, images: np.ndarray) -> Figures:
    """(1 - mean weak) / (1 - mean strong): the weak perturbation's share of the strong one's drop."""
    return _figures(_share, pair, images)


def share_gap(first: Pair, second: Pair, images: np.ndarray) -> Figures:
    """The first pair's `drop_share` minus the second's, over the same rows."""
    return _figures(lambda w, a, b, c, d: _share(w, a, b) - _share(w, c, d), (*first, *second), images)


def text(figures: Figures) -> str:
    """0.41 [0.38, 0.44]; nothing where nothing is defined."""
    value, low, high, n = figures
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if n else ""
