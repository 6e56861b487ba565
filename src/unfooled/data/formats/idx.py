"""IDX files, the format of MNIST: two zero bytes, a type, the number of dimensions, the sizes (big-endian), the values.

References:
    LeCun, Cortes, Burges, The MNIST database of handwritten digits (the file format).
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.core.limits import check_unpacked, read_regular, regular
from unfooled.core.memory import max_bytes_in_memory
from unfooled.data.dataset import Source, canonical_split, select_split
from unfooled.data.formats import arrays
from unfooled.data.formats.stored import StoredArray
from unfooled.runs.files import read_part

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IMAGES = re.compile(r"(?:.*[-_.])?(?P<split>[a-z0-9]+)[-_]images[-_.]idx\d[-_.]ubyte(?:\.gz)?", re.IGNORECASE)


def read_idx(path: Path) -> np.ndarray:
    """Read the array in an IDX file, gzipped or not.

    Raises:
        BadInput: The header is not IDX, or the file is shorter or longer than its header says.
    """
    try:
        with regular(path).open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        data = _unpacked(path) if packed else read_regular(path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is cut off or damaged: {error}") from error
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES or not data[3]:
        raise BadInput(f"{path} is no IDX file: it starts with {data[:4].hex(' ') or 'nothing'}")
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data[4:start][: len(data[4:start]) // 4 * 4], ">u4").tolist())
    kind = np.dtype(TYPES[data[2]])
    wanted = start + kind.itemsize * math.prod(shape)
    if len(shape) < data[3] or len(data) != wanted:
        state = "cut off" if len(shape) < data[3] or len(data) < wanted else "too long"
        raise BadInput(f"{path} is {state}: {len(data)} bytes, where its header (sizes {shape}) means {wanted}")
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def stored_idx(path: Path) -> StoredArray | np.ndarray:
    """Return the array in an IDX file; if the file is large and not gzipped, the array is read from it on demand.

    Raises:
        BadInput: As for `read_idx`.
    """
    start = read_part(path, 0, 4 + 4 * 255) or bytearray()
    if path.stat().st_size <= max_bytes_in_memory() or start[:2] != b"\0\0" or start[2] not in TYPES or not start[3]:
        return read_idx(path)
    shape = tuple(np.frombuffer(bytes(start[4 : 4 + 4 * start[3]]), ">u4").tolist())
    kind, begin = np.dtype(TYPES[start[2]]), 4 + 4 * start[3]
    if path.stat().st_size != begin + kind.itemsize * math.prod(shape):
        return read_idx(path)
    return StoredArray(path, begin, shape, kind)


def _unpacked(path: Path) -> bytes:
    """Unpack a gzipped file, at most one byte more than its header states, since its content could be endless."""
    with gzip.open(path) as file:
        start = file.read(4)
        start += file.read(4 * start[3]) if len(start) == 4 else b""
        sides = np.frombuffer(start[4:][: len(start[4:]) // 4 * 4], ">u4").tolist()
        kind = TYPES.get(start[2] if len(start) > 2 else 0)
        stated = 0 if kind is None else np.dtype(kind).itemsize * math.prod(sides)
        check_unpacked(stated, path)
        return start + file.read(stated + 1)


def images_in(folder: Path) -> dict[str, Path]:
    """Return split -> images file for a folder of IDX files; empty for any other folder."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):  # x sorts before x.gz: the unpacked file is preferred
        match = IMAGES.fullmatch(path.name)
        split = canonical_split(match["split"]) if match else None
        if split and path.is_file():
            files.setdefault(split, path)
    return files


def idx_folder(folder: Path, split: str) -> Source:
    """Open a folder of `train-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` and similar names, gzipped or not."""
    files = images_in(folder)
    return idx_file(files[select_split(split, list(files), folder)], name=folder.resolve().name)


def idx_file(path: Path, *, name: str = "") -> Source:
    """Open an images file; its labels file is in the same folder, with a matching name.

    Raises:
        BadInput: There is no labels file, or it has another number of entries.
    """
    bare = path.name.removesuffix(".gz")
    stem = re.sub(r"idx\d", "idx1", bare.replace("images", "labels"))
    beside = [path.with_name(stem + end) for end in ("", ".gz")]
    labels_file = next((file for file in beside if file.is_file() and file != path), None)
    if labels_file is None:
        raise BadInput(f"{path} has no labels beside it; {beside[0].name} or {beside[1].name} was looked for")
    x = stored_idx(path)
    y, _ = arrays.labels(read_idx(labels_file), str(labels_file))
    if len(x) != len(y):
        raise BadInput(f"{path} has {len(x)} images, {labels_file.name} has {len(y)} labels")
    read = arrays.lazy_reader(lambda: arrays.reader(x, str(path), images=True))
    match = IMAGES.fullmatch(path.name)
    split = (canonical_split(match["split"]) if match else None) or "all"
    return Source(name or bare, split, y, arrays.numbered(y), read)
