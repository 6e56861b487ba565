"""Images listed in a CSV file with their labels: `photo.png,cat`, or `photo.png,1,0,1` with a column for each label.

The first column of words names the images, relative to the file's folder. One further column holds the class of each;
several hold 0 and 1 for each of several labels per sample, with their names in the first line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, no_splits
from unfooled.data.formats import arrays
from unfooled.data.formats.folders import Decoder
from unfooled.data.formats.table import Table, read_table


def labelled_images(path: Path, split: str, *, size: tuple[int, int] | None, channels: int | None) -> Source:
    """Open the images that a CSV file lists; they are decoded on demand.

    Args:
        path: The CSV file; its first line names the columns.
        split: Split, which such a file does not have.
        size: Size (H, W) that every image is resized to. None: not changed.
        channels: Number of channels, 1 or 3. None: grey where all images read are grey, else colour.

    Raises:
        BadInput: No column names images, an image is missing or outside of the file's folder, or the other columns
            are no labels.
    """
    table = read_table(path)
    if not table.words or len(table.names) < 2:
        raise BadInput(f"{path} lists no images with labels; its first line is image,label or image,cat,dog,...")
    first = table.words[0]
    files = _files(path, table.column(first).tolist())
    rest = table.without(first)
    y, names = _labels(rest, path)
    decoder = Decoder(files, size, channels)
    return Source(
        path.stem, "all", y, names or arrays.numbered(y), decoder, (no_splits(split, path.name),),
        sorted=y.ndim == 1 and names is not None, survey=decoder.survey,
    )  # fmt: skip


def _files(path: Path, names: Sequence[Any]) -> list[Path]:
    """Return the images, below the folder of the CSV file."""
    root = path.resolve().parent
    files = [(root / str(name)).resolve() for name in names]
    for name, file in zip(names, files, strict=True):
        if name is None or not file.is_relative_to(root):
            raise BadInput(f"{path} names the image {name!r}; images lie below its folder, {path.parent}")
        if not file.is_file():
            raise BadInput(f"{path} names the image {name!r}, and there is no such file below {path.parent}")
    return files


def _labels(table: Table, path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Return the labels and their names."""
    if len(table.names) == 1:
        return arrays.labels(_plain(table.columns[0]), f"{table.names[0]} of {path}")
    for name, column in zip(table.names, table.columns, strict=True):
        if column.dtype.kind == "O" or not bool(((column == 0) | (column == 1)).all()):
            raise BadInput(f"the column {name!r} of {path} is no label: of several, each has a column of 0 and 1")
    return arrays.targets(np.column_stack(table.columns), str(path))[0], list(table.names)


def _plain(column: Any) -> np.ndarray:
    """Return a column of words as an array of text."""
    return np.asarray(["" if value is None else str(value) for value in column]) if column.dtype.kind == "O" else column
