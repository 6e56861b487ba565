"""Arrays that stay in their file, and are read row by row."""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.core.memory import block_bytes, max_bytes_in_memory
from unfooled.data.formats.npy import check_header
from unfooled.runs.files import read_part

LOCAL_HEADER_BYTES = 30
"""Bytes of a zip archive's local header, before the name."""


@dataclass(frozen=True)
class StoredArray:
    """Array in a file, whose first axis is read row by row.

    Attributes:
        path: The file.
        start: Position of the first row.
        shape: Shape of the array.
        dtype: Type of its values.
        stride: Bytes from one row to the next. 0: rows follow one another.
        owner: Object that the file belongs to, such as a temporary file.
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stride: int = 0
    owner: object = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, (b,) int64.

        Raises:
            BadInput: The file was cut off or removed meanwhile.
        """
        shape, width = self.shape[1:], self.dtype.itemsize * math.prod(self.shape[1:])
        step = self.stride or width
        if not len(rows):
            return np.empty((0, *shape), self.dtype)
        first, last = int(rows.min()), int(rows.max())
        if last - first < 2 * len(rows):
            data = self._bytes(self.start + first * step, (last - first) * step + width)
            every = np.ndarray((last + 1 - first, width), np.uint8, data, strides=(step, 1))
            selected = np.ascontiguousarray(every[rows - first])
        else:
            parts = [self._bytes(self.start + row * step, width) for row in rows.tolist()]
            selected = np.frombuffer(bytearray().join(parts), np.uint8).reshape(len(rows), width)
        return selected.view(self.dtype).reshape(-1, *shape)

    def _bytes(self, start: int, length: int) -> bytearray:
        data = read_part(self.path, start, length)
        if data is None or len(data) != length:
            raise BadInput(f"{self.path} was cut off or removed while it was read")
        return data


Part = np.ndarray | StoredArray


class Stacked:
    """Arrays of several files, one after the other, read by rows.

    Args:
        parts: The arrays, alike but for their lengths.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts, first = list(parts), parts[0]
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), *first.shape[1:])
        self.dtype, self.ndim, self.size = first.dtype, first.ndim, math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, (b,) int64."""
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        where = np.searchsorted(self.starts, rows, side="right") - 1
        for k in np.unique(where).tolist():
            out[where == k] = self.parts[k][rows[where == k] - self.starts[k]]
        return out


AnyArray = Part | Stacked


def parts(x: AnyArray) -> Iterator[np.ndarray]:
    """Yield an array in blocks of rows; one in memory as it is."""
    if isinstance(x, np.ndarray):
        yield x
        return
    size = max(1, block_bytes() // max(1, x.dtype.itemsize * math.prod(x.shape[1:])))
    for start in range(0, len(x), size):
        yield x[np.arange(start, min(start + size, len(x)))]


class Opened(Protocol):
    """An open archive of arrays: `unfooled.data.formats.npz.Archive`."""

    content: zipfile.ZipFile

    def __getitem__(self, name: str) -> np.ndarray:
        """Unpack an array."""
        ...


def member(path: Path, opened: Opened, key: str) -> AnyArray:
    """Return an array of a NumPy archive: a small one in memory, a large one in the file.

    A large compressed array is unpacked to a temporary file first (in the folder that TMPDIR names).

    Raises:
        BadInput: The array is damaged, or there is no space to unpack it.
    """
    archive = opened.content
    name = key if key in archive.namelist() else f"{key}.npy"
    info = archive.getinfo(name)
    if info.file_size <= max_bytes_in_memory():
        return opened[key]
    with archive.open(info) as file:
        check_header(file, info.file_size, path, key)
    with archive.open(info) as file:
        shape, fortran, dtype = npy_header(file)
        begin = file.tell()
    if fortran or dtype.hasobject or not shape or info.file_size - begin != dtype.itemsize * math.prod(shape):
        return opened[key]
    if info.compress_type != zipfile.ZIP_STORED:
        return _unpacked(archive, info, begin, shape, dtype)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = file.read(LOCAL_HEADER_BYTES)
    name_length, extra_length = int.from_bytes(local[26:28], "little"), int.from_bytes(local[28:30], "little")
    start = info.header_offset + LOCAL_HEADER_BYTES + name_length + extra_length
    _check_sum(path, start, info)
    return StoredArray(path, start + begin, shape, dtype)


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a `.npy` file: shape, whether columns come first, and type.

    Raises:
        ValueError: It is no such file.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return tuple(shape), bool(fortran), np.dtype(dtype)


def _check_sum(path: Path, start: int, info: zipfile.ZipInfo) -> None:
    """Refuse a stored member whose check sum is another one."""
    total, done, step = 0, 0, block_bytes()
    while done < info.file_size:
        data = read_part(path, start + done, min(step, info.file_size - done)) or b""
        total, done = zlib.crc32(data, total), done + len(data)
        if not data:
            break
    if total != info.CRC:
        raise BadInput(f"{path} is cut off, damaged or no NumPy archive: bad check sum of {info.filename}")


def _unpacked(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, begin: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> StoredArray:
    """Unpack a compressed member to a temporary file, which is removed with the array."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if info.file_size > free:
        raise BadInput(
            f"{info.filename} of {archive.filename} takes {info.file_size / 1e9:.1f} GB unpacked, and "
            f"{free / 1e9:.1f} GB are free in {tempfile.gettempdir()}; save it with np.savez, "
            "or set TMPDIR to a larger disk"
        )
    place = tempfile.NamedTemporaryFile(prefix="unfooled-", suffix=".npy")  # noqa: SIM115  (removed with its owner)
    with archive.open(info) as source:
        shutil.copyfileobj(source, place, 1 << 20)
    place.flush()
    return StoredArray(Path(place.name), begin, shape, dtype, owner=place)
