"""Rows drawn around an instance, in the original's order of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from unfooled.compat.lime.checks import numbers
from unfooled.compat.lime.discretize import BaseDiscretizer
from unfooled.compat.lime.scaling import Scaler
from unfooled.core.errors import BadInput

Array = npt.NDArray[Any]


class Table(Protocol):
    """Attributes of an explainer that the sampling reads."""

    random_state: np.random.RandomState
    discretizer: BaseDiscretizer | None
    scaler: Scaler
    sample_around_instance: bool
    categorical_features: list[int]
    feature_values: dict[int, Any]
    feature_frequencies: dict[int, Array]


def frequencies(
    table: Any, columns: Sequence[int], stats: dict[str, Any] | None
) -> tuple[dict[int, Any], dict[int, Array]]:
    """Return the values of each column, sorted, and their shares.

    Args:
        table: training data, with bins in place of values where there are bins.
        columns: columns of categories or bins.
        stats: statistics in place of the data; their order is used as it is. None: counted.
    """
    if stats is None and len(columns) and sparse.issparse(table):
        raise BadInput("categorical_features need dense training_data; leave them out for a sparse table")
    values, shares = {}, {}
    for column in columns:
        if stats is not None:
            seen, counts = stats["feature_values"][column], stats["feature_frequencies"][column]
        else:
            found, times = np.unique(table[:, column], return_counts=True)
            seen, counts = found.tolist(), times.tolist()
        values[column], shares[column] = seen, np.array(counts) / float(sum(counts))
    return values, shares


def checked_row(row: Any, names: Sequence[Any], categorical: Sequence[int], discretizer: BaseDiscretizer | None) -> Any:
    """Return the row, or raise an error if it is none of the table's.

    Args:
        row: row, (M,), or sparse, (1, M).
        names: names of the columns.
        categorical: columns of categories; with bins, all.
        discretizer: bins; None: continuous columns have none.
    """
    row = numbers(row, "data_row")
    width = len(names)
    wanted = (1, width) if sparse.issparse(row) else (width,)
    if row.shape != wanted:
        hint = "; pass data_row[0]" if row.shape == (1, width) else ""
        raise BadInput(f"data_row must be one row of the training table's {width} columns, not shape {row.shape}{hint}")
    if sparse.issparse(row):
        if discretizer is not None:
            raise BadInput("data_row is sparse, but training_data was dense: pass data_row.toarray()[0]")
        bad = row.indices[~np.isfinite(row.data)]
    else:
        continuous = discretizer.lambdas if discretizer is not None else set(range(width)) - set(categorical)
        unusable = np.isnan(row) if discretizer is not None else ~np.isfinite(row)
        bad = [c for c in range(width) if (unusable[c] if c in continuous else np.isnan(row[c]))]
    if len(bad):
        raise BadInput(
            f"data_row has NaN or infinity in column {names[bad[0]]!r}: fill it as the model's own input is filled"
        )
    return row


def drawn(table: Table, row: Any, num_samples: int) -> tuple[Any, Any]:
    """Return the rows as the linear model sees them, and as the explained model does; the instance first.

    Args:
        table: explainer.
        row: instance.
        num_samples: rows to draw, the instance included.
    """
    if sparse.issparse(row):
        data = normal_sparse(table, row, num_samples)
        return data, data.copy()
    state, discretizer = table.random_state, table.discretizer
    if discretizer is None:
        first, columns = row, table.categorical_features
        data = state.normal(0, 1, num_samples * len(row)).reshape(num_samples, len(row)) * table.scaler.scale_
        data += row if table.sample_around_instance else table.scaler.mean_
    else:
        first, columns = discretizer.discretize(row), list(range(len(row)))
        data = np.zeros((num_samples, len(row)))
    data[0] = row
    inverse = data.copy()
    for column in columns:
        values, shares = table.feature_values[column], table.feature_frequencies[column]
        values_drawn = state.choice(values, size=num_samples, replace=True, p=shares)
        data[:, column] = values_drawn == first[column]
        data[0, column] = 1
        inverse[:, column] = values_drawn
    if discretizer is not None:
        inverse[1:] = discretizer.undiscretize(inverse[1:])
    inverse[0] = row
    return data, inverse


def normal_sparse(table: Table, row: Any, num_samples: int) -> Any:
    """Return rows in which only the columns that are not 0 in the instance are drawn.

    Args:
        table: explainer.
        row: sparse instance, (1, M).
        num_samples: rows to draw, the instance included.
    """
    columns = row.nonzero()[1]
    count = len(columns)
    if count == 0:
        return sparse.csr_matrix((num_samples, row.shape[1]), dtype=row.dtype)
    values = np.asarray(row[:, columns].toarray(), dtype=float)[0]
    scale, mean = table.scaler.scale_[columns], table.scaler.mean_[columns]
    data = table.random_state.normal(0, 1, num_samples * count).reshape(num_samples, count) * scale
    data += values if table.sample_around_instance else mean
    data[0] = values
    places = np.tile(columns, num_samples)
    ends = np.arange(num_samples + 1) * count
    result = sparse.csr_matrix((data.ravel(), places, ends), shape=(num_samples, row.shape[1]))
    result.sort_indices()
    return result
