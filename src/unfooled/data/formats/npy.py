"""Headers of NumPy arrays, compared with the size of their data before memory is allocated for them."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import IO

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.core.limits import check_unpacked

MAX_BYTES = 10_000  # bytes of a header; NumPy's own are shorter


def check_header(file: IO[bytes], length: int, path: Path, what: str = "") -> None:
    """Refuse an array whose header is damaged, or states another size than its data have.

    Args:
        file: The open file, at its beginning.
        length: Bytes of the file, unpacked.
        path: Path of the file, or of the archive that it is in.
        what: Name of the array in the archive.

    Raises:
        BadInput: The header is damaged, or states another size; the array would be too large.
    """
    name = f"{what} of {path}" if what else str(path)
    check_unpacked(length, path, what)
    magic = file.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY":
        raise BadInput(f"cannot read {name}: it is no NumPy array, or is cut off; save it again with numpy.save")
    count = 2 if magic[6] == 1 else 4
    header = int.from_bytes(file.read(count), "little")
    if header > MAX_BYTES:
        raise BadInput(
            f"cannot read {name}: it states a header of {header:,} bytes, more than {MAX_BYTES:,}; save it again"
        )
    try:
        stated = ast.literal_eval(file.read(header).decode("utf-8" if magic[6] >= 3 else "latin1").strip())
        kind, shape = np.lib.format.descr_to_dtype(stated["descr"]), tuple(stated["shape"])
        if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 0 for side in shape):
            raise ValueError("its sides are no whole numbers")
    except (ValueError, SyntaxError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise BadInput(
            f"cannot read {name}: it has a header that cannot be read ({type(error).__name__}); save it again"
        ) from error
    if kind.hasobject:
        raise BadInput(f"cannot read {name}: it holds pickled objects, which could run code; save plain numbers")
    entries, available = math.prod(shape), length - 8 - count - header
    if entries * kind.itemsize != available or (entries and not kind.itemsize):
        raise BadInput(
            f"cannot read {name}: it states the shape {shape if len(shape) < 9 else '...'} of {kind}, which takes "
            f"{entries * kind.itemsize:,} bytes, and holds {available:,}; it is damaged, copy it again"
        )
