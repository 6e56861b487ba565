"""Columns of a training table: values, bins, categories, and what is missing."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.discretize import Bins, bin_name, codes


@dataclass(frozen=True, eq=False)
class Column:
    """A column of the training table.

    Attributes:
        name: Its name.
        values: Training values, (N,).
        code_of_rows: Bin or category of each training row, (N,).
        edges: Edges of the bins; None for a categorical column.
        categories: Categories; None for a numeric column.
        mean: Mean of a numeric column.
        sd: Standard deviation of a numeric column; 0 if it is constant.
        missing: True if some training values are missing.
    """

    name: str
    values: npt.NDArray[Any]
    code_of_rows: npt.NDArray[np.int64]
    edges: npt.NDArray[np.float64] | None
    categories: tuple[Any, ...] | None
    mean: float
    sd: float
    missing: bool

    @property
    def constant(self) -> bool:
        """True if all values of the column are equal."""
        if self.edges is None:
            return len(set(self.code_of_rows.tolist())) < 2
        return self.sd == 0 and not self.missing

    def check(self, value: Any) -> None:
        """Refuse missing values where training had none, and values of a numeric column that are not numbers."""
        if is_missing(value):
            if not self.missing:
                raise BadInput(f"column {self.name!r} is missing in the row; it never was in the training table")
        elif self.edges is not None:
            try:
                finite = math.isfinite(float(value))
            except (TypeError, ValueError) as error:
                raise BadInput(f"column {self.name!r} has {value!r}, which is no number") from error
            if not finite:
                raise BadInput(f"column {self.name!r} is infinite in the row; cut it to a number, or leave it missing")

    def code(self, value: Any) -> int:
        """Return the bin or category of a value; an unseen category has one of its own."""
        if self.edges is not None:
            return len(self.edges) + 1 if is_missing(value) else bisect_left(self.edges, float(value))
        assert self.categories is not None
        if is_missing(value):
            return len(self.categories) + 1
        return self.categories.index(value) if value in self.categories else len(self.categories)

    def words(self, value: Any) -> str:
        """Return a value's bin or category in words."""
        if self.edges is not None:
            return bin_name(self.name, self.edges, self.code(value))
        return f"{self.name} missing" if is_missing(value) else f"{self.name} = {value}"

    def shown(self, value: Any) -> str:
        """Return a value as text."""
        if is_missing(value):
            return "missing"
        return f"{float(value):.6g}" if isinstance(value, (float, np.floating)) else str(value)

    def bin_of(self, value: Any) -> str:
        """Return the bin of a number in words; empty for a category, but a note for one that training did not have."""
        if self.edges is not None:
            return "" if is_missing(value) or not len(self.edges) else self.words(value)
        assert self.categories is not None
        return "not in training" if self.code(value) == len(self.categories) else ""

    def taken(self, donors: npt.NDArray[np.int64], value: Any) -> npt.NDArray[Any]:
        """Return the values of training rows, and the given one where the number of the row is negative."""
        values = self.values[donors.clip(0)]
        if values.dtype.kind in "iub" and (is_missing(value) or value != values.dtype.type(value)):
            values = values.astype(np.float64)
        values[donors < 0] = value
        return values


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or a frame's missing value."""
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def columns_of(
    frame: Any, categorical: Sequence[Any] | None, bins: Bins, labels: Any, names: Sequence[str] | None
) -> list[Column]:
    """Return the columns of a table; see `TabularSpace.learn`."""
    if hasattr(frame, "columns"):
        titles = [str(name) for name in frame.columns]
        arrays = [frame[name].to_numpy() for name in frame.columns]
    else:
        table = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
        if table.ndim != 2:
            raise BadInput(f"the training table has shape {table.shape}; it is (N, C)")
        titles = [str(name) for name in names] if names is not None else [f"column {k}" for k in range(table.shape[1])]
        arrays = list(table.T.copy())
    if len(titles) != len(arrays) or len(set(titles)) != len(titles):
        raise BadInput(f"there are {len(arrays)} columns and {len(set(titles))} different names")
    unknown = [c for c in categorical or () if c not in titles and not (isinstance(c, int) and 0 <= c < len(titles))]
    if unknown:
        raise BadInput(f"categorical column {unknown[0]!r} is none of the training table")
    picked = {titles[c] if isinstance(c, int) else c for c in categorical or ()}
    columns = []
    for title, array in zip(titles, arrays, strict=True):
        as_category = title in picked or (categorical is None and array.dtype.kind not in "fiub")
        columns.append(_categories(title, array) if as_category else _numbers(title, array, bins, labels))
    return columns


def _categories(name: str, array: npt.NDArray[Any]) -> Column:
    """Return a categorical column."""
    gone = np.array([is_missing(value) for value in array.tolist()])
    values = array.tolist()
    try:
        distinct = {v for v, m in zip(values, gone, strict=True) if not m}
        categories = tuple(sorted(distinct, key=lambda v: (str(type(v)), v)))
    except TypeError as error:
        raise BadInput(f"column {name!r} holds values that are no categories: {error}; leave it out") from error
    place = {value: k for k, value in enumerate(categories)}
    number = [len(categories) + 1 if m else place[v] for v, m in zip(values, gone, strict=True)]
    return Column(name, array.copy(), np.array(number, np.int64), None, categories, 0.0, 0.0, bool(gone.any()))


def _numbers(name: str, array: npt.NDArray[Any], bins: Bins, labels: Any) -> Column:
    """Return a numeric column."""
    try:
        numbers = np.array([np.nan if is_missing(v) else float(v) for v in array.tolist()])
    except (TypeError, ValueError) as error:
        raise BadInput(f"column {name!r} holds a value that is not a number; list it in categorical") from error
    present = ~np.isnan(numbers)
    if np.isinf(numbers).any():
        raise BadInput(f"column {name!r} holds infinite values; cut them to a number, or leave them missing")
    if not present.any():
        raise BadInput(f"column {name!r} has no values; leave it out")
    edges = np.asarray(bins(numbers[present], None if labels is None else np.asarray(labels)[present]), np.float64)
    sd = float(numbers[present].std())
    number = codes(numbers, edges)
    return Column(name, array.copy(), number, edges, None, float(numbers[present].mean()), sd, bool((~present).any()))
