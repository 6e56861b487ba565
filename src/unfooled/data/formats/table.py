"""Tables from CSV files: names, and columns of numbers or words with their missing values.

Values are those that `pandas.read_csv` gives: whole numbers, numbers, or words; empty cells, NA, NaN, null and their
spellings are missing. pandas itself is only needed for `Table.frame`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unfooled.core.errors import BadInput, nearest, option
from unfooled.data.formats.text import read_text

MISSING = frozenset(
    "#N/A #NA -1.#IND -1.#QNAN -NaN -nan 1.#IND 1.#QNAN <NA> N/A NA NULL NaN None n/a nan null".split()  # noqa: SIM905
) | {"", "#N/A N/A"}
"""Spellings of a missing value."""
MAX_CELLS = 100_000_000
"""Largest number of cells of a table."""
MOST_SPOILT = 0.1
"""Largest share of the cells of a column of numbers that may be something else, for a tolerant reader."""
DELIMITERS = (",", ";", "\t", "|")
WHOLE, NUMBER = re.compile(r"\s*[+-]?\d{1,18}\s*"), re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
INFINITE = re.compile(r"\s*[+-]?inf(inity)?\s*", re.IGNORECASE)
TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, eq=False)
class Table:
    """A table.

    Attributes:
        names: Names of the columns.
        columns: Values of each column, (N,): bool, int64, float64 with NaN for missing values, or objects (words, and
            None for missing values).
        source: Name of the file.
        spoilt: Cells of columns of numbers that hold none, NaN in `columns`, as (row, column, text).
    """

    names: tuple[str, ...]
    columns: tuple[npt.NDArray[Any], ...]
    source: str
    spoilt: tuple[tuple[int, str, str], ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0]) if self.columns else 0

    @property
    def words(self) -> tuple[str, ...]:
        """Names of the columns that hold no numbers, but words or truth values."""
        return tuple(name for name, own in zip(self.names, self.columns, strict=True) if own.dtype.kind in "bO")

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a column.

        Raises:
            BadInput: There is no such column; the message lists them.
        """
        if name not in self.names:
            raise BadInput(
                f"{self.source} has no column {name!r}{nearest(name, self.names)}; its columns are "
                f"{_listed(self.names)}"
            )
        return self.columns[self.names.index(name)]

    def without(self, *names: str) -> Table:
        """Return the table without some columns, which need not exist."""
        rest = [k for k, name in enumerate(self.names) if name not in names]
        return replace(
            self,
            names=tuple(self.names[k] for k in rest),
            columns=tuple(self.columns[k] for k in rest),
            spoilt=tuple(cell for cell in self.spoilt if cell[1] not in names),
        )

    def take(self, rows: Sequence[int]) -> Table:
        """Return some rows.

        Raises:
            BadInput: A row does not exist.
        """
        for row in rows:
            if not 0 <= row < len(self):
                raise BadInput(f"{self.source} has {len(self)} rows, 0 to {len(self) - 1}; {row} is none of them")
        spoilt = tuple((k, *cell[1:]) for k, row in enumerate(rows) for cell in self.spoilt if cell[0] == row)
        return replace(self, columns=tuple(column[list(rows)] for column in self.columns), spoilt=spoilt)

    def gaps(self) -> npt.NDArray[np.bool_]:
        """Return which cells are missing, (N, C)."""
        gaps = [
            np.array([value is None for value in column.tolist()], dtype=np.bool_)
            if column.dtype.kind == "O"
            else np.asarray(column != column)
            for column in self.columns
        ]
        return np.column_stack(gaps) if gaps else np.zeros((0, 0), dtype=np.bool_)

    def array(self) -> npt.NDArray[Any]:
        """Return the values, (N, C): float64 or int64 where all columns are numbers, else objects."""
        if not self.columns:
            return np.zeros((0, 0))
        if not any(column.dtype == object for column in self.columns):
            return np.column_stack(self.columns)
        whole = np.empty((len(self), len(self.columns)), dtype=object)
        for k, column in enumerate(self.columns):
            whole[:, k] = column.tolist()
        return whole

    def frame(self) -> Any:
        """Return a pandas frame.

        Raises:
            BadInput: pandas is not installed.
        """
        try:
            import pandas
        except (ImportError, RuntimeError, OSError) as error:
            raise BadInput("a frame needs pandas: pip install pandas") from error
        return pandas.DataFrame(dict(zip(self.names, self.columns, strict=True)))


def read_table(
    source: str | Path,
    *,
    columns: Sequence[str] | None = None,
    like: Table | None = None,
    tolerant: bool = False,
    exact: Sequence[str] = (),
) -> Table:
    """Read a CSV file, also compressed (.csv.gz); values are separated by commas, semicolons, tabs or vertical bars.

    Args:
        source: The file, or "-" for standard input.
        columns: Names of the columns, for a file without a line of names. None: the first line has them. A column
            without a name is called "Unnamed: k".
        like: Table whose kinds of columns are taken over where names agree, such as the training table. None: kinds
            are inferred from the values.
        tolerant: True: a column whose cells are numbers, all but one in ten or fewer, is one of numbers, and the others
            are listed in `Table.spoilt`, so that a few of them spoil their rows only. False: they are refused where
            `like` has numbers, and else make the column one of words.
        exact: Columns that are of words where a cell is no number, such as those of labels and categories.

    Raises:
        BadInput: The file cannot be read, has no rows, rows of different length, equal names, or no line of names.
    """
    name = "standard input" if str(source) == "-" else str(source)
    text = read_text(source)
    delimiter = _delimiter(text)
    lines = _lines(text, delimiter, name)
    first = next(lines, None) if columns is None else columns
    if not first:
        raise BadInput(f"{name} is empty; the first line has the names of the columns")
    header = [word.strip() or f"Unnamed: {k}" for k, word in enumerate(first)]
    cells = _cells(lines, len(header), name, given=columns is not None)
    if not cells[0]:
        raise BadInput(f"{name} has no rows below the names of its columns")
    if columns is None:
        _check_header(header, cells, name)
    twice = next((word for k, word in enumerate(header) if word in header[:k]), None)
    if twice is not None:
        raise BadInput(f"{name} has two columns called {twice!r}; each needs a name of its own")
    known = {} if like is None else dict(zip(like.names, like.columns, strict=True))
    spoilt = _spoilt(header, cells, known, exact) if tolerant else []
    values = tuple(
        _typed(own, known.get(word), f"column {word!r} of {name}") for word, own in zip(header, cells, strict=True)
    )
    return Table(tuple(header), values, name, tuple(sorted(spoilt)))


