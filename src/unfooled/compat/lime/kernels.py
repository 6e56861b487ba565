"""Distances between samples and the instance, and the weights made of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.core.errors import BadInput

Array = npt.NDArray[Any]


def exponential_kernel(d: Array, kernel_width: float) -> Array:
    """Return the weight of each sample, sqrt(exp(-d^2 / w^2))."""
    return np.sqrt(np.exp(-(d**2) / kernel_width**2))


def kernel_of(kernel: Callable[..., Any] | None, kernel_width: Any) -> Callable[[Array], Array]:
    """Return the function from distances to weights.

    Args:
        kernel: function of distances and `kernel_width`; None: the exponential kernel.
        kernel_width: width, above 0.

    Raises:
        BadInput: a width of 0 or less.
    """
    if kernel is not None and not callable(kernel):
        raise BadInput(f"kernel must be a function of distances and kernel_width, or None, not {kernel!r}")
    if kernel is None and not (isinstance(kernel_width, (int, float, np.number)) and kernel_width > 0):
        raise BadInput(f"kernel_width must be above 0, not {kernel_width!r}")
    return partial(exponential_kernel if kernel is None else kernel, kernel_width=kernel_width)


def distances_to_first(data: Any, metric: Any) -> Array:
    """Return the distance of each row to the first one.

    The operations are those of scikit-learn, to the last bit in most cases: where a model's answer is constant, the
    rounding of the weights decides which features an explanation names.

    Args:
        data: rows, dense or sparse.
        metric: "cosine", "euclidean", or any other of `sklearn.metrics.pairwise_distances`, functions too.
    """
    if metric not in ("cosine", "euclidean"):
        from sklearn.metrics import pairwise_distances

        # The data as they are: some metrics want them dense, others sparse, as in the original.
        first = data[0] if sparse.issparse(data) else data[0].reshape(1, -1)
        try:
            return np.asarray(pairwise_distances(data, first, metric=metric)).ravel()
        except ValueError as error:
            if "metric" not in str(error):
                raise
            raise BadInput(
                f"distance_metric must be one of sklearn.metrics.pairwise_distances, such as cosine, not {metric!r}"
            ) from error
    x = data.tocsr().astype(float) if sparse.issparse(data) else np.asarray(data, dtype=float)
    squares = square_sums(x)
    if metric == "euclidean":
        return np.sqrt(np.maximum(-2 * product_with_first(x) + squares + squares[0], 0))
    norms = np.sqrt(squares)
    norms[norms == 0] = 1.0
    if not isinstance(x, np.ndarray):
        x = sparse.csr_matrix((x.data / np.repeat(norms, np.diff(x.indptr)), x.indices, x.indptr), shape=x.shape)
    else:
        x = x / norms[:, None]
    return np.clip(1 - product_with_first(x), 0, 2)


def square_sums(x: Any) -> Array:
    """Return the sum of squares of each row."""
    if sparse.issparse(x):
        rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
        return np.bincount(rows, x.data**2, x.shape[0])
    return np.einsum("ij,ij->i", x, x)


def product_with_first(x: Any) -> Array:
    """Return the scalar product of each row with the first one."""
    if sparse.issparse(x):
        return np.ravel((x @ x[:1].T).toarray())
    return np.ravel(x @ x[0].reshape(1, -1).T)


def columns_used(data: Any) -> tuple[npt.NDArray[np.intp], Array]:
    """Return the columns of a sparse matrix that hold anything, and these columns as a dense array."""
    rows = data.tocsr()
    columns = np.unique(rows.indices)
    return columns, rows[:, columns].toarray().astype(float)
