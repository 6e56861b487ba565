"""The fewest binary attributes (0 or 1) that must be flipped for the label to change.

    g_kf = d_kf (1 - 2 a_f)       what flipping attribute f adds to l_k - l_i
    class i falls below class k: sort the gains; the smallest number of them with a sum >= m_k; the least over all k

This is exact. With weights, exclusive groups (an exchange counts as one) or a target, the fewest are found by branch
and bound (`covering`), exact up to 20,000 nodes, an upper bound beyond.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.covering import TIE, Items, cover, least_cost
from unfooled.counterfactuals.edits import Edit, EditRows
from unfooled.counterfactuals.head import AffineHead, embeddings, target_classes

PART = 1 << 22
"""Largest number of entries of a temporary array."""
TRIED_FIRST = 16
"""Number of attributes with the largest gains that are tried first; they are enough for most samples."""


def flip_attributes(
    head: AffineHead, a: Tensor, *, target: Tensor | int | str | None = None, cost: Cost | None = None
) -> Edit:
    """Find the fewest binary attributes to flip so that the label changes.

    Args:
        head: Affine head on attributes.
        a: Attributes, 0 or 1, (B, n).
        target: Class whose logit shall become the largest, one or (B,). None: any class but the predicted one.
        cost: Immutable attributes, groups and weights; not bounds, nor a covariance.

    Returns:
        An `Edit`: delta is -1, 0 or 1; the cost is the number of attributes, or of exchanges and attributes outside of
        groups, or the sum of their weights (an exchange has the weight of the value that becomes 1). The target is the
        class predicted after the edit.

    Raises:
        BadInput: An attribute is not 0 or 1, or class or cost do not fit the head.

    Example:
        >>> head = AffineHead(torch.tensor([[3.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), torch.tensor([0.0, 2.5]))
        >>> flip_attributes(head, torch.tensor([[1.0, 1.0, 0.0]])).delta
        tensor([[-1.,  0.,  0.]], dtype=torch.float64)
    """
    values = embeddings(head, a, "a").numpy()
    cost = cost or Cost()
    _check(values, head, cost)
    sheet = EditRows.infeasible(len(values), head.n, head.c)
    if target is None and not cost.groups and cost.weights is None:
        _fewest_flips(head, values, cost.free(head), sheet)
    else:
        wanted = None if target is None else target_classes(head, target, len(values))
        for s in range(len(values)):
            _branch_and_bound(head, values[s], None if wanted is None else int(wanted[s]), cost, sheet, s)
    return sheet.edit(torch.as_tensor(a).device)


def _check(a: np.ndarray, head: AffineHead, cost: Cost) -> None:
    """Refuse attributes other than 0 and 1, and costs that have no meaning for them."""
    odd = np.argwhere((a != 0) & (a != 1))
    if len(odd):
        s, f = (int(v) for v in odd[0])
        raise BadInput(f"attribute {f} of sample {s} is {a[s, f]:.4g}; binary attributes are 0 or 1: round them first")
    if cost.bounded or cost.covariance is not None:
        raise BadInput("binary attributes have no bounds or covariance; make attributes immutable, or give weights")
    if cost.weights is not None and cost.weights.shape != (head.n,):
        raise BadInput(f"weights have shape {tuple(cost.weights.shape)}; they must be one per attribute, ({head.n},)")


def _fewest_flips(head: AffineHead, a: np.ndarray, free: np.ndarray, sheet: EditRows) -> None:
    """Fill in the fewest attributes for a change to any class, for many samples and all rivals at once."""
    part = max(1, PART // (head.c * head.n))
    few = min(TRIED_FIRST, head.n)
    for start in range(0, len(a), part):
        rows = np.arange(start, min(start + part, len(a)))
        left = _at_most(head, a, free, sheet, rows, few)
        if len(left) and few < head.n:
            _at_most(head, a, free, sheet, left, head.n)


def _at_most(
    head: AffineHead, a: np.ndarray, free: np.ndarray, sheet: EditRows, rows: np.ndarray, most: int
) -> np.ndarray:
    """Fill in rows for which at most `most` attributes are enough; return the others."""
    weight = head.weight.numpy()
    logits = a[rows] @ weight.T + head.bias.numpy()
    first, here = logits.argmax(1), np.arange(len(rows))
    rival = np.arange(head.c) != first[:, None]
    need = logits[here, first][:, None] - logits
    gain = (weight[None] - weight[first][:, None]) * ((1 - 2 * a[rows]) * free)[:, None]
    best = gain if most == head.n else np.partition(gain, head.n - most, axis=2)[:, :, head.n - most :]
    total = np.cumsum(np.maximum(np.sort(best, axis=2)[:, :, ::-1], 0.0), axis=2)  # (b, c, most)
    count = np.where(need <= 0, 0, (total < need[:, :, None] * (1 - TIE)).sum(2) + 1)
    surplus = np.take_along_axis(total, np.clip(count - 1, 0, most - 1)[:, :, None], 2)[:, :, 0] - need
    can = (count <= most) & rival
    count = np.where(can, count, head.n + 1)
    k = np.where((count == count.min(1, keepdims=True)) & can, surplus, -np.inf).argmax(1)
    feasible = can.any(1)
    sheet.cost[rows] = np.where(feasible, count[here, k], np.inf)
    sheet.shortfall[rows] = np.where(rival, need - total[:, :, -1], np.inf).min(1)
    for b in here:
        row, best_k = rows[b], int(k[b])
        if feasible[b]:
            turned = np.argsort(-gain[b, best_k], kind="stable")[: int(count[b, best_k])]
            sheet.delta[row, turned] = 1 - 2 * a[row, turned]
            sheet.active[row, best_k] = True
        sheet.target[row] = _winner(head, a[row] + sheet.delta[row], int(first[b]), best_k)
    return rows[~feasible]


def _winner(head: AffineHead, a: np.ndarray, first: int, tied: int) -> int:
    """Return the predicted class other than `first`; `tied` where it is as good as any."""
    logits = head.weight.numpy() @ a + head.bias.numpy()
    logits[first] = -np.inf
    k = int(logits.argmax())
    return tied if logits[tied] >= logits[k] else k


def _items(head: AffineHead, a: np.ndarray, cost: Cost) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the changes permitted to one sample, (I, n), their weights and owners, (I,): at most one per owner."""
    free = cost.free(head)
    each = np.ones(head.n) if cost.weights is None else cost.weights.numpy()
    grouped = {f for g in cost.groups if isinstance(g, Group) for f in g.members}
    changes: list[np.ndarray] = []
    weights: list[float] = []
    owners: list[int] = []
    for f in np.flatnonzero(free):
        if int(f) not in grouped:
            step = np.zeros(head.n)
            step[f] = 1 - 2 * a[f]
            changes.append(step)
            weights.append(each[f])
            owners.append(len(owners))
    for number, group in enumerate(cost.groups):
        assert isinstance(group, Group)
        for b in group.members:
            step = np.zeros(head.n)
            step[list(group.members)] = -a[list(group.members)]
            step[b] = 1 - a[b]
            if (step != 0).any() and free[step != 0].all():
                changes.append(step)
                weights.append(each[b])
                owners.append(head.n + number)
    return np.array(changes).reshape(-1, head.n), np.array(weights), np.array(owners, dtype=np.int64)


def _branch_and_bound(head: AffineHead, a: np.ndarray, target: int | None, cost: Cost, sheet: EditRows, s: int) -> None:
    """Fill in one sample by branch and bound."""
    weight = head.weight.numpy()
    logits = weight @ a + head.bias.numpy()
    first = int(logits.argmax())
    changes, weights, owners = _items(head, a, cost)
    rivals = np.delete(np.arange(head.c), first if target is None else target)
    if target is None:
        gains, need = (weight[rivals] - weight[first]) @ changes.T, logits[first] - logits[rivals]
        problems = [(Items(gains[[k]], weights, owners), need[[k]]) for k in range(len(rivals))]
        problems.sort(key=lambda p: least_cost(*p))
    else:
        gains, need = (weight[target] - weight[rivals]) @ changes.T, logits[rivals] - logits[target]
        problems = [(Items(gains, weights, owners), need)]
    exact, short = True, np.inf
    for items, wanted in problems:
        best = cover(items, wanted, sheet.cost[s])
        exact &= best.exact
        short = min(short, best.shortfall)
        if best.selected is not None:
            sheet.cost[s] = best.cost
            sheet.delta[s] = changes[list(best.selected)].sum(0)
    after = weight @ (a + sheet.delta[s]) + head.bias.numpy()
    if target is None:
        after[first] = -np.inf
    sheet.target[s] = int(after.argmax()) if target is None else target
    sheet.exact[s], sheet.shortfall[s] = exact, short
    if not 0 < sheet.cost[s] < np.inf:
        return  # nothing is flipped, and no boundary is met
    margins = after[sheet.target[s]] - after[rivals]
    sheet.active[s, rivals] = margins == margins.min() if target is not None else rivals == sheet.target[s]
