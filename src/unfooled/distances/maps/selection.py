"""Selection of the k largest entries of maps, and counts of masks.

Large maps on a CPU are read one after the other, so that a map stays in the cache: NumPy's partition finds the k-th
largest value several times as fast as torch's topk does. Other maps are selected together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.shapes import flat

LARGE = 4096
"""Entries from which a map is large; below, the calls for each map take longer than the selection."""


def k_largest(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mark the k largest entries of each row, ties to the lower index, and the rows that have an order.

    Args:
        rows: Values, (B, n); no gradient is computed.
        k: Number of entries, between 1 and n.

    Returns:
        A mask, (B, n) bool, empty where a row holds NaN; and (B,) bool, False where a row is constant or holds NaN.
    """
    if _is_large(rows) and rows.dtype in (torch.float32, torch.float64):
        return _one_by_one(rows.detach().numpy(), k)
    least = _kth_largest(rows, k)
    mask = rows >= least
    room = k - mask.sum(1, keepdim=True, dtype=torch.int32)
    if (room < 0).any():  # more ties than places left: take those of lower index
        tie = rows == least
        room = room + tie.sum(1, keepdim=True, dtype=torch.int32)
        mask = mask & (~tie | (tie.cumsum(1, dtype=torch.int32) <= room))
    most = rows.amax(1)  # propagates NaN
    return mask & ~most.isnan()[:, None], most > rows.amin(1)


def count(mask: Tensor) -> Tensor:
    """Count the True entries of each mask, (B, *D) -> (B,) float64."""
    rows = flat(mask)
    if _is_large(rows):
        counts = [np.count_nonzero(row) for row in rows.numpy()]
        return torch.tensor(counts, dtype=torch.float64)
    return rows.sum(1, dtype=torch.int32).double()  # int32 sums of bool are fastest


def count_both(a: Tensor, b: Tensor) -> Tensor:
    """Count the entries that are True in both masks, (B, *D) -> (B,) float64."""
    if not _is_large(flat(a)):
        return count(a & b)
    pairs = zip(flat(a).numpy(), flat(b).numpy(), strict=True)
    both = np.empty(a[0].numel(), dtype=bool)  # one for all maps, which stays in the cache
    return torch.tensor([np.count_nonzero(np.logical_and(s, t, out=both)) for s, t in pairs], dtype=torch.float64)


def _is_large(rows: Tensor) -> bool:
    return rows.device.type == "cpu" and rows.shape[1] >= LARGE


def _one_by_one(rows: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """Do the same one row after the other."""
    mask, ordered = np.empty(rows.shape, dtype=bool), np.empty(len(rows), dtype=bool)
    for row, marked, i in zip(rows, mask, range(len(rows)), strict=True):
        least, most = _least_and_most(row, k)
        if np.isnan(most):
            marked[:], ordered[i] = False, False
            continue
        np.greater_equal(row, least, out=marked)
        surplus = np.count_nonzero(marked) - k
        if surplus > 0:  # more ties than places left: drop those of higher index
            marked[np.flatnonzero(row == least)[-surplus:]] = False
        ordered[i] = most > least or most > row.min()
    return torch.from_numpy(mask), torch.from_numpy(ordered)


def _least_and_most(row: np.ndarray, k: int) -> tuple[np.floating[Any], np.floating[Any]]:
    """Return the k-th largest entry and the largest one, NaN where there is one; for blocks see `_kth_largest`.

    Partition is slow where many entries are equal, as the zeros of sparse maps are; entries equal to the least of the
    blocks' maxima need none.
    """
    n = len(row)
    fold = math.isqrt(n // k)
    size = n // fold
    blocks, rest = row[: fold * size].reshape(fold, size), row[fold * size :]
    maxima = blocks.max(0)
    most = np.maximum(maxima.max(), rest.max()) if len(rest) else maxima.max()
    if np.isnan(most):
        return most, most
    least = np.partition(maxima, size - k)[size - k]
    above = np.take(blocks, np.flatnonzero(maxima > least), axis=1).ravel()
    above = np.concatenate([above, rest]) if len(rest) else above
    above = above[np.flatnonzero(above > least)]  # half the time of a mask
    return (least if len(above) < k else np.partition(above, len(above) - k)[len(above) - k]), most


def _kth_largest(rows: Tensor, k: int) -> Tensor:
    """Return the k-th largest entry of each row, (B, n) -> (B, 1).

    It lies in the k blocks with the largest maxima: these hold k values at least as large as the least of those maxima,
    and every larger value is in one of them. So only these blocks are searched.
    """
    fold = math.isqrt(rows.shape[1] // k)
    if fold > 2:
        size = rows.shape[1] // fold
        blocks = rows[:, : fold * size].reshape(len(rows), fold, size)  # a block is a column: far apart in the map
        best = blocks.amax(1).topk(k, dim=1, sorted=False).indices
        rows = torch.cat([*(part.gather(1, best) for part in blocks.unbind(1)), rows[:, fold * size :]], 1)
    return rows.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
