"""Bins of numeric columns: from values to edges; a value v is in bin j where edge_{j-1} < v <= edge_j."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.core.errors import BadInput

Array = npt.NDArray[np.float64]
Bins = Callable[[Array, Any], Array]
"""Values (N,), without missing ones, and labels (N,) or None -> edges."""


def quartiles(values: Array, labels: Any = None) -> Array:
    """Return the quartiles."""
    return _between(values, (25, 50, 75))


def deciles(values: Array, labels: Any = None) -> Array:
    """Return the deciles."""
    return _between(values, range(10, 100, 10))


def entropy_bins(values: Array, labels: Any = None) -> Array:
    """Return the thresholds of a decision tree of depth 3 that predicts the labels by information gain."""
    if labels is None:
        raise BadInput("entropy_bins needs labels: TabularSpace.learn(frame, labels=...)")
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(criterion="entropy", max_depth=3, random_state=0).fit(values[:, None], labels).tree_
    edges = np.unique(tree.threshold[tree.feature >= 0])
    return edges if len(edges) else _between(values, (50,))


def codes(values: Array, edges: Array) -> npt.NDArray[np.int64]:
    """Return the bin of each value; missing ones have a bin behind the last."""
    index = np.searchsorted(edges, values, side="left")
    return np.where(np.isnan(values), len(edges) + 1, index).astype(np.int64)


def bin_name(name: str, edges: Array, code: int) -> str:
    """Return a bin in words."""
    if code > len(edges):
        return f"{name} missing"
    if not len(edges):
        return name
    places = _places(edges)
    low, high = (f"{edges[k]:.{places}f}" if 0 <= k < len(edges) else "" for k in (code - 1, code))
    return f"{low} < {name} <= {high}" if low and high else f"{name} > {low}" if low else f"{name} <= {high}"


def _places(edges: Array) -> int:
    """Return the decimal places, at least 2, at which edges differ."""
    gap = float(np.diff(edges).min()) if len(edges) > 1 else abs(float(edges[0])) or 1.0
    return min(12, max(2, math.ceil(-math.log10(gap)) + 1)) if gap < 0.05 else 2


def _between(values: Array, percentiles: Any) -> Array:
    """Return distinct percentiles below the largest value."""
    edges = np.unique(np.percentile(values, list(percentiles)))
    return edges[edges < values.max()]
