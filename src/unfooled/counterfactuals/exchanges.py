"""Exchanges within groups of exclusive attributes: one value for another, by a share t of the exchange.

    delta = t (mu_b - mu_a)       a: the group's present value, the member with the largest logit; b: any other
    t     = min over groups, b and k of  m_k / (d_k . (mu_b - mu_a))

mu: mean embedding given a value, averaged over classes, see `score.group_means`. t = 1 is a whole exchange.
"""

from __future__ import annotations

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.head import AffineHead


def directions(head: AffineHead, e: np.ndarray, cost: Cost) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the exchanges as pairs: the rows of e that they apply to, and mu_b - mu_a, (n,).

    Raises:
        BadInput: A group has no means, or means of another width.
    """
    exchanges: list[tuple[np.ndarray, np.ndarray]] = []
    for group in cost.groups:
        assert isinstance(group, Group)
        means = None if group.means is None else group.means.numpy()
        if means is None or means.shape[1] != head.n:
            label = f"the group {group.name!r}" if group.name else f"the group of attributes {group.members}"
            raise BadInput(f"{label} has no means of {head.n} entries; give them, see group_means")
        present = e[:, list(group.members)].argmax(1)
        for a in np.unique(present):
            rows = np.flatnonzero(present == a)
            exchanges.extend((rows, means[b] - means[a]) for b in range(len(group.members)) if b != a)
    return exchanges


def farthest(head: AffineHead, low: np.ndarray, high: np.ndarray, v: np.ndarray, cost: Cost) -> np.ndarray:
    """Return the largest t for which t v stays inside the bounds and leaves immutable attributes alone, (B,)."""
    if (v[~cost.free(head)] != 0).any():
        return np.zeros(len(low))
    ends = np.where(v > 0, high, low)
    reach = np.divide(ends, v, out=np.full_like(ends, np.inf), where=v != 0)
    return np.asarray(np.maximum(reach.min(1), 0.0))


def exchange_distances(
    head: AffineHead,
    e: np.ndarray,
    first: np.ndarray,
    margin: np.ndarray,
    cost: Cost,
    *,
    overshoot: float = 0.0,
    target: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the least t to every boundary, the shortfalls, (B, c) each, and the steps to the targets, (B, n).

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        first: Predicted classes, (B,).
        margin: m_k, (B, c).
        cost: Groups with means, bounds and immutable attributes.
        overshoot: Share of the step by which it goes beyond the boundary.
        target: Rivals that the steps lead to, (B,). None: the steps are zero.
    """
    distance, short = np.full_like(margin, np.inf), np.maximum(margin, 0.0)
    distance[margin <= 0] = 0.0
    step = np.zeros_like(e)
    low, high = cost.box(e)
    for rows, v in directions(head, e, cost):
        pull = head.weight.numpy() @ v
        gain = pull[None] - pull[first[rows]][:, None]
        end = farthest(head, low[rows], high[rows], v, cost)[:, None]
        t = np.divide(margin[rows], gain, out=np.full_like(gain, np.inf), where=gain > 0)
        t = np.where(margin[rows] <= 0, 0.0, np.where(t <= end, t, np.inf))
        most = np.where(gain > 0, gain, 0.0) * np.where(np.isfinite(end), end, 0.0)
        short[rows] = np.minimum(short[rows], np.where(np.isfinite(t), 0.0, margin[rows] - most))
        if target is not None:
            here = np.arange(len(rows)), target[rows]
            better = (t[here] < distance[rows, target[rows]]) & np.isfinite(t[here])
            size = np.minimum(t[here] * (1 + overshoot), end[:, 0])
            step[rows[better]] = size[better, None] * v
        distance[rows] = np.minimum(distance[rows], t)
    return distance, short, step
