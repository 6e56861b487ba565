"""Rows that stay in the files of a run, and are read from there when they are indexed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.errors import BadInput, describe_error
from unfooled.core.samples import Streamed
from unfooled.runs.packing import CODES
from unfooled.runs.store import Store

TYPES = {code: dtype for dtype, code in CODES.items()}
MAX_HEADER = 1 << 27
"""Longest header that is read, in bytes."""


@dataclass(frozen=True)
class TensorLocation:
    """Rows of one tensor in a safetensors file.

    Attributes:
        file: Name of the file in its store.
        start: Position of the first byte.
        size: Number of bytes of a row.
    """

    file: str
    start: int
    size: int


def locate_tensor(store: Store, file: str, name: str, like: Tensor) -> TensorLocation:
    """Find a tensor in a file that was verified before, or has just been written.

    Args:
        store: Store of the file.
        file: Name of the file.
        name: Name of the tensor.
        like: The tensor itself, (b, *D).

    Raises:
        BadInput: The file has been changed or removed meanwhile.
    """
    length = int.from_bytes(_part(store, file, 0, 8), "little")
    try:
        begin, end = json.loads(_part(store, file, 8, length))[name]["data_offsets"]
    except (ValueError, KeyError, TypeError) as error:
        raise _changed(store, file) from error
    size = like[:1].numel() * like.element_size()
    if end - begin != size * len(like):
        raise _changed(store, file)
    return TensorLocation(file, 8 + length + begin, size)


def read_tensors(store: Store, file: str, names: Sequence[str]) -> list[Tensor]:
    """Read some tensors of a safetensors file, and nothing else of it.

    Args:
        store: Store of the file.
        file: Name of the file.
        names: Names of the tensors.

    Raises:
        BadInput: The file is missing or damaged, or has no such tensor.
    """
    try:
        length = int.from_bytes(_part(store, file, 0, 8), "little")
        if length > MAX_HEADER:
            raise ValueError("its header is too long")
        header = json.loads(_part(store, file, 8, length))
        tensors = []
        for name in names:
            begin, end = header[name]["data_offsets"]
            data, dtype = _part(store, file, 8 + length + begin, end - begin), TYPES[header[name]["dtype"]]
            shape = header[name]["shape"]
            tensors.append(
                torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
            )
        return tensors
    except (ValueError, KeyError, TypeError, RuntimeError, RecursionError, AttributeError) as error:
        raise BadInput(f"cannot read {store.place(file)}: {describe_error(error)}; run the audit again") from error


def stored_rows(store: Store, locations: dict[tuple[int, int], TensorLocation], like: Tensor) -> Tensor:
    """Return rows of several files as streamed samples.

    Args:
        store: Store of the files.
        locations: Rows [a, b) of the whole -> where they are; the spans follow one another.
        like: Some of the rows, for their shape and type.
    """
    spans = sorted(locations)
    starts, ends = torch.tensor([a for a, _ in spans]), spans[-1][1]
    shape = tuple(like.shape[1:])

    def read(rows: Tensor) -> Tensor:
        out = torch.empty((len(rows), *shape), dtype=like.dtype)
        where = torch.searchsorted(starts, rows, right=True) - 1
        for k in where.unique().tolist():
            here = (where == k).nonzero()[:, 0]
            out[here] = _read(store, locations[spans[k]], rows[here] - spans[k][0], shape, like.dtype)
        return out

    return Streamed(read, (ends, *shape), like.dtype)


def _read(store: Store, location: TensorLocation, rows: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read rows of one file: the whole range where they are near each other, one by one elsewhere."""
    first, last = int(rows.min()), int(rows.max())
    if last - first < 2 * len(rows):
        data = _part(store, location.file, location.start + first * location.size, (last + 1 - first) * location.size)
        return torch.frombuffer(data, dtype=dtype).reshape(-1, *shape)[rows - first]
    parts = [_part(store, location.file, location.start + row * location.size, location.size) for row in rows.tolist()]
    return torch.frombuffer(bytearray().join(parts), dtype=dtype).reshape(-1, *shape)


def _part(store: Store, file: str, start: int, length: int) -> bytearray:
    data = store.read_part(file, start, length)
    if data is None or len(data) != length:
        raise _changed(store, file)
    return data


def _changed(store: Store, file: str) -> BadInput:
    return BadInput(f"{store.place(file)} was changed or removed while it was needed; start again to compute it again")