def _spoilt(
    header: list[str], cells: list[list[str]], known: dict[str, npt.NDArray[Any]], exact: Sequence[str]
) -> list[tuple[int, str, str]]:
    """Empty the cells of columns of numbers that hold none, or infinity; return them as (row, column, text)."""
    spoilt = []
    for word, own in zip(header, cells, strict=True):
        like = known.get(word)
        if word in exact if like is None else like.dtype.kind not in "if":
            continue
        wrong = [
            row
            for row, cell in enumerate(own)
            if cell.strip() not in MISSING and (not _is_number(cell) or INFINITE.fullmatch(cell))
        ]
        present = sum(cell.strip() not in MISSING for cell in own)
        if wrong and (like is not None or MOST_SPOILT * present >= len(wrong)):
            spoilt += [(row, word, own[row].strip()) for row in wrong]
            for row in wrong:
                own[row] = ""
    return spoilt


def _delimiter(text: str) -> str:
    """Return the delimiter that splits the first line into most cells; a comma where none does."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    try:
        counts = [len(next(csv.reader([first], delimiter=mark))) for mark in DELIMITERS]
    except csv.Error:
        return ","
    return DELIMITERS[counts.index(max(counts))]


def _lines(text: str, delimiter: str, name: str) -> Iterator[list[str]]:
    """Yield the rows; blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if len(row) > 1 or any(cell.strip() for cell in row):
                yield row
    except csv.Error as error:
        raise BadInput(f"cannot read {name}: line {reader.line_num}: {error}") from error


def _cells(lines: Iterable[list[str]], width: int, name: str, *, given: bool) -> list[list[str]]:
    """Return the cells of each column."""
    cells: list[list[str]] = [[] for _ in range(width)]
    same: dict[str, str] = {}  # equal cells share one string, which saves memory
    for number, row in enumerate(lines):
        if len(row) != width:
            what = f"{option('columns')} names" if given else "the first line names"
            raise BadInput(f"row {number} of {name} has {len(row)} values, {what} {width} columns")
        if (number + 1) * width > MAX_CELLS:
            raise BadInput(f"{name} has more than {MAX_CELLS:,} cells; give a sample of its rows")
        for column, cell in zip(cells, row, strict=True):
            column.append(same.setdefault(cell, cell))
    return cells


def _typed(cells: list[str], like: npt.NDArray[Any] | None, what: str) -> npt.NDArray[Any]:
    """Return a column's values: truth values, whole numbers, numbers or words; of the kind of `like`, if given."""
    empty = [cell.strip() in MISSING for cell in cells]
    present = [cell for cell, missing in zip(cells, empty, strict=True) if not missing]
    numeric = like.dtype.kind in "if" if like is not None else bool(present) and all(map(_is_number, present))
    if numeric:
        return _numbers(cells, empty, like, what)
    truths = all(cell.strip().lower() in TRUTH for cell in present) and not any(empty)
    if truths and (like is None or like.dtype.kind == "b"):
        return np.array([TRUTH[cell.strip().lower()] for cell in cells], dtype=np.bool_)
    return np.array([None if missing else cell for cell, missing in zip(cells, empty, strict=True)], dtype=object)


def _numbers(cells: list[str], empty: list[bool], like: npt.NDArray[Any] | None, what: str) -> npt.NDArray[Any]:
    """Return a column's numbers, whole where all are."""
    present = [cell for cell, missing in zip(cells, empty, strict=True) if not missing]
    wrong = next((cell for cell in present if not _is_number(cell)), None)
    if wrong is not None:
        raise BadInput(f"{what} has {wrong!r}, which is no number; it holds numbers in the training table")
    whole = not any(empty) and all(map(WHOLE.fullmatch, cells))
    if whole and (like is None or like.dtype.kind == "i"):
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    numbers = [math.nan if missing else float(cell) for cell, missing in zip(cells, empty, strict=True)]
    if any(map(math.isinf, numbers)):
        raise BadInput(f"{what} holds infinite values; leave these cells empty, or cut them to a number")
    return np.array(numbers, dtype=np.float64)


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number, or infinite."""
    return NUMBER.fullmatch(cell) is not None or INFINITE.fullmatch(cell) is not None


def _check_header(header: list[str], cells: list[list[str]], name: str) -> None:
    """Refuse a first line that looks like a row: its words occur below again, or it has a number that is not whole."""
    words = [(word, own) for word, own in zip(header, cells, strict=True) if not NUMBER.fullmatch(word)]
    again = sum(word in {cell.strip() for cell in own} for word, own in words)
    broken = any(NUMBER.fullmatch(word) and not word.isdigit() for word in header)
    if broken or (again and 2 * again >= len(words)):
        raise BadInput(
            f"the first line of {name} looks like a row of values ({_listed(header, 4)}); give {option('columns')} "
            f"with the names of its {len(header)} columns"
        )


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Return names as a list, shortened."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
