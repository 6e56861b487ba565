"""Selection of the features that an explanation names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.compat.lime.kernels import columns_used
from unfooled.compat.lime.ridge import fit_ridge, weighted_r2

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.intp]


def forward(data: Any, y: Array, weights: Array, limit: int) -> Ids:
    """Return the features that raise the weighted R2 most, one after another; the first one wins a tie.

    All gains of a step are read off the Gram matrix, without a fit. Where several are equal within rounding, these
    features are fitted one by one, as the original does with all of them.

    Args:
        data: features, (S, M), dense or sparse.
        y: values to fit, (S,).
        weights: weight of each sample, (S,).
        limit: features wanted.
    """
    width = data.shape[1]
    if sparse.issparse(data):
        # The original's solver for sparse rows stops early, so that its R2 is inexact: more is left to the fits.
        used_columns, x = columns_used(data)
        tolerance, score = 1e-4, sparse_score(data, y, weights)
    else:
        used_columns, x = np.arange(width), np.asarray(data, dtype=float)
        tolerance, score = 1e-8, dense_score(data, y, weights)
    idle = np.setdiff1d(np.arange(width), used_columns)
    gains = Gains(x, y, weights)
    selected: list[int] = []
    for _ in range(min(limit, width)):
        rivals = used_columns[gains.rivals(tolerance)]
        if gains.best <= tolerance and len(idle):  # columns without any value: the first stands for all
            rivals = np.sort(np.append(rivals, idle[0]))
        best = contest(rivals, selected, score)
        selected.append(best)
        if best in idle[:1]:
            idle = idle[1:]
        else:
            gains.take(int(np.searchsorted(used_columns, best)))
    return np.array(selected, dtype=np.intp)


def contest(rivals: Ids, selected: list[int], score: Callable[[list[int]], float]) -> int:
    """Return the feature with the highest score beside those selected; the first one of several."""
    if len(rivals) == 1:
        return int(rivals[0])
    scores = [score([*selected, int(feature)]) for feature in rivals]
    return int(rivals[max(range(len(scores)), key=lambda k: np.nan_to_num(scores[k], nan=-np.inf))])


def dense_score(data: Array, y: Array, weights: Array) -> Callable[[list[int]], float]:
    """Return a function from features to the weighted R2 of their fit."""

    def score(features: list[int]) -> float:
        block = np.asarray(data[:, features], dtype=float)
        intercept, coefficients = fit_ridge(block, y, weights, 0.0)
        return weighted_r2(y, block @ coefficients + intercept, weights)

    return score


def sparse_score(data: Any, y: Array, weights: Array) -> Callable[[list[int]], float]:
    """Return a function from features to the weighted R2 of the fit that scikit-learn makes of sparse rows."""
    from sklearn.linear_model import Ridge

    def score(features: list[int]) -> float:
        block = data[:, features]
        return float(Ridge(alpha=0).fit(block, y, sample_weight=weights).score(block, y, sample_weight=weights))

    return score


class Gains:
    """Gain of explained variance that each feature would add, kept current while features are taken.

    Args:
        x: features, (S, M).
        y: values to fit, (S,).
        weights: weight of each sample, (S,).
    """

    def __init__(self, x: Array, y: Array, weights: Array) -> None:
        root = np.sqrt(weights)
        centred = (x - np.average(x, axis=0, weights=weights)) * root[:, None]
        target = (y - np.average(y, weights=weights)) * root
        self.gram = centred.T @ centred
        self.left = np.diagonal(self.gram).copy()  # variance of each feature that those taken do not explain
        # Below it, a column is constant, or depends on those taken, but for rounding.
        self.least = np.maximum(1e-12 * self.left, 1e-28 * np.square(x * root[:, None]).sum(axis=0))
        self.shared = centred.T @ target
        self.total = float(target @ target)
        if self.total <= 1e-24 * float(np.square(y * root).sum()):  # a constant answer: nothing to explain
            self.total = 0.0
        self.factors: list[Array] = []
        self.free = np.ones(x.shape[1], dtype=bool)
        self.best = 0.0

    def rivals(self, tolerance: float) -> Ids:
        """Return the features whose gain of R2 is the highest, or within `tolerance` of it."""
        if self.total == 0:
            self.best = 0.0
            return np.flatnonzero(self.free)
        alive = self.left > self.least
        gain = np.zeros_like(self.left)
        gain[alive] = self.shared[alive] ** 2 / self.left[alive] / self.total
        self.best = float(gain[self.free].max(initial=0.0))
        return np.flatnonzero(self.free & (gain >= self.best - tolerance))

    def take(self, feature: int) -> None:
        """Add a feature to those taken."""
        self.free[feature] = False
        if self.left[feature] <= self.least[feature]:
            return
        factor = self.gram[feature] - sum((f[feature] * f for f in self.factors), np.zeros_like(self.left))
        factor = factor / np.sqrt(self.left[feature])
        share = self.shared[feature] / np.sqrt(self.left[feature])
        self.left = self.left - factor**2
        self.shared = self.shared - share * factor
        self.factors.append(factor)


def highest(data: Any, y: Array, weights: Array, limit: int) -> Ids:
    """Return the features with the largest |weight * value of the instance|, by a ridge of 0.01.

    A feature that is 0 in the instance comes after all others, whatever its weight.
    """
    if sparse.issparse(data):
        from sklearn.linear_model import Ridge

        coefficients = np.ravel(Ridge(alpha=0.01).fit(data, y, sample_weight=weights).coef_)
        return highest_of_sparse(coefficients * data[0].toarray().ravel(), limit)
    coefficients = fit_ridge(data, y, weights, 0.01)[1]
    return np.argsort(-np.abs(coefficients * data[0]), kind="stable")[: max(limit, 0)]


def highest_of_sparse(products: Array, limit: int) -> Ids:
    """Return the features with the largest products; with fewer than `limit`, the first other ones after them.

    Feature 0 is not among those, unless even they are too few: then it fills what is left, as in the original.
    """
    nonzero = np.flatnonzero(products)
    order = np.argsort(np.abs(products[nonzero]))
    if len(nonzero) >= limit:
        return nonzero[order[len(nonzero) - limit :][::-1]]
    others = np.setdiff1d(np.arange(1, len(products)), nonzero)
    pads = np.zeros(limit - len(nonzero), dtype=np.intp)
    pads[: len(others)] = others[: len(pads)]
    return np.concatenate([nonzero[order[::-1]], pads])


def lasso_path(data: Any, y: Array, weights: Array, limit: int, path: Callable[..., Any]) -> Ids:
    """Return the features of the last point of the lasso path that has at most `limit`.

    Args:
        data: features, (S, M).
        y: values to fit, (S,).
        weights: weight of each sample, (S,).
        limit: features wanted at most.
        path: function from weighted data and values to penalties and coefficients.
    """
    x = data.toarray() if sparse.issparse(data) else np.asarray(data)
    root = np.sqrt(weights)
    _, coefficients = path(
        (x - np.average(x, axis=0, weights=weights)) * root[:, None], (y - np.average(y, weights=weights)) * root
    )
    selected = np.arange(x.shape[1])
    for point in range(coefficients.shape[1] - 1, 0, -1):
        selected = np.flatnonzero(coefficients[:, point])
        if len(selected) <= limit:
            break
    return selected
