"""Largest value of the window around each pixel: separable, and by doubling, so that a wide window costs little more.

    m_1 = a,   m_{i + s}(x) = max(m_i(x), m_i(x - s)) for s <= i,   and m_{2w + 1}(x + w) is the window's maximum

On a CPU the maps lie in one row of memory with a gap of w entries after each line, so that a shift to the side or
downwards is a shift of that row, and every step is one pass over it.
"""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput

CACHED = 1 << 18
"""Bytes of maps that are processed at once, so that they stay in the cache."""
Array = np.ndarray[Any, np.dtype[Any]]


def window_max(a: Tensor, w: int) -> Tensor:
    """Return the largest value within w rows and columns of each pixel, windows cut at the border, (B, H, W).

    Any dtype; no gradient. Pooling does not support bool and is about 50 times slower on a CPU.
    """
    w = check_window(w)
    if a.ndim != 3:
        raise BadInput(f"the map has shape {tuple(a.shape)}; windows need (B, H, W)")
    reach = min(w, a.shape[1] - 1), min(w, a.shape[2] - 1)
    if max(reach, default=0) < 1 or not a.numel():
        return a.clone()
    if a.device.type == "cpu" and a.dtype not in (torch.bfloat16, torch.complex64, torch.complex128):
        return torch.from_numpy(_in_memory(a.detach().numpy(), *reach))
    return _by_shifts(a, *reach)


def _in_memory(a: Array, down: int, aside: int) -> Array:
    """Return the windows' maxima of maps in memory, a few maps at a time."""
    (n, height, width), padded = a.shape, (a.shape[1] + down, a.shape[2] + aside)
    join, least = (np.bitwise_or, False) if a.dtype == bool else (np.maximum, _least(a.dtype))
    block = min(n, max(1, CACHED // (padded[0] * padded[1] * a.itemsize)))
    result = np.empty_like(a, order="C")
    source, spare = (np.empty((block, *padded), a.dtype) for _ in range(2))
    for first in range(0, n, block):
        maps = a[first : first + block]
        source.fill(least)
        source[: len(maps), :height, :width] = maps
        row, other = source.reshape(-1), spare.reshape(-1)
        for step, shift in [*((1, s) for s in _shifts(aside)), *((padded[1], s) for s in _shifts(down)[:-1])]:
            other[: shift * step] = row[: shift * step]
            join(row[shift * step :], row[: -shift * step], out=other[shift * step :])
            row, other = other, row
        # What a line passes on beyond its gap lies before the pixels that are read, also in the next line or map.
        ready = row.reshape(block, *padded)[: len(maps), :, aside:]
        last = down - _shifts(down)[-1] if down else 0
        join(ready[:, down:], ready[:, last : last + height], out=result[first : first + block])
    return result


def _shifts(reach: int) -> list[int]:
    """Return the shifts that grow a window from 1 to 2 reach + 1 entries; the last is at most the reach."""
    shifts, length = [], 1
    while length < 2 * reach + 1:
        shifts.append(min(length, 2 * reach + 1 - length))
        length += shifts[-1]
    return shifts


def _least(dtype: np.dtype[Any]) -> Any:
    """Return the smallest value of a type."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _by_shifts(a: Tensor, down: int, aside: int) -> Tensor:
    """Return the windows' maxima by maxima of shifted copies."""
    for dim, reach in ((1, down), (2, aside)):
        source, a, n = a, a.clone(), a.shape[dim]
        for d in range(1, reach + 1):
            for to, of in ((d, 0), (0, d)):
                target = a.narrow(dim, to, n - d)
                torch.maximum(target, source.narrow(dim, of, n - d), out=target)
    return a


def check_window(w: int) -> int:
    """Return the reach of a window as a plain int; refuse anything but a whole number of at least 0."""
    whole = whole_number(w)
    if whole is None or whole < 0:
        raise BadInput(f"w is {w!r}; the reach of a window is a whole number of pixels, at least 0")
    return whole


def whole_number(value: object) -> int | None:
    """Return an integer of any type, NumPy's included, as int; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
