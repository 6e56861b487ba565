"""Sparse targeted edits: the smallest change of at most k attributes after which the target wins.

A support is the set of attributes that an edit changes. If there are at most 20,000 supports of k attributes, all are
compared, in the order of a lower bound of their cost, the distance to the farthest single boundary; most of them can be
skipped. With more, the supports are those of the attributes that the smallest edits in
l_1 and l_2 move most, and the result is an upper bound.

Towards a single boundary, under a covariance S:   max over supports s of sqrt(d_s^T S_s d_s), S_s = ((S^-1)_ss)^-1
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost
from unfooled.counterfactuals.least_distance import LeastDistance, shortfall, smallest_by_lp

MAX_ENUMERATED = 20_000
"""Number of supports up to which all are enumerated."""
MAX_SHORTFALL = 300
"""Number of supports up to which the shortfall of a sparse edit is computed."""


class SparseEdit(NamedTuple):
    """Smallest edit of one sample.

    Attributes:
        delta: Change of the embedding, (n,).
        cost: Its length; inf where none was found, although there may be one.
        active: Rivals whose boundary the edit lies on, (c - 1,) bool.
        exact: True where no permitted change is smaller.
    """

    delta: np.ndarray
    cost: float
    active: np.ndarray
    exact: bool


def sparse_steps(d: np.ndarray, free: np.ndarray, k: int, covariance: np.ndarray) -> np.ndarray:
    """Return the changes of at most k attributes with the largest gain along d, of length 1 under a covariance, (M, n).

    Args:
        d: Gains per unit, (M, n).
        free: Attributes that may change, (n,) bool.
        k: Number of attributes that change at most.
        covariance: S, (n, n).

    Raises:
        BadInput: There are more than `MAX_ENUMERATED` supports.
    """
    places = np.flatnonzero(free)
    if (count := comb(len(places), k)) > MAX_ENUMERATED:
        raise BadInput(
            f"sparse={k} of {len(places)} attributes leaves {count:,} sets to compare under a covariance, more than "
            f"{MAX_ENUMERATED:,}; take fewer, a diagonal covariance, or targeted_edit, which gives an upper bound"
        )
    supports = np.array(list(combinations(places.tolist(), k)))
    precision = np.linalg.inv(covariance)
    spread = np.linalg.inv(precision[supports[:, :, None], supports[:, None, :]])
    steps = np.zeros_like(d)
    for row, step in zip(d, steps, strict=True):
        own = row[supports]
        pull = (spread @ own[:, :, None])[:, :, 0]
        gains = (own * pull).sum(1)
        best = int(gains.argmax())
        if gains[best] > 0:
            step[supports[best]] = pull[best] / np.sqrt(gains[best])
    return steps


class Supports:
    """Solver of sparse edits towards one target.

    Args:
        g: Rows w_j - w_k, (c - 1, n).
        free: Attributes that may change, (n,) bool.
        k: Number of attributes that change at most.
        cost: Bounds and covariance.
    """

    def __init__(self, g: np.ndarray, free: np.ndarray, k: int, cost: Cost) -> None:
        self.g, self.free, self.k = g, free, k
        self.precision = None if cost.covariance is None else np.linalg.inv(cost.covariance.numpy())
        self.all = comb(int(free.sum()), k) <= MAX_ENUMERATED
        self.table: tuple[np.ndarray, np.ndarray] | None = None

    def solve(self, h: np.ndarray, low: np.ndarray, high: np.ndarray, dense: np.ndarray) -> SparseEdit | None:
        """Return the smallest sparse edit of one sample; None: there is none.

        Args:
            h: Logits that the target must gain on each rival, (c - 1,).
            low: Least changes, (n,).
            high: Largest changes, (n,).
            dense: Smallest edit of all attributes, (n,).
        """
        supports, gains = self._table(h, low, high, dense)
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = np.where(h > 0, h / gains, 0.0).max(1)
        best = None
        for at in np.argsort(bound, kind="stable"):
            if not bound[at] < (np.inf if best is None else best.cost):
                break
            solution = self._solve_on(supports[at], h, low, high)
            if solution is not None and (best is None or solution.cost < best.cost):
                best = solution
        if best is None:
            return None if self.all else SparseEdit(np.zeros(len(low)), np.inf, np.zeros(len(h), bool), False)
        return best

    def _table(
        self, h: np.ndarray, low: np.ndarray, high: np.ndarray, dense: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the supports, (S, k), and the gain of a step of length 1 on each towards each rival, (S, c - 1)."""
        if self.table is not None:
            return self.table
        places = np.flatnonzero(self.free)
        if not self.all:
            sparse = smallest_by_lp(self.g[:, places], h, low[places], high[places], 1.0)
            first = np.abs(dense[places]) / (np.abs(dense).max() or 1.0)
            first = first + (0.0 if sparse is None else 2.0 * (np.abs(sparse[0]) > 1e-9 * np.abs(sparse[0]).max()))
            most = max(
                m
                for m in range(self.k, len(places) + 1)
                if comb(m, self.k) <= max(MAX_ENUMERATED // 10, 1) or m == self.k
            )
            places = np.sort(places[np.argsort(-first, kind="stable")[:most]])
        supports = np.array(list(combinations(places.tolist(), self.k)))
        gains = np.stack([np.sqrt(((self.g[:, s] @ self._root(s)) ** 2).sum(1)) for s in supports])
        if self.all:
            self.table = supports, gains
        return supports, gains

    def _root(self, support: np.ndarray) -> np.ndarray:
        """Return L of the conditional covariance L L^T given that all other attributes do not change."""
        if self.precision is None:
            return np.eye(len(support))
        return np.asarray(np.linalg.cholesky(np.linalg.inv(self.precision[np.ix_(support, support)])))

    def _solve_on(self, support: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> SparseEdit | None:
        """Return the smallest edit on one support."""
        root = self._root(support)
        low, high, n = low[support], high[support], len(low)
        below, above = np.isfinite(low), np.isfinite(high)
        solver = LeastDistance(np.vstack([self.g[:, support] @ root, root[below], -root[above]]))
        solution = solver.solve(np.r_[h, low[below], -high[above]])
        if solution is None:
            return None
        u, active = solution
        delta = np.zeros(n)
        delta[support] = root @ u
        return SparseEdit(delta, float(np.sqrt(u @ u)), active[: len(h)], self.all)

    def shortfall(self, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
        """Return the logits missing after the best sparse change; NaN for more than `MAX_SHORTFALL` supports."""
        if not self.all or comb(int(self.free.sum()), self.k) > MAX_SHORTFALL:
            return float("nan")
        places = np.flatnonzero(self.free).tolist()
        each = (list(s) for s in combinations(places, self.k))
        return min(shortfall(self.g[:, s], h, low[s], high[s]) for s in each)
