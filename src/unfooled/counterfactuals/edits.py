"""Edits of an embedding, and the geometry of one constraint: the nearest point of a half-space inside a box.

    min ||x||_p   s.t.   d . x >= m,  low <= x <= high           low <= 0 <= high

    l_2     x = clip(tau d, low, high)            l_inf    x = clip(tau sign(d), low, high)
    l_1     the largest |d_f| first, each up to its bound

The gain d . x is piecewise linear and never falls in tau, so tau is exact: sort the places where a bound is reached.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput


@dataclass(frozen=True, eq=False)
class Edit:
    """Smallest changes of embeddings that change the label.

    Attributes:
        delta: Change of the embedding, (B, n) float64; zero where there is none.
        target: Class that the edit leads to, (B,) int64.
        cost: Norm of the smallest change, without overshoot, in the norm asked for; with groups, the number t of
            exchanges; in `flip_attributes`, the number of attributes or the sum of their weights. (B,); inf: none.
        active: Rivals whose boundary the edit meets, (B, c) bool.
        feasible: True where there is such a change, (B,) bool.
        shortfall: Logits that are missing after the best permitted change, (B,); 0 where feasible.
        exact: True where the cost is the least possible, False where it is an upper bound of it, (B,) bool.
    """

    delta: Tensor
    target: Tensor
    cost: Tensor
    active: Tensor
    feasible: Tensor
    shortfall: Tensor
    exact: Tensor

    def __len__(self) -> int:
        return len(self.cost)

    @property
    def bound(self) -> tuple[str, ...]:
        """Kind of each cost: "exact", "upper bound" or "infeasible"."""
        pairs = zip(self.feasible.tolist(), self.exact.tolist(), strict=True)
        return tuple("infeasible" if not can else "exact" if exact else "upper bound" for can, exact in pairs)


@dataclass
class EditRows:
    """Rows of an `Edit` while they are computed, as arrays."""

    delta: np.ndarray
    target: np.ndarray
    cost: np.ndarray
    active: np.ndarray
    shortfall: np.ndarray
    exact: np.ndarray

    @classmethod
    def infeasible(cls, size: int, n: int, c: int) -> EditRows:
        """Return rows of which none is feasible yet."""
        return cls(
            np.zeros((size, n)),
            np.zeros(size, np.int64),
            np.full(size, np.inf),
            np.zeros((size, c), bool),
            np.full(size, np.inf),
            np.ones(size, bool),
        )

    def edit(self, device: torch.device) -> Edit:
        """Return the edit; rows of infinite cost are infeasible."""
        feasible = np.isfinite(self.cost)
        delta = np.where(feasible[:, None], self.delta, 0.0)
        shortfall = np.where(feasible, 0.0, np.maximum(self.shortfall, 0.0))
        active = self.active & feasible[:, None]
        arrays = (delta, self.target, self.cost, active, feasible, shortfall, self.exact)
        return Edit(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays))


def check_norm(norm: float) -> float:
    """Return the norm as 1.0, 2.0 or inf."""
    if isinstance(norm, bool) or norm not in (1, 2, math.inf):
        raise BadInput(f"norm is {norm!r}; it must be 1, 2 or math.inf")
    return float(norm)


def lengths(x: np.ndarray, norm: float) -> np.ndarray:
    """Compute the norms of the last axis."""
    size = np.abs(x)
    if norm == 2:
        return np.asarray(np.sqrt((size**2).sum(-1)))
    return np.asarray(size.sum(-1) if norm == 1 else size.max(-1))


def dual_lengths(d: np.ndarray, norm: float, sparse: int | None = None) -> np.ndarray:
    """Compute the gain of the best step of length 1 along d, which may move only its `sparse` best coordinates."""
    size = np.abs(d)
    if norm == 1:
        return np.asarray(size.max(-1))
    if sparse is not None and sparse < size.shape[-1]:
        size = np.partition(size, -sparse, axis=-1)[..., -sparse:]
    return np.asarray(np.sqrt((size**2).sum(-1)) if norm == 2 else size.sum(-1))


def steepest(d: np.ndarray, norm: float, sparse: int | None = None) -> np.ndarray:
    """Return the step of length 1 with the largest gain along d, (..., n); zero where d is zero."""
    if norm == 1 or sparse is not None:
        k = 1 if norm == 1 else min(sparse or 1, d.shape[-1])
        top = np.argpartition(-np.abs(d), k - 1, axis=-1)[..., :k]
        masked = np.zeros_like(d)
        np.put_along_axis(masked, top, np.take_along_axis(d, top, -1), -1)
        d = masked
    if norm != 2:
        return np.sign(d)
    size = lengths(d, 2)[..., None]
    return np.divide(d, size, out=np.zeros_like(d), where=size > 0)


def smallest_in_box(
    d: np.ndarray, low: np.ndarray, high: np.ndarray, need: np.ndarray, norm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest changes with a gain d . x >= need inside a box.

    Args:
        d: Gains per unit, (M, n).
        low: Least changes, (M, n), at most 0.
        high: Largest changes, (M, n), at least 0.
        need: Gains needed, (M,).
        norm: 1, 2 or inf.

    Returns:
        The changes, (M, n), NaN where the best corner of the box is not enough, and the gain of that corner, (M,).
    """
    size = np.abs(d)
    cap = np.where(d > 0, high, np.where(d < 0, -low, 0.0))
    best = np.where(cap > 0, size * np.where(cap > 0, cap, 1.0), 0.0)
    rate = np.where(cap > 0, size if norm == 2 else np.sign(size), 0.0)
    reached = np.where(cap > 0, -size if norm == 1 else np.divide(cap, rate, out=np.zeros_like(cap), where=rate > 0), 0)
    order = np.argsort(reached, axis=1, kind="stable")
    gain, slope, at = (np.take_along_axis(a, order, 1) for a in (best, size * rate, reached))
    before = np.concatenate([np.zeros((len(d), 1)), np.cumsum(gain, 1)[:, :-1]], 1)
    after = np.cumsum(slope[:, ::-1], 1)[:, ::-1]
    level = before + (gain if norm == 1 else np.where(after > 0, at * np.where(after > 0, after, 1.0), 0.0))
    total = best.sum(1)
    enough = total >= need
    place = np.minimum((np.maximum.accumulate(level, 1) < need[:, None]).sum(1), d.shape[1] - 1)
    rows = np.arange(len(d))
    here = before[rows, place]
    if norm == 1:
        x = np.where(np.arange(d.shape[1]) < place[:, None], np.take_along_axis(cap, order, 1), 0.0)
        per = np.take_along_axis(size, order, 1)[rows, place]
        x[rows, place] = np.divide(need - here, per, out=np.zeros_like(need), where=per > 0)
        amount = np.zeros_like(x)
        np.put_along_axis(amount, order, x, 1)
    else:
        left = after[rows, place]
        tau = np.divide(need - here, left, out=np.zeros_like(need), where=left > 0)
        amount = np.minimum(tau[:, None] * rate, cap)
    amount = np.where((need > 0)[:, None], np.clip(amount, 0.0, cap), 0.0)
    return np.where((enough | (need <= 0))[:, None], np.sign(d) * amount, np.nan), total
