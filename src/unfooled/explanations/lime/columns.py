"""Columns of a training table: values, bins, categories, and what is missing."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import check_function, plain
from unfooled.explanations.lime.discretize import Bins, bin_name, codes


@dataclass(frozen=True, eq=False)
class Column:
    """A column of the training table.

    Attributes:
        name: Its name.
        values: Training values, (N,).
        code_of_rows: Bin or category of each training row, (N,), in the smallest type that holds them.
        edges: Edges of the bins; None for a categorical column.
        categories: Categories; None for a numeric column.
        mean: Mean of a numeric column.
        sd: Standard deviation of a numeric column; 0 if it is constant.
        missing: True if some training values are missing.
    """

    name: str
    values: npt.NDArray[Any]
    code_of_rows: npt.NDArray[np.integer[Any]]
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

    def read(self, value: Any) -> Any:
        """Return a value, NaN for a missing number.

        Raises:
            BadInput: It is missing and never was in training, or is not a number in a numeric column.
        """
        if is_missing(value):
            if not self.missing:
                raise BadInput(f"column {self.name!r} is missing in the row; it never was in the training table")
            return value if self.edges is None else math.nan
        if self.edges is not None:
            try:
                finite = math.isfinite(float(value))
            except (TypeError, ValueError) as error:
                raise BadInput(f"column {self.name!r} has {plain(value)!r}, which is no number") from error
            if not finite:
                raise BadInput(f"column {self.name!r} is infinite in the row; cut it to a number, or leave it missing")
        return value

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
            return self._bin_names[self.code(value)]
        return f"{self.name} missing" if is_missing(value) else f"{self.name} = {value}"

    @cached_property
    def _bin_names(self) -> tuple[str, ...]:
        """Return the bins of a numeric column in words, missing values last; each row needs one of them."""
        assert self.edges is not None
        return tuple(bin_name(self.name, self.edges, code) for code in range(len(self.edges) + 2))

    def slope(self, value: Any) -> str:
        """Return what a weight without bins belongs to, in words: a column of numbers, or the value's category."""
        return self.words(value) if self.edges is None else self.name

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
        values = self.values[donors]
        if self.edges is None and values.dtype.kind in "biufUS" and not _fits(value, values.dtype):
            values = values.astype(object)  # what training did not have may be longer, or of another type
        elif values.dtype.kind in "iub" and (is_missing(value) or value != values.dtype.type(value)):
            values = values.astype(np.float64)
        values[donors < 0] = value
        return values


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or a frame's missing value."""
    if isinstance(value, (float, np.floating)):
        return bool(value != value)  # NaN; several times faster than np.isnan on one number
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a column of numbers holds a value as it is; truth values and texts are no numbers."""
    if dtype.kind not in "iuf" or isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return False
    if is_missing(value):
        return dtype.kind == "f"
    try:
        return bool(dtype.type(value) == value)
    except (OverflowError, ValueError):
        return False


def columns_of(
    frame: Any, categorical: Sequence[Any] | None, bins: Bins, labels: Any, names: Sequence[str] | None
) -> list[Column]:
    """Return the columns of a table; see `TabularSpace.learn`."""
    if hasattr(frame, "columns"):
        titles = [str(name) for name in frame.columns]
        twice = next((title for k, title in enumerate(titles) if title in titles[:k]), None)
        if twice is not None:
            raise BadInput(f"the training table has two columns {twice!r}; give each a name of its own")
        arrays = [_array(frame[name]) for name in frame.columns]
    else:
        table = array_of(frame)
        if table.ndim != 2:
            raise BadInput(f"the training table has shape {table.shape}; it is (N, C)")
        titles = [str(name) for name in names] if names is not None else [f"column {k}" for k in range(table.shape[1])]
        arrays = list(table.T.copy())
    if len(titles) != len(arrays) or len(set(titles)) != len(titles):
        raise BadInput(f"there are {len(arrays)} columns and {len(set(titles))} different names")
    if labels is not None and len(labels) != len(frame):
        raise BadInput(f"there are {len(labels)} labels and {len(frame)} training rows; give one label a row")
    picked = _picked(categorical, titles)
    columns = []
    for title, array in zip(titles, arrays, strict=True):
        as_category = title in picked or (categorical is None and not _is_numeric(array))
        columns.append(_categories(title, array) if as_category else _numbers(title, array, bins, labels))
    return columns


def array_of(table: Any) -> npt.NDArray[Any]:
    """Return an array, a tensor or lists as an array."""
    if isinstance(table, Tensor):
        table = table.detach().cpu()
        return (table.double() if table.is_floating_point() and table.itemsize < 4 else table).numpy()
    if hasattr(table, "toarray"):
        raise BadInput("the table is sparse; give a dense one, with table.toarray()")
    try:
        return np.asarray(table)
    except ValueError as error:
        raise BadInput("the rows of the table have different lengths; give as many values in each") from error


def _array(series: Any) -> npt.NDArray[Any]:
    """Return a column of a frame: missing numbers as NaN, dates as the objects that rows have."""
    kind, array = getattr(series.dtype, "kind", "O"), series.to_numpy()
    if kind in "iuf" and array.dtype.kind == "O":
        array = series.to_numpy(dtype=np.float64, na_value=np.nan)
    found: npt.NDArray[Any] = series.astype(object).to_numpy() if array.dtype.kind in "mM" else array
    return found


def _is_numeric(array: npt.NDArray[Any]) -> bool:
    """Return whether a column holds numbers; truth values are none."""
    if array.dtype.kind != "O":
        return array.dtype.kind in "fiu"
    present = [value for value in array.tolist() if not is_missing(value)]
    return bool(present) and all(
        isinstance(v, (int, float, np.number)) and not isinstance(v, (bool, np.bool_)) for v in present
    )


def _picked(categorical: Sequence[Any] | None, titles: list[str]) -> set[str]:
    """Return the names of the categorical columns that are given by name or number."""
    if isinstance(categorical, (str, int)):
        raise BadInput(f"categorical is {categorical!r}; give a list of names or numbers: [{categorical!r}]")
    given = [] if categorical is None else [int(c) if isinstance(c, np.integer) else c for c in categorical]
    unknown = [c for c in given if c not in titles and not (isinstance(c, int) and 0 <= c < len(titles))]
    if unknown:
        raise BadInput(f"categorical column {unknown[0]!r} is none of the training table")
    return {titles[c] if isinstance(c, int) else c for c in given}


def packed(values: list[Any]) -> npt.NDArray[Any]:
    """Return values as an array: numbers where all are, else objects."""
    array = np.asarray(values)
    return array if array.dtype.kind in "fiub" else np.array(values, dtype=object)


def series_of(values: npt.NDArray[Any], dtype: Any) -> Any:
    """Return values as a column of a frame of a type, or of their own where that cannot hold them."""
    import pandas

    if isinstance(dtype, pandas.CategoricalDtype):
        unseen = [v for v in dict.fromkeys(values.tolist()) if not is_missing(v) and v not in dtype.categories]
        if unseen:
            dtype = pandas.CategoricalDtype([*dtype.categories, *unseen], dtype.ordered)
    elif dtype == np.bool_ and not all(isinstance(v, (bool, np.bool_)) for v in values.tolist()):
        return pandas.Series(values)
    try:
        return pandas.Series(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return pandas.Series(values)


def typed(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return values as a type, or as they are where it cannot hold them, such as 1.5 for whole numbers."""
    if dtype.kind in "US":
        words = values.astype(np.str_)
        return words.astype(dtype) if words.dtype.itemsize <= dtype.itemsize else words
    if dtype.kind not in "iub":
        return values.astype(dtype)
    with np.errstate(invalid="ignore"):
        try:
            same = values.astype(dtype)
        except (TypeError, ValueError, OverflowError):
            return values
    return same if np.array_equal(same, values) else values


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
    stored = np.array(number, np.min_scalar_type(len(categories) + 1))
    return Column(name, array.copy(), stored, None, categories, 0.0, 0.0, bool(gone.any()))


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
    check_function(bins, "bins", "quartiles, deciles or entropy_bins")
    edges = np.asarray(bins(numbers[present], None if labels is None else np.asarray(labels)[present]), np.float64)
    if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise BadInput(f"bins returned {edges.tolist()} for column {name!r}; return rising edges, finite and distinct")
    sd = float(numbers[present].std())
    number = codes(numbers, edges).astype(np.min_scalar_type(len(edges) + 1))
    return Column(name, array.copy(), number, edges, None, float(numbers[present].mean()), sd, bool((~present).any()))
