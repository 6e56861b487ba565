"""Attributes of images in a CSV: a column `path`, and one column for each attribute.

    path,has_wings,striped
    sparrow/1.png,1,0
    zebra/7.png,0,1

Values lie in [0, 1] (or yes and no); an empty field is unknown. Paths are below the folder of the images, or below that
of the table.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unfooled.core.errors import BadInput, nearest
from unfooled.core.limits import read_regular
from unfooled.statistics.attributes import constant_columns

PATH = "path"
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0, "": math.nan}


@dataclass(frozen=True, eq=False)
class AttributeTable:
    """Attributes by path.

    Attributes:
        names: Names of the attributes.
        rows: Path, as written -> its row in `values`.
        values: Values in [0, 1], (N, n) float32; NaN: unknown.
        place: File of the table.
    """

    names: tuple[str, ...]
    rows: dict[str, int]
    values: Tensor
    place: Path

    @property
    def constant(self) -> tuple[str, ...]:
        """Names of the attributes with one known value, or none: nothing can be learnt of them."""
        return names_of_constant(self.values, self.names)

    def of(self, files: Sequence[Path], root: Path) -> Tensor:
        """Return the attributes of images, (len(files), n).

        Args:
            files: Files of the images.
            root: Folder of the images.

        Raises:
            BadInput: Images have no row; the message counts them and names the first.
        """
        row_numbers = [self._row(file, root) for file in files]
        lost = [file for file, row in zip(files, row_numbers, strict=True) if row is None]
        if lost:
            some = ", ".join(file.relative_to(root).as_posix() for file in lost[:3])
            hint = nearest(lost[0].relative_to(root).as_posix(), self.rows, n=1)
            raise BadInput(
                f"{len(lost)} of {len(files)} images below {root} have no row in {self.place}, such as {some}{hint}; "
                f"{PATH} is the path below that folder"
            )
        return self.values[[row for row in row_numbers if row is not None]]

    def _row(self, file: Path, root: Path) -> int | None:
        for folder in (root, self.place.parent):
            if file.is_relative_to(folder) and (row := self.rows.get(file.relative_to(folder).as_posix())) is not None:
                return row
        return self.rows.get(file.as_posix())

    def column(self, name: str) -> int:
        """Return the column of an attribute.

        Raises:
            BadInput: There is none of this name; the nearest are named.
        """
        if name not in self.names:
            raise BadInput(f"there is no attribute {name!r} in {self.place}{nearest(name, self.names)}")
        return self.names.index(name)


def names_of_constant(values: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns with one known value, or none."""
    return tuple(names[column] for column in constant_columns(values.numpy()))


def read_attributes(path: str | Path) -> AttributeTable:
    """Read a CSV of attributes.

    Args:
        path: The file.

    Raises:
        BadInput: The file is missing or no CSV, lacks the column `path` or every other column, repeats a column or a
            path, or holds a value that is no number in [0, 1]; the message gives the line.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a CSV with the columns path and one for each attribute")
    try:
        lines = csv.reader(io.StringIO(read_regular(path).decode("utf-8-sig"), newline=""), strict=True)
        table = [(lines.line_num, [field.strip() for field in line]) for line in lines if line]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} is no CSV: {error}") from error
    names = table[0][1] if table else []
    if PATH not in names or len(names) < 2:
        raise BadInput(
            f"{path} has the columns {', '.join(names) or 'none'}; it needs {PATH} and one for each attribute"
        )
    if twice := next((name for k, name in enumerate(names) if name in names[:k]), None):
        raise BadInput(f"{path} has the column {twice!r} twice; each attribute has one")
    if "" in names:
        raise BadInput(f"column {names.index('') + 1} of {path} has no name; name each attribute")
    if len(table) < 2:
        raise BadInput(f"{path} has no rows; it needs one for each image")
    at, rows = names.index(PATH), dict[str, int]()
    values: list[list[float]] = []
    for number, line in table[1:]:
        if len(line) != len(names):
            raise BadInput(f"line {number} of {path} has {len(line)} fields for {len(names)} columns")
        file = Path(line[at]).as_posix()
        if not line[at] or file in rows:
            raise BadInput(
                f"line {number} of {path} names {'no file' if not line[at] else f'{file} again'}; give one row each"
            )
        rows[file] = len(values)
        values.append([_value(field, number, path) for k, field in enumerate(line) if k != at])
    return AttributeTable(tuple(n for n in names if n != PATH), rows, torch.tensor(values), path)


def _value(field: str, number: int, path: Path) -> float:
    """Return a value in [0, 1], NaN where unknown."""
    word = field.lower()
    if word in WORDS:
        return WORDS[word]
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise BadInput(f"line {number} of {path} holds {field!r}; attributes lie in [0, 1], empty where unknown")
    return value
