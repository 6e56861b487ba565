"""The nearest change of label: distances to all boundaries of an affine head, and the edit that crosses the nearest.

    dist_p(e) = min_{k != i} m_k / ||d_k||_q,    1/p + 1/q = 1
    delta     = (1 + overshoot) dist_p s,        s = d_k / ||d_k||_2,  sign(d_k),  sign(d_kf) at f = argmax |d_kf|
                                                 for l_2, l_inf, l_1
    k-sparse: the k largest |d_kf| alone         covariance: m_k / sqrt(d_k^T S d_k), along S d_k
    both:     see `supports.sparse_steps`
    bounds:   see `edits.smallest_in_box`        groups: see `exchanges`

One boundary at a time suffices: if another class were above i at the nearest point of a boundary, a shorter step in
the same direction would have crossed the boundary of that class. This holds for every norm and every set of changes
that is star-shaped about 0.

References:
    Moosavi-Dezfooli et al., DeepFool, CVPR 2016, arXiv:1511.04599 (the l_p distances of an affine classifier).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost
from unfooled.counterfactuals.edits import Edit, EditRows, check_norm, dual_lengths, lengths, smallest_in_box, steepest
from unfooled.counterfactuals.exchanges import exchange_distances
from unfooled.counterfactuals.head import AffineHead, embeddings
from unfooled.counterfactuals.least_distance import LeastDistance
from unfooled.counterfactuals.supports import sparse_steps

PART = 1 << 22
"""Largest number of entries of a temporary array."""


def flip_distance(head: AffineHead, e: Tensor, *, norm: float = 2, cost: Cost | None = None) -> Tensor:
    """Compute the distance of embeddings to every boundary of the predicted class.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        norm: 1, 2 or inf, of the change of the embedding.
        cost: Permitted changes and what they cost. With groups, the distance counts exchanges.

    Returns:
        (B, c) float64: column k is the least change after which class k is no longer below the predicted class; inf on
        the predicted class itself, and where no permitted change is enough. `.amin(1)` is the distance to the nearest
        change of label. 0 where two classes are tied.

    Raises:
        BadInput: Embeddings, norm or cost do not fit the head.

    Example:
        >>> head = AffineHead(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
        >>> flip_distance(head, torch.tensor([[3.0, 1.0]]), norm=1)
        tensor([[inf, 2.]], dtype=torch.float64)
    """
    values = embeddings(head, e).numpy()
    distance, _ = _distances(_Task.of(head, values, check_options(cost, norm, None), None, cost or Cost()))
    return torch.from_numpy(distance).to(torch.as_tensor(e).device)


def flip_edit(
    head: AffineHead,
    e: Tensor,
    *,
    norm: float = 2,
    sparse: int | None = None,
    cost: Cost | None = None,
    overshoot: float = 1e-4,
) -> Edit:
    """Compute the smallest changes of embeddings that change the label to any other.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        norm: 1, 2 or inf, of the change. The answer in l_1 changes a single attribute.
        sparse: Number of attributes that may change. None: all. Under a covariance that is not diagonal, all sets of
            so many attributes are compared, up to 20,000.
        cost: Permitted changes and what they cost.
        overshoot: Share of the distance by which the edit goes beyond the boundary, as far as the bounds permit.

    Returns:
        An `Edit`; its cost is the distance to the boundary, without the overshoot.

    Raises:
        BadInput: Embeddings, norm or cost do not fit the head or each other.
    """
    values = embeddings(head, e).numpy()
    norm = check_options(cost, norm, sparse)
    if not overshoot >= 0:
        raise BadInput(f"overshoot is {overshoot!r}; it must be at least 0")
    task = _Task.of(head, values, norm, sparse, cost or Cost())
    distance, short = _distances(task)
    sheet = EditRows.infeasible(len(values), head.n, head.c)
    rows = np.arange(len(values))
    sheet.target = np.where(np.isfinite(distance).any(1), distance.argmin(1), short.argmin(1))
    sheet.cost = distance[rows, sheet.target]
    sheet.shortfall = short.min(1)
    sheet.active[rows, sheet.target] = np.isfinite(sheet.cost)
    sheet.delta = _changes(task, sheet.target, overshoot)
    return sheet.edit(torch.as_tensor(e).device)


@dataclass(frozen=True, eq=False)
class _Task:
    """Embeddings, the head that classifies them, and the permitted changes.

    Attributes:
        head: The affine head.
        e: Embeddings, (B, n).
        norm: 1, 2 or inf.
        sparse: Number of attributes that may change. None: all.
        cost: Permitted changes and what they cost.
        first: Predicted classes i, (B,).
        margin: m_k = l_i - l_k, (B, c).
    """

    head: AffineHead
    e: np.ndarray
    norm: float
    sparse: int | None
    cost: Cost
    first: np.ndarray
    margin: np.ndarray

    @classmethod
    def of(cls, head: AffineHead, e: np.ndarray, norm: float, sparse: int | None, cost: Cost) -> _Task:
        """Return the task, with predicted classes and margins."""
        logits = e @ head.weight.numpy().T + head.bias.numpy()
        first = np.asarray(logits.argmax(1))
        margin = np.asarray(logits[np.arange(len(e)), first][:, None] - logits)
        return cls(head, e, norm, sparse, cost, first, margin)

    def steps(self, d: np.ndarray) -> np.ndarray | None:
        """Return the sparse steps along d, (M, n), under a covariance; None: attributes can be moved one by one."""
        if self.sparse is None or self.cost.covariance is None:
            return None
        free, matrix = self.cost.free(self.head), self.cost.covariance.numpy()
        if self.sparse >= free.sum() or not (matrix - np.diag(np.diag(matrix))).any():
            return None
        return sparse_steps(d, free, self.sparse, matrix)


def check_options(cost: Cost | None, norm: float, sparse: int | None) -> float:
    """Return the norm; refuse options that have no meaning together."""
    cost, norm = cost or Cost(), check_norm(norm)
    if sparse is not None and (isinstance(sparse, bool) or not isinstance(sparse, int) or sparse < 1):
        raise BadInput(f"sparse is {sparse!r}; it must be a number of attributes, at least 1")
    if cost.weights is not None:
        raise BadInput(
            "weights are costs of binary attributes, for flip_attributes; give the covariance diag(1 / w^2) instead"
        )
    if cost.covariance is not None and norm != 2:
        raise BadInput(f"a covariance replaces the l_2 norm, but norm is {norm:g}; leave one of them out")
    if cost.groups and (cost.covariance is not None or sparse is not None):
        raise BadInput("groups permit one exchange at a time; a covariance or sparse has no meaning with them")
    return norm


def _distances(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and the shortfalls, (B, c) each, inf on the predicted class."""
    cost, first = task.cost, task.first
    if cost.groups:
        distance, short, _ = exchange_distances(task.head, task.e, first, task.margin, cost)
    elif not cost.bounded:
        distance, short = _unbounded(task)
    elif task.sparse is not None:
        raise BadInput("sparse edits to any class take immutable attributes, but no bounds; targeted_edit takes both")
    elif cost.covariance is not None:
        distance, short = _bounded_ellipse(task)
    else:
        distance, short = _bounded(task)
    rows = np.arange(len(task.e))
    distance[rows, first] = short[rows, first] = np.inf
    return distance, short


def _unbounded(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and shortfalls without bounds: margins over dual norms, one table per predicted class."""
    margin, weight, basis = task.margin, task.head.weight.numpy(), task.cost.basis(task.head)
    w = weight @ basis
    gain = np.zeros_like(margin)
    for i in np.unique(task.first):
        steps = task.steps(weight - weight[i])
        along = None if steps is None else ((weight - weight[i]) * steps).sum(1)
        gain[task.first == i] = dual_lengths(w - w[i], task.norm, task.sparse) if along is None else along
    distance = np.divide(margin, gain, out=np.full_like(margin, np.inf), where=gain > 0)
    distance[margin <= 0] = 0.0
    return distance, np.where(np.isfinite(distance), 0.0, margin)


def _bounded(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and shortfalls inside bounds."""
    head, margin = task.head, task.margin
    free, (low, high) = task.cost.free(head), task.cost.box(task.e)
    weight = head.weight.numpy()[:, free]
    low, high = low[:, free], high[:, free]
    distance, short = np.full_like(margin, np.inf), np.zeros_like(margin)
    part = max(1, PART // (head.c * head.n))
    for start in range(0, len(task.e), part):
        take = slice(start, start + part)
        d = weight[None] - weight[task.first[take]][:, None]  # (b, c, r)
        size = d.shape[:2]
        ends = [np.repeat(bound[take], head.c, 0) for bound in (low, high)]
        x, best = smallest_in_box(d.reshape(-1, d.shape[2]), ends[0], ends[1], margin[take].reshape(-1), task.norm)
        reached = lengths(x, task.norm).reshape(size)
        distance[take] = np.where(np.isnan(reached), np.inf, reached)
        short[take] = np.where(np.isnan(reached), margin[take] - best.reshape(size), 0.0)
    return distance, short


def _bounded_ellipse(task: _Task) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and shortfalls inside bounds under a covariance: one program for each sample and rival."""
    head, margin = task.head, task.margin
    free, (low, high) = task.cost.free(head), task.cost.box(task.e)
    weight, basis = head.weight.numpy(), task.cost.basis(head)
    distance, short = np.full_like(margin, np.inf), np.zeros_like(margin)
    for s, i in enumerate(task.first):
        for k in range(head.c):
            x = None if k == i else _inside(weight[k] - weight[i], margin[s, k], low[s], high[s], basis)
            if x is not None:
                distance[s, k] = np.sqrt(x @ x)
                continue
            d = np.where(free, weight[k] - weight[i], 0.0)
            corner = np.where(d > 0, high[s], np.where(d < 0, low[s], 0.0))
            short[s, k] = margin[s, k] - d[d != 0] @ corner[d != 0]
    return distance, short


def _inside(d: np.ndarray, need: float, low: np.ndarray, high: np.ndarray, basis: np.ndarray) -> np.ndarray | None:
    """Return the smallest u with d . L u >= need and low <= L u <= high; None: there is none."""
    below, above = np.isfinite(low), np.isfinite(high)
    rows = np.vstack([(d @ basis)[None], basis[below], -basis[above]])
    solution = LeastDistance(rows).solve(np.r_[need, low[below], -high[above]])
    return None if solution is None else solution[0]


def _changes(task: _Task, target: np.ndarray, overshoot: float) -> np.ndarray:
    """Return the changes that cross one boundary each, (B, n); NaN or zero where that is not possible.

    Args:
        task: Embeddings, head and permitted changes.
        target: Rivals whose boundary is crossed, (B,).
        overshoot: Share of the distance by which the change goes beyond the boundary.
    """
    head, cost = task.head, task.cost
    if cost.groups:
        _, _, step = exchange_distances(head, task.e, task.first, task.margin, cost, overshoot=overshoot, target=target)
        return step
    weight = head.weight.numpy()
    d = weight[target] - weight[task.first]
    need = np.maximum(task.margin[np.arange(len(target)), target], 0.0)
    if cost.bounded:
        return _changes_in_bounds(task, d, need, overshoot)
    basis = cost.basis(head)
    steps = task.steps(d)
    direction = steepest(d @ basis, task.norm, task.sparse) if steps is None else steps
    gain = (direction * (d @ basis if steps is None else d)).sum(1)
    size = np.divide(need, gain, out=np.zeros_like(need), where=gain > 0)
    change = (1 + overshoot) * size[:, None] * direction
    return np.asarray(change @ basis.T if steps is None else change)


def _changes_in_bounds(task: _Task, d: np.ndarray, need: np.ndarray, overshoot: float) -> np.ndarray:
    """Return the smallest changes inside bounds with d . delta >= need, beyond it by the overshoot where there is room.

    Args:
        task: Embeddings, head and permitted changes.
        d: w_k - w_i for the rival k whose boundary is crossed, (B, n).
        need: Margins to that rival, (B,).
        overshoot: Share of the margin by which d . delta exceeds it.
    """
    head, cost = task.head, task.cost
    low, high = cost.box(task.e)
    free = cost.free(head)
    corner = np.where(d * free > 0, high, np.where(d * free < 0, low, 0.0))
    best = np.where(d * free != 0, d, 0.0) * np.where(corner == 0, 0.0, corner)
    most = np.where(np.isinf(best).any(1), np.inf, np.nan_to_num(best, posinf=0.0).sum(1))
    further = np.minimum(need * (1 + overshoot), np.maximum(most, need))
    if cost.covariance is None:
        x, _ = smallest_in_box(d[:, free], low[:, free], high[:, free], further, task.norm)
        return np.asarray(x @ np.eye(head.n)[free])
    basis = cost.basis(head)
    out = np.zeros_like(task.e)
    for s in range(len(task.e)):
        for gain in (further[s], need[s]):
            u = _inside(d[s], gain, low[s], high[s], basis)
            if u is not None:
                out[s] = basis @ u
                break
    return out


__all__ = ["check_options", "flip_distance", "flip_edit"]
