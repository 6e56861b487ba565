"""Folders that Hugging Face `datasets` saves (`save_to_disk`): Arrow streams, read a record batch at a time.

Needs pyarrow (`pip install unfooled[arrow]`), not `datasets`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, canonical_split, no_splits, select_split
from unfooled.data.formats import arrays
from unfooled.data.formats.folders import Decoder

IMAGES = ("image", "img", "pixel_values", "x", "data")
LABELS = ("label", "labels", "fine_label", "y", "target")


def arrow_in(folder: Path) -> bool:
    """Return whether a folder was saved by `datasets`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "dataset_info.json").is_file() and any(folder.glob("*.arrow"))
    )


def arrow(folder: Path, split: str, *, size: tuple[int, int] | None = None, channels: int | None = None) -> Source:
    """Open a folder that `datasets` saved.

    Args:
        folder: Folder of one split, or of several.
        split: Split to read, if there are several.
        size: Size that images are resized to, as in `folders.folder`.
        channels: Number of channels, likewise.

    Raises:
        BadInput: pyarrow is not installed, or the folder has no such split, no samples, no labels, or damaged files.
    """
    wanted, place = "all", folder
    warnings: tuple[str, ...] = ()
    if (folder / "dataset_dict.json").is_file():
        below = sorted(item.name for item in folder.iterdir() if (item / "dataset_info.json").is_file())
        names = {canonical_split(name) or name: name for name in below}
        wanted = select_split(split, list(names), folder)
        place = folder / names[wanted]
    else:
        warnings = (no_splits(split, folder.name),)
    features = _features(place / "dataset_info.json")
    table = Table.of(sorted(place.glob("*.arrow")), place)
    x_key, y_key = _column(IMAGES, table.names, place, "samples"), _column(LABELS, table.names, place, "labels")
    y, texts = arrays.labels(table.labels(y_key), f"{y_key} of {place}")
    known = dict(features.get(y_key) or {}).get("names")
    classes = [str(name) for name in known] if isinstance(known, list) else texts or arrays.numbered(y)
    if len(y) and y.max() >= len(classes):
        raise BadInput(f"{place} has labels up to {y.max()}, and {len(classes)} class names")
    name = folder.resolve().name
    if dict(features.get(x_key) or {}).get("_type") == "Image":
        decoder = Decoder(_Coded(table, x_key), size, channels)
        return Source(name, wanted, y, classes, decoder, warnings, survey=decoder.survey)
    return Source(name, wanted, y, classes, _plain(table, x_key), warnings)


def _features(path: Path) -> dict[str, Any]:
    """Return the features of a data set, by column."""
    try:
        return dict(json.loads(path.read_bytes()).get("features") or {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def _column(known: Sequence[str], names: Sequence[str], place: Path, what: str) -> str:
    column = next((name for name in known if name in names), None)
    if column is None:
        raise BadInput(f"{place} has the columns {', '.join(names)}; {what} are looked for as {', '.join(known)}")
    return column


@dataclass
class Table:
    """Rows of several Arrow streams, of which one record batch at a time is in memory.

    Attributes:
        places: (file, position, first row, rows) of each record batch.
        schemas: Schema of each file.
        names: Names of the columns.
    """

    places: list[tuple[Path, int, int, int]]
    schemas: dict[Path, Any]
    names: list[str]
    _last: tuple[int, Any] = field(default=(-1, None), repr=False)

    @classmethod
    def of(cls, files: Sequence[Path], place: Path) -> Table:
        """Look at the streams, and note where their record batches are."""
        ipc, osfile = _pyarrow()
        table, end = cls([], {}, []), 0
        for path in files:
            try:
                with osfile(str(path)) as file:
                    stream = ipc.open_stream(file)
                    table.schemas[path], table.names = stream.schema, list(stream.schema.names)
                    while True:
                        at = file.tell()
                        try:
                            rows = stream.read_next_batch().num_rows
                        except StopIteration:
                            break
                        table.places.append((path, at, end, rows))
                        end += rows
            except (OSError, ValueError, EOFError) as error:  # pyarrow's errors are of these kinds
                raise BadInput(f"{path} is damaged or no Arrow stream: {error}") from error
        if not end:
            raise BadInput(f"{place} has no rows")
        return table

    def batch(self, k: int) -> Any:
        """Read a record batch; the last one stays in memory."""
        if self._last[0] != k:
            ipc, osfile = _pyarrow()
            path, at, _, _ = self.places[k]
            with osfile(str(path)) as file:
                file.seek(at)
                self._last = k, ipc.read_record_batch(ipc.read_message(file), self.schemas[path])
        return self._last[1]

    def cell(self, column: str, row: int) -> Any:
        """Return a cell as a Python value."""
        k = int(np.searchsorted([start for _, _, start, _ in self.places], row, side="right")) - 1
        return self.batch(k).column(column)[row - self.places[k][2]].as_py()

    def labels(self, column: str) -> np.ndarray:
        """Return a whole column of numbers or text."""
        parts = [self.batch(k).column(column).to_pylist() for k in range(len(self.places))]
        return np.array([value for part in parts for value in part])


class _Coded(Sequence[Any]):
    """Encoded images of a table, as open files."""

    def __init__(self, table: Table, column: str) -> None:
        self.table, self.column = table, column

    def __len__(self) -> int:
        *_, start, rows = self.table.places[-1]
        return start + rows

    def __getitem__(self, row: Any) -> Any:
        cell = self.table.cell(self.column, int(row))
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise BadInput(f"row {row} of {self.column} holds no image; save the data set with its images inside")
        return _File(data, f"row {row}")


class _File(io.BytesIO):
    """An image in memory that says where it is from."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name

    def __str__(self) -> str:
        return self.name


def _plain(table: Table, column: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that reads rows of numbers."""

    def read(rows: np.ndarray) -> np.ndarray:
        kind = table.batch(0).schema.field(column).type
        while hasattr(kind, "value_type") or hasattr(kind, "storage_type"):
            kind = getattr(kind, "storage_type", None) or kind.value_type
        cells = [np.asarray(table.cell(column, row), kind.to_pandas_dtype()) for row in rows.tolist()]
        return np.stack([arrays.single(cell).numpy() for cell in cells])

    return read


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import ipc
    except ImportError as error:
        raise BadInput("a folder of `datasets` needs pyarrow: pip install 'unfooled[arrow]'") from error
    return ipc, pyarrow.OSFile
