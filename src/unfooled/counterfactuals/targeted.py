"""The smallest change after which one class beats all others, and the range of each attribute in which it does.

    min ||delta||   s.t.   G delta >= h,     G: rows w_j - w_k,   h = l_k - l_j + margin,   for all k != j

in l_2 by least-distance programming (bounds add rows; under a covariance G L replaces G, S = L L^T), in l_1 and l_inf
by linear programming, k-sparse over all supports up to 20,000 (see `supports`), with groups one exchange.

    interval of attribute f:   max_{G_kf > 0} h_k / G_kf <= t <= min_{G_kf < 0} h_k / G_kf,   h_k <= 0 where G_kf = 0
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.counterfactuals.cost import Cost
from unfooled.counterfactuals.edits import Edit, EditRows
from unfooled.counterfactuals.exchanges import directions, farthest
from unfooled.counterfactuals.flips import PART, check_options
from unfooled.counterfactuals.head import AffineHead, embeddings, target_classes
from unfooled.counterfactuals.least_distance import LeastDistance, shortfall, smallest_by_lp
from unfooled.counterfactuals.supports import SparseEdit, Supports


def targeted_edit(
    head: AffineHead,
    e: Tensor,
    target: Tensor | int | str,
    *,
    norm: float = 2,
    sparse: int | None = None,
    cost: Cost | None = None,
    margin: float = 0.0,
) -> Edit:
    """Compute the smallest changes of embeddings after which the target's logit is the largest.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        target: Class that shall win, one or (B,); a name where the head has names.
        norm: 1, 2 or inf, of the change.
        sparse: Number of attributes that may change, in l_2. None: all.
        cost: Permitted changes and what they cost. With groups, the change is a single exchange.
        margin: Logits by which the target shall win; at 0 it is tied with the active rivals.

    Returns:
        An `Edit`: exact, except sparse edits with more than 20,000 supports, whose cost is an upper bound. Where the
        target is the prediction already, the change is 0.

    Raises:
        BadInput: The class is unknown, or embeddings, norm or cost do not fit the head or each other.

    Example:
        >>> head = AffineHead(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.zeros(3))
        >>> targeted_edit(head, torch.tensor([[3.0, 1.0]]), 2).delta
        tensor([[-3., -1.]], dtype=torch.float64)
    """
    values = embeddings(head, e).numpy()
    cost, norm = cost or Cost(), check_options(cost, norm, sparse)
    wanted = target_classes(head, target, len(values))
    if sparse is not None and norm != 2:
        raise BadInput(
            f"a sparse targeted edit is the smallest in l_2, but norm is {norm:g}; norm=1 is sparse by itself"
        )
    if not math.isfinite(margin):
        raise BadInput(f"margin is {margin!r}; it must be a finite number of logits")
    sheet = EditRows.infeasible(len(values), head.n, head.c)
    sheet.target = wanted
    low, high = cost.box(values)
    for j in np.unique(wanted):
        rows = np.flatnonzero(wanted == j)
        rivals, g, h = constraints(head, values[rows], int(j), margin)
        problem = _Problem(head, g, norm, sparse, cost)
        for s, need in zip(rows, h, strict=True):
            edit = problem.solve(values[s], need, low[s], high[s])
            if edit is None or not np.isfinite(edit.cost):
                sheet.shortfall[s] = problem.shortfall(values[s], need, low[s], high[s])
                sheet.exact[s] = edit is None
            else:
                sheet.delta[s], sheet.cost[s], sheet.exact[s] = edit.delta, edit.cost, edit.exact
                sheet.active[s, rivals[edit.active]] = True
    return sheet.edit(torch.as_tensor(e).device)


def attribute_interval(head: AffineHead, e: Tensor, target: Tensor | int | str) -> tuple[Tensor, Tensor]:
    """Compute the range in which a change of one attribute alone makes the target's logit the largest.

    Args:
        head: The affine head.
        e: Embeddings, (B, n).
        target: Class that shall win, one or (B,).

    Returns:
        Least and largest change of each attribute, (B, n) float64 each; there is none where low > high. `nearest_in`
        takes the end nearest to 0.

    Raises:
        BadInput: The class is unknown, or the embeddings do not fit the head.
    """
    values = embeddings(head, e).numpy()
    wanted = target_classes(head, target, len(values))
    low, high = np.full(values.shape, -np.inf), np.full(values.shape, np.inf)
    for j in np.unique(wanted):
        rows = np.flatnonzero(wanted == j)
        _, g, h = constraints(head, values[rows], int(j), 0.0)
        part = max(1, PART // g.size)
        for start in range(0, len(rows), part):
            take = rows[start : start + part]
            need = h[start : start + part, :, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = need / g
            low[take] = np.where(g > 0, ends, -np.inf).max(1)
            high[take] = np.where(g < 0, ends, np.inf).min(1)
            never = ((g == 0) & (need > 0)).any(1)
            low[take] = np.where(never, np.inf, low[take])
            high[take] = np.where(never, -np.inf, high[take])
    device = torch.as_tensor(e).device
    return torch.from_numpy(low).to(device), torch.from_numpy(high).to(device)


def nearest_in(low: Tensor, high: Tensor) -> Tensor:
    """Return the number nearest to 0 in each interval; NaN where low > high."""
    middle = torch.zeros_like(low).clamp(min=low, max=high)
    return torch.where(low <= high, middle, torch.full_like(low, torch.nan))


def constraints(head: AffineHead, e: np.ndarray, j: int, margin: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rivals of class j, (c - 1,), G, (c - 1, n), and h, (B, c - 1)."""
    rivals = np.delete(np.arange(head.c), j)
    weight = head.weight.numpy()
    logits = e @ weight.T + head.bias.numpy()
    return rivals, weight[j] - weight[rivals], logits[:, rivals] - logits[:, [j]] + margin


