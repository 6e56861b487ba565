"""Means and standard deviations of a table's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array = npt.NDArray[Any]


class Scaler:
    """Means and standard deviations of the columns, read like scikit-learn's `StandardScaler(with_mean=False)`.

    Attributes:
        mean_: Mean of each column, without NaN.
        var_: Variance of each column.
        scale_: Standard deviation; 1 for a constant column.
    """

    with_mean = False
    with_std = True

    def fit(self, data: Any, y: Any = None) -> Scaler:
        """Read the columns of a table.

        Args:
            data: table, (n, M), dense or sparse.
            y: ignored.
        """
        if sparse.issparse(data):
            self.mean_, self.var_, counts = sparse_moments(data.tocsc())
        else:
            x = np.asarray(data, dtype=float)
            there = ~np.isnan(x)
            counts = there.sum(axis=0)
            divisor = np.maximum(counts, 1)
            self.mean_ = np.where(there, x, 0).sum(axis=0) / divisor
            deviation = np.where(there, x - self.mean_, 0)
            # The second term is 0 but for rounding.
            self.var_ = ((deviation**2).sum(axis=0) - deviation.sum(axis=0) ** 2 / divisor) / divisor
        self.n_samples_seen_ = counts
        eps = np.finfo(float).eps
        constant = self.var_ <= counts * eps * self.var_ + (counts * self.mean_ * eps) ** 2
        self.scale_ = np.sqrt(self.var_)
        self.scale_[constant | (self.scale_ == 0)] = 1.0
        return self

    def transform(self, data: Any) -> Any:
        """Return a table divided by the standard deviations."""
        return data.multiply(1 / self.scale_).tocsr() if sparse.issparse(data) else np.asarray(data) / self.scale_

    def inverse_transform(self, data: Any) -> Any:
        """Return a table multiplied by the standard deviations."""
        return data.multiply(self.scale_).tocsr() if sparse.issparse(data) else np.asarray(data) * self.scale_


def sparse_moments(data: Any) -> tuple[Array, Array, Array]:
    """Return mean, variance and number of values of each column of a sparse matrix, absent entries being 0."""
    rows, width = data.shape
    column = np.repeat(np.arange(width), np.diff(data.indptr))
    values = data.data.astype(float)
    mean = np.bincount(column, values, width) / max(rows, 1)
    squares = np.bincount(column, (values - mean[column]) ** 2, width)
    absent = rows - np.bincount(column, minlength=width)
    return mean, (squares + absent * mean**2) / max(rows, 1), np.full(width, rows)
