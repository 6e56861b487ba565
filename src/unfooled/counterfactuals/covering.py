"""Covering: the cheapest items whose gains meet several needs at once, by branch and bound.

    min sum w_f x_f   s.t.   sum_f G_kf x_f >= h_k for all k,   x_f in {0, 1},   at most one item per owner

The bound of a node is, over the needs that are left, the largest cost of covering that need alone with parts of items
(its linear relaxation), rounded up to whole numbers where all weights are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

NODES = 20_000
"""Largest number of nodes visited; where it is reached, the best cover so far is an upper bound."""
TIE = 1e-12
"""Share of a need that may be missing, for round-off."""


@dataclass(frozen=True, eq=False)
class Items:
    """Items that can be selected.

    Attributes:
        gains: G, (m, I).
        weights: Positive costs, (I,).
        owners: Owner of each item, (I,): of the items of one owner at most one is selected.
    """

    gains: np.ndarray
    weights: np.ndarray
    owners: np.ndarray


class Cover(NamedTuple):
    """Result of a search.

    Attributes:
        selected: Numbers of the items. None: nothing cheaper than the limit was found.
        cost: Sum of their weights; inf where none was found.
        exact: True where the search was complete.
        shortfall: Largest uncovered need of the best node visited; 0 where all needs were covered.
    """

    selected: tuple[int, ...] | None
    cost: float
    exact: bool
    shortfall: float


class _Node(NamedTuple):
    selected: tuple[int, ...]
    allowed: np.ndarray
    need: np.ndarray
    cost: float


class _Bound:
    """Lower bounds of the cost at a node; the gains of each row are sorted once, by gain per weight."""

    def __init__(self, items: Items) -> None:
        self.order = np.argsort(-items.gains / items.weights, axis=1, kind="stable")
        self.gains = np.maximum(np.take_along_axis(items.gains, self.order, 1), 0.0)
        self.weights = items.weights[self.order]
        self.whole = bool((items.weights == np.round(items.weights)).all())

    def at(self, need: np.ndarray, allowed: np.ndarray) -> tuple[float, int]:
        """Return the bound, inf where a need cannot be covered, and the row of G that gives it."""
        rows = np.flatnonzero(need > 0)
        open_items = allowed[self.order[rows]]
        gains, weights = self.gains[rows] * open_items, self.weights[rows] * (open_items & (self.gains[rows] > 0))
        total = np.cumsum(gains, 1)
        place = (total < need[rows, None] * (1 - TIE)).sum(1)
        if (place == total.shape[1]).any():
            return np.inf, int(rows[place.argmax()])
        each = np.arange(len(rows))
        missing = need[rows] - (total[each, place] - gains[each, place])
        part = np.clip(
            np.divide(missing, gains[each, place], out=np.ones(len(rows)), where=gains[each, place] > 0), 0, 1
        )
        cost = np.cumsum(weights, 1)[each, place] - weights[each, place] * (1 - part)
        if self.whole:
            cost = np.ceil(cost - 1e-9)
        k = int(cost.argmax())
        return float(cost[k]), int(rows[k])


def least_cost(items: Items, need: np.ndarray) -> float:
    """Return a lower bound of the cost of a cover; inf where there is none."""
    if not (need > 0).any():
        return 0.0
    if not items.gains.shape[1]:
        return np.inf
    return _Bound(items).at(need, np.ones(items.gains.shape[1], bool))[0]


def cover(items: Items, need: np.ndarray, limit: float = np.inf, nodes: int = NODES) -> Cover:
    """Find the cheapest cover.

    Args:
        items: Items that can be selected.
        need: h, (m,); a need up to 0 is covered already.
        limit: Only covers cheaper than this are of interest.
        nodes: Largest number of nodes visited.
    """
    if not (need > 0).any():
        return Cover((), 0.0, True, 0.0) if limit > 0 else Cover(None, np.inf, True, 0.0)
    size = items.gains.shape[1]
    if size == 0:
        return Cover(None, np.inf, True, float(need.max()))
    scale = float(need.max()) * TIE
    bound, best, cost = _Bound(items), None, limit
    greedy, short = _greedy(items, need, scale)
    if greedy is not None and (total := float(items.weights[list(greedy)].sum())) < cost:
        best, cost = greedy, total
    stack, seen = [_Node((), np.ones(size, bool), need, 0.0)], 0
    while stack and seen < nodes:
        node = stack.pop()
        seen += 1
        left = np.where(node.need > scale, node.need, 0.0)
        short = min(short, float(left.max(initial=0.0)))
        if not left.any():
            if node.cost < cost - 1e-12:
                best, cost = node.selected, node.cost
            continue
        more, row = bound.at(left, node.allowed)
        if not node.cost + more < cost - 1e-12:
            continue
        pick = next(int(f) for f in bound.order[row] if node.allowed[f])
        without = node.allowed.copy()
        without[pick] = False
        stack.append(_Node(node.selected, without, node.need, node.cost))
        others = node.allowed & (items.owners != items.owners[pick])
        stack.append(
            _Node((*node.selected, pick), others, node.need - items.gains[:, pick], node.cost + items.weights[pick])
        )
    return Cover(best, cost if best is not None else np.inf, not stack, 0.0 if best is not None else short)


def _greedy(items: Items, need: np.ndarray, scale: float) -> tuple[tuple[int, ...] | None, float]:
    """Return a cover built item by item, None where that fails, and the smallest shortfall on the way.

    The shortfall of a selection is its largest uncovered need.
    """
    allowed, selected, left = np.ones(len(items.weights), bool), [], need.copy()
    short = float(np.maximum(left, 0).max())
    while (left > scale).any():
        positive = np.maximum(left, 0.0)[:, None]
        fall = (positive - np.maximum(left[:, None] - items.gains, 0.0)).sum(0) / items.weights
        fall = np.where(allowed, fall, -np.inf)
        pick = int(fall.argmax())
        if not fall[pick] > 0:
            return None, short
        selected.append(pick)
        allowed &= items.owners != items.owners[pick]
        left = left - items.gains[:, pick]
        short = min(short, float(np.maximum(left, 0).max()))
    return tuple(selected), 0.0
