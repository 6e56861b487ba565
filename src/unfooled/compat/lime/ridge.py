"""Ridge regression with sample weights, in closed form.

b, v = argmin  sum_i w_i (y_i - b - v . z_i)^2 + alpha ||v||^2        the intercept b is not penalised
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import linalg

Array = npt.NDArray[Any]


def fit_ridge(data: Array, y: Array, weights: Array, alpha: float) -> tuple[float, Array]:
    """Return the intercept and the coefficients.

    The operations and their order are those of scikit-learn's `Ridge`, so that even the last bits agree in most cases:
    where several features explain equally much (none, say), rounding decides which of them is selected.

    Args:
        data: features, (S, M).
        y: values to fit, (S,).
        weights: weight of each sample, (S,), at least 0, not all 0.
        alpha: penalty.
    """
    x = np.array(data, dtype=float)
    x_mean = np.average(x, axis=0, weights=weights)
    x -= x_mean
    target = y.astype(float)
    y_mean = np.average(target, axis=0, weights=weights)
    target -= y_mean
    root = np.sqrt(weights)
    x *= root[:, None]
    target *= root
    coefficients = solve(x, target, alpha)
    return float(y_mean - x_mean @ coefficients), coefficients


def solve(x: Array, y: Array, alpha: float) -> Array:
    """Return the coefficients for centred and weighted data."""
    samples, features = x.shape
    if features == 0:
        return np.zeros(0)
    wide = features > samples
    gram = x @ x.T if wide else x.T @ x
    gram.flat[:: len(gram) + 1] += alpha
    column = y[:, None]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", linalg.LinAlgWarning)
            solution = linalg.solve(gram, column if wide else x.T @ column, assume_a="pos", overwrite_a=True)
        return np.ravel(x.T @ solution if wide else solution)
    except linalg.LinAlgError:  # without a penalty, columns that depend on each other
        u, s, vt = linalg.svd(x, full_matrices=False)
        shrink = np.zeros_like(s)
        shrink[s > 1e-15] = s[s > 1e-15] / (s[s > 1e-15] ** 2 + alpha)
        return np.ravel(vt.T @ (shrink[:, None] * (u.T @ column)))


def weighted_r2(y: Array, fitted: Array, weights: Array) -> float:
    """Return the share of the weighted variance that is explained; NaN for fewer than two samples."""
    if len(y) < 2:
        return float("nan")
    target, answer, w = (np.asarray(a, dtype=float)[:, None] for a in (y, fitted, weights))
    left = float(np.sum(w * (target - answer) ** 2, axis=0)[0])
    total = float(np.sum(w * (target - np.average(target, axis=0, weights=weights)) ** 2, axis=0)[0])
    if total == 0:
        return 1.0 if left == 0 else 0.0
    return 1 - left / total