class _Problem:
    """Problem of one target, whose parts that do not depend on the sample are computed once."""

    def __init__(self, head: AffineHead, g: np.ndarray, norm: float, sparse: int | None, cost: Cost) -> None:
        self.head, self.g, self.norm, self.cost = head, g, norm, cost
        self.free, self.basis = cost.free(head), cost.basis(head)
        few = sparse is not None and sparse < self.basis.shape[1]
        self.supports = Supports(g, self.free, sparse or 1, cost) if few else None
        self.solver: tuple[bytes, LeastDistance] | None = None
        self.short: float | None = None

    def solve(self, e: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> SparseEdit | None:
        """Return the smallest edit of one sample; None: there is none."""
        if (h <= 0).all():
            return SparseEdit(np.zeros(len(low)), 0.0, np.zeros(len(h), bool), True)
        if self.cost.groups:
            return self._by_exchange(e, h, low, high)
        if self.norm != 2:
            solution = smallest_by_lp(self.g[:, self.free], h, low[self.free], high[self.free], self.norm)
            if solution is None:
                return None
            delta = np.zeros(len(low))
            delta[self.free] = solution[0]
            return SparseEdit(delta, float(np.linalg.norm(solution[0], self.norm)), solution[1], True)
        dense = self._dense(h, low, high)
        if dense is None or self.supports is None:
            return dense
        return self.supports.solve(h, low, high, dense.delta)

    def _dense(self, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> SparseEdit | None:
        """Return the smallest edit in l_2 or under the covariance."""
        below, above = np.isfinite(low), np.isfinite(high)
        key = np.r_[below, above].tobytes()
        if self.solver is None or self.solver[0] != key:
            rows = np.vstack([self.g @ self.basis, self.basis[below], -self.basis[above]])
            self.solver = key, LeastDistance(rows)
        solution = self.solver[1].solve(np.r_[h, low[below], -high[above]])
        if solution is None:
            return None
        u, active = solution
        return SparseEdit(self.basis @ u, float(np.sqrt(u @ u)), active[: len(h)], True)

    def _by_exchange(self, e: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> SparseEdit | None:
        """Return the least exchange within a group."""
        best = None
        for v, end in self._directions(e, low, high):
            gain = self.g @ v
            ratio = np.divide(h, gain, out=np.zeros_like(h), where=gain != 0)
            least = max(0.0, float(ratio[gain > 0].max(initial=0.0)))
            most = min(end, float(ratio[gain < 0].min(initial=np.inf)))
            if least <= most and not (h[gain == 0] > 0).any() and (best is None or least < best.cost):
                best = SparseEdit(least * v, least, (gain > 0) & (ratio >= least * (1 - 1e-12)), True)
        return best

    def _directions(self, e: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[tuple[np.ndarray, float]]:
        exchanges = directions(self.head, e[None], self.cost)
        return [(v, float(farthest(self.head, low[None], high[None], v, self.cost)[0])) for _, v in exchanges]

    def shortfall(self, e: np.ndarray, h: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
        """Return the logits that are missing after the best permitted change."""
        if self.cost.groups:
            ends = self._directions(e, low, high)
            each = [shortfall((self.g @ v)[:, None], h, np.zeros(1), np.array([end])) for v, end in ends]
            return min([*each, float(np.maximum(h, 0).max())])
        if self.supports is not None:
            return self.supports.shortfall(h, low, high)
        if self.short is not None and not self.cost.bounded:
            return self.short  # without bounds it does not depend on the embedding
        self.short = shortfall(self.g[:, self.free], h, low[self.free], high[self.free])
        return self.short
