"""Locality scores of one pair of maps as their definitions say, with loops and sets: the slow twin of `distances`.

`compat="reference"` has three defects of the published code (ksandeshk/LENS), to show parity with it and nothing else:

1. the diverse loop deletes the window of the best pixel left before it appends one, so the second greedy pixel is lost;
2. windows are offsets of flat indices, and run over the ends of rows into the next;
3. pixel 0 is dropped from windows and from diverse sets.

Where candidates run out, the published loop raises IndexError; here it stops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

REFERENCE = "reference"


def ranked(a: np.ndarray) -> list[int]:
    "Flat indices, best first, ties to the lower index."
    values = a.ravel().tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def window(i: int, shape: tuple[int, ...], w: int, compat: str | None = None) -> set[int]:
    "Flat indices around one pixel."
    height, width = shape
    if compat == REFERENCE:
        around = {i + r * width + c for r in range(-w, w + 1) for c in range(-w, w + 1)}
        return {j for j in around if 0 < j < height * width}
    row, column = divmod(i, width)
    rows = range(max(0, row - w), min(height, row + w + 1))
    return {r * width + c for r in rows for c in range(max(0, column - w), min(width, column + w + 1))}


def dilated(pixels: set[int], shape: tuple[int, ...], w: int, compat: str | None = None) -> set[int]:
    return set().union(*(window(i, shape, w, compat) for i in pixels))


def top(a: np.ndarray, k: int) -> set[int]:
    return set(ranked(a)[:k])


def greedy(a: np.ndarray, k: int, w: int, compat: str | None = None) -> list[int]:
    "The diverse top k in the order in which they are chosen."
    left = ranked(a)
    chosen = [left[0]]
    left = without(left, window(left[0], a.shape, w, compat))
    while left and len(chosen) < k:
        if compat is None:
            chosen.append(left[0])
        left = without(left, window(left[0], a.shape, w, compat))
        if compat == REFERENCE:  # too late: what is appended is the best of what remains
            left = [i for i in left if i > 0]
            chosen += left[:1]
    return [i for i in chosen if i > 0 or compat is None]


def without(left: list[int], gone: set[int]) -> list[int]:
    return [i for i in left if i not in gone]


def scores(a: np.ndarray, b: np.ndarray, k: int, w: int, compat: str | None = None) -> dict[str, float]:
    "Every score of a pair; NaN where one has no order. The published code always divides by k."
    if any(np.isnan(m).any() or m.min() == m.max() for m in (a, b)):
        return dict.fromkeys(NAMES, math.nan)
    s_a, s_b = top(a, k), top(b, k)
    d_a, d_b = set(greedy(a, k, w, compat)), set(greedy(b, k, w, compat))
    n_a, n_b, m_a, m_b = (dilated(s, a.shape, w, compat) for s in (s_a, s_b, d_a, d_b))
    by_a, by_b = (k, k) if compat == REFERENCE else (len(d_a), len(d_b))
    found: dict[str, Any] = {
        "top_k": len(s_a & s_b) / k,
        "recall": len(n_a & s_b) / k,
        "precision": len(s_a & n_b) / k,
        "diverse": len(d_a & d_b) / max(by_a, by_b),
        "diverse_recall": len(m_a & d_b) / by_b,
        "diverse_precision": len(d_a & m_b) / by_a,
        "chance": len(n_a) / a.size,
        "diverse_chance": len(m_a) / a.size,
        "zero_share": sum(bool(a.ravel()[i] == 0) for i in s_a) / k,
    }
    return found


NAMES = (
    "top_k", "recall", "precision", "diverse", "diverse_recall", "diverse_precision", "chance", "diverse_chance",
    "zero_share",
)  # fmt: skip


def shifted(a: np.ndarray, b: np.ndarray, k: int, w: int) -> list[float]:
    "LENS-recall with b's set moved around the torus by every (dy, dx)."
    height, width = a.shape
    within, places = dilated(top(a, k), a.shape, w), [divmod(i, width) for i in top(b, k)]
    return [
        sum(((r + dy) % height) * width + (c + dx) % width in within for r, c in places) / k
        for dy in range(height)
        for dx in range(width)
    ]


def local_mean(a: np.ndarray, w: int) -> np.ndarray:
    "Mean over the window of each pixel, cut at the border."
    flat = a.ravel().astype(np.float64)
    means = [math.fsum(flat[sorted(window(i, a.shape, w))]) / len(window(i, a.shape, w)) for i in range(a.size)]
    return np.array(means).reshape(a.shape)
