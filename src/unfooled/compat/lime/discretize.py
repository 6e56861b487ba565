"""Bins of continuous columns: a < x <= b, named after their borders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.compat.lime.checks import random_state_of
from unfooled.core.errors import BadInput

__all__ = ["BaseDiscretizer", "DecileDiscretizer", "EntropyDiscretizer", "QuartileDiscretizer", "StatsDiscretizer"]

Array = npt.NDArray[Any]
LEAST_STD = 1e-11


class BaseDiscretizer:
    """Bins of the continuous columns of a table; a subclass says where they end, in `bins`.

    Args:
        data: Table, (n, M).
        categorical_features: Columns that stay as they are.
        feature_names: Names of all columns.
        labels: Labels of the rows, for bins that need them.
        random_state: Seed, or random stream, of the values drawn in a bin.
        data_stats: "means", "stds", "mins" and "maxs" of the bins of each column. None: measured.

    Attributes:
        to_discretize: Columns with bins.
        names: Names of the bins of each column.
        lambdas: Function from values to bins, for each column.
        means: Mean of each bin, for each column; `stds`, `mins` and `maxs` likewise.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Collection[int],
        feature_names: Sequence[Any],
        labels: Any = None,
        random_state: Any = None,
        data_stats: Any = None,
    ) -> None:
        self.to_discretize = [column for column in range(data.shape[1]) if column not in categorical_features]
        self.data_stats = data_stats
        self.random_state = random_state_of(random_state)
        self.names: dict[int, list[str]] = {}
        self.lambdas: dict[int, Callable[[Any], Any]] = {}
        stats = data_stats or {}
        self.means: dict[int, Any] = stats.get("means", {})
        self.stds: dict[int, Any] = stats.get("stds", {})
        self.mins: dict[int, Any] = stats.get("mins", {})
        self.maxs: dict[int, Any] = stats.get("maxs", {})
        borders = [np.unique(b) for b in self.bins(data, labels)]
        for column, ends in zip(self.to_discretize, borders, strict=False):
            self.names[column] = bin_names(feature_names[column], ends)
            self.lambdas[column] = partial(np.searchsorted, ends)
            if not data_stats:
                self.measure(column, data[:, column], ends)

    def measure(self, column: int, values: Array, ends: Array) -> None:
        """Measure the bins of a column; an empty one has mean 0.

        Args:
            column: number of the column.
            values: its values.
            ends: borders between the bins.
        """
        where = self.lambdas[column](values)
        members = [values[where == k] for k in range(len(ends) + 1)]
        self.means[column] = [np.mean(m) if len(m) else 0 for m in members]
        self.stds[column] = [(np.std(m) if len(m) else 0) + LEAST_STD for m in members]
        self.mins[column] = [np.min(values), *ends.tolist()]
        self.maxs[column] = [*ends.tolist(), np.max(values)]

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Return the borders between the bins of each column in `to_discretize`.

        Args:
            data: Table, (n, M).
            labels: Labels of the rows.
        """
        raise NotImplementedError("a discretizer must have a method bins(data, labels) that returns borders")

    def discretize(self, data: Array) -> Array:
        """Return the table, or one row of it, with bins in place of values.

        Args:
            data: Table, (n, M), or row, (M,).
        """
        result = data.copy()
        for column, bin_of in self.lambdas.items():
            result[..., column] = np.asarray(bin_of(result[..., column])).astype(int)
        return result

    def get_undiscretize_values(self, feature: int, values: Array) -> Array:
        """Return values drawn in bins, from a normal distribution cut off at the bin's ends.

        Args:
            feature: Column.
            values: Bins, integers.
        """
        from scipy.stats import truncnorm

        low, high, mean, std = (np.array(of[feature])[values] for of in (self.mins, self.maxs, self.means, self.stds))
        low, high = (low - mean) / std, (high - mean) / std
        wide = low != high
        drawn = truncnorm.rvs(low[wide], high[wide], loc=mean[wide], scale=std[wide], random_state=self.random_state)
        result = low  # where a bin has no width, the original leaves the standardised border
        result[wide] = drawn
        return result

    def undiscretize(self, data: Array) -> Array:
        """Return the table, or one row of it, with values drawn in the bins.

        Args:
            data: Table of bins, (n, M), or row, (M,).
        """
        result = data.copy()
        for column in self.means:
            bins = np.atleast_1d(result[..., column]).astype(int)
            drawn = self.get_undiscretize_values(column, bins)
            result[..., column] = drawn if data.ndim > 1 else drawn[0]
        return result


def bin_names(name: Any, ends: Array) -> list[str]:
    """Return the names of the bins of a column, "a < name <= b"."""
    inner = [f"{low:.2f} < {name} <= {high:.2f}" for low, high in pairwise(ends)]
    return [f"{name} <= {ends[0]:.2f}", *inner, f"{name} > {ends[-1]:.2f}"]


class StatsDiscretizer(BaseDiscretizer):
    """Bins that the caller gives, `data_stats["bins"]`; see `BaseDiscretizer`."""

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Return the given borders."""
        given = self.data_stats.get("bins") or {}
        borders = [given.get(column) for column in self.to_discretize]
        return [np.array(b) for b in borders if b is not None]


class QuartileDiscretizer(BaseDiscretizer):
    """Four bins of equally many rows each.

    Args:
        data: Table, (n, M).
        categorical_features: Columns that stay as they are.
        feature_names: Names of all columns.
        labels: Ignored.
        random_state: Seed, or random stream, of the values drawn in a bin.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Collection[int],
        feature_names: Sequence[Any],
        labels: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(data, categorical_features, feature_names, labels, random_state)

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Return the quartiles."""
        return [np.array(np.percentile(data[:, column], [25, 50, 75])) for column in self.to_discretize]


class DecileDiscretizer(BaseDiscretizer):
    """Ten bins of equally many rows each.

    Args:
        data: Table, (n, M).
        categorical_features: Columns that stay as they are.
        feature_names: Names of all columns.
        labels: Ignored.
        random_state: Seed, or random stream, of the values drawn in a bin.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Collection[int],
        feature_names: Sequence[Any],
        labels: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(data, categorical_features, feature_names, labels, random_state)

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Return the deciles."""
        return [np.array(np.percentile(data[:, column], np.arange(10, 100, 10))) for column in self.to_discretize]


class EntropyDiscretizer(BaseDiscretizer):
    """At most eight bins that separate the classes, from a decision tree a column.

    Args:
        data: Table, (n, M).
        categorical_features: Columns that stay as they are.
        feature_names: Names of all columns.
        labels: Labels of the rows, which are needed.
        random_state: Seed, or random stream; each tree advances it by one draw.

    Raises:
        BadInput: no labels.
    """

    def __init__(
        self,
        data: Array,
        categorical_features: Collection[int],
        feature_names: Sequence[Any],
        labels: Any = None,
        random_state: Any = None,
    ) -> None:
        if labels is None:
            raise BadInput("the entropy discretizer needs the labels of the training data: pass training_labels")
        if len(labels) != len(data):
            raise BadInput(f"there are {len(labels)} training labels for {len(data)} rows; pass one a row")
        super().__init__(data, categorical_features, feature_names, labels, random_state)

    def bins(self, data: Array, labels: Any) -> list[Array]:
        """Return the thresholds of a tree of depth 3 on each column; the median where it has none."""
        from sklearn.tree import DecisionTreeClassifier

        borders = []
        for column in self.to_discretize:
            tree = DecisionTreeClassifier(criterion="entropy", max_depth=3, random_state=self.random_state)
            inner = tree.fit(data[:, [column]], labels).tree_
            ends = np.sort(inner.threshold[inner.children_left > -1])
            borders.append(ends if len(ends) else np.array([np.median(data[:, column])]))
        return borders
