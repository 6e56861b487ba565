"""Bounds by linear relaxation, from the margins back to the input (CROWN).

    C f(z) >= a . z + c on the region;  min over the region of a . z + c is the bound

Each row is one bound: a sample, and a linear function of some node, whose coefficients are taken back node by node.
Bounds of the nodes in between come from intervals (CROWN-IBP, cheap) or from the same method, layer by layer (CROWN).

References:
    Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018,
    arXiv:1811.00866 (CROWN).
    Zhang et al., Towards stable and efficient training of verifiably robust neural networks, ICLR 2020,
    arXiv:1906.06316 (CROWN-IBP).
    Differs: the region is ball and box together; every bound is at least as tight as that of the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.certification import patches
from unfooled.certification.ibp import gamma, intervals
from unfooled.certification.network import Interval, Network
from unfooled.certification.nodes import Bounds
from unfooled.certification.operations import Affine
from unfooled.certification.patches import sees_windows
from unfooled.certification.region import Region
from unfooled.certification.relaxation import Lines, Windows, lines
from unfooled.core.shapes import flat

ROW_BYTES = 2**26  # memory for the coefficients of one part of the rows
SAMPLE_BYTES = 2**28  # memory for one row of each of the samples that are bounded together


@dataclass(frozen=True, eq=False)
class Rows:
    """Coefficients of the bounds that are computed together.

    Attributes:
        start: Position of the node that they are functions of.
        a: Coefficients of that node, (R, *shape).
        owner: Sample of each row, (R,).
        slopes: Lower slopes of ReLUs by position, (R, *shape). Empty: the default ones.
        splits: Sides to which ReLUs are restricted, by position, (R, *shape): 1 above 0, -1 below, 0 both.
        prices: Multipliers of the splits, at least 0, by position, (R, *shape).
    """

    start: int
    a: Tensor
    owner: Tensor
    slopes: Mapping[int, Tensor] = field(default_factory=dict)
    splits: Mapping[int, Tensor] = field(default_factory=dict)
    prices: Mapping[int, Tensor] = field(default_factory=dict)

    def take(self, rows: Tensor) -> Self:
        """Return some of the rows."""

        def part(values: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {i: value[rows] for i, value in values.items()}

        return replace(
            self, a=self.a[rows], owner=self.owner[rows], slopes=part(self.slopes), splits=part(self.splits),
            prices=part(self.prices),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What one pass back needs for some rows: their region, lines and bounds of rounding errors.

    Attributes:
        bounds: Bounds of the nodes, one row each.
        lines: Lines of the activations by position; an activation without lines is bounded by its interval.
    """

    bounds: Bounds
    lines: Mapping[int, Lines | Windows]

    @classmethod
    def of(cls, bounds: Bounds, rows: Rows, *, by_lines: bool = True) -> Self:
        """Return the relaxation for some rows; splits narrow the bounds of their ReLUs."""
        own, network = bounds.take(rows.owner), bounds.network
        found: dict[int, Lines | Windows] = {}
        for i in network.curved if by_lines else []:
            if i > rows.start:
                break
            node = network.nodes[i]
            assert not isinstance(node.operation, Affine)
            assert node.operation is not None
            if i not in rows.splits and len(bounds.nodes[0][0]) <= len(rows.owner):  # the same for rows of one sample
                found[i] = bounds.lines(i).take(rows.owner)
                continue
            low, high = own.nodes[node.inputs[0]]
            if i in rows.splits:
                side = rows.splits[i]
                low, high = torch.where(side > 0, low.clamp_min(0), low), torch.where(side < 0, high.clamp_max(0), high)
                low, high = torch.minimum(low, high), torch.maximum(low, high)
            found[i] = lines(node.operation, low, high, unit=bounds.unit)
        return cls(own, found)


def backward(rows: Rows, relaxed: Relaxed) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Take coefficients back to the input.

    Returns:
        Lower bounds, (R,); coefficients of the input, (R, *D); coefficients after each ReLU that can be split.
    """
    bounds = relaxed.bounds
    network, unit = bounds.network, bounds.unit
    total, at_bends = rows.a.new_zeros(len(rows.a)), {}
    pending = {rows.start: rows.a}
    coefficients = rows.a.new_zeros(()).expand(len(rows.a), *bounds.whole.x.shape[1:])
    for i in range(rows.start, -1, -1):
        if i not in pending:
            continue
        a, node = pending.pop(i), network.nodes[i]
        if not node.inputs:
            total, coefficients = total + bounds.region.minimum(a), a
            slack = gamma(a[0].numel(), unit) * 2 * flat(a.abs() * bounds.reach(i)).sum(1) if unit else 0.0
            total = total - slack
            continue
        if node.operation is None:
            for k in node.inputs:
                pending[k] = pending[k] + a if k in pending else a
            continue
        before = network.nodes[node.inputs[0]].shape
        if isinstance(node.operation, Affine):
            back, constant = _through_affine(bounds, i, node.operation, a, before)
        elif i in relaxed.lines:
            if i in network.bends:
                at_bends[i] = a
            back, constant = _through_lines(rows, relaxed, i, a, before)
        else:
            low, high = bounds.nodes[i]
            constant = flat(torch.where(a > 0, a * low, a * high)).sum(1)
            slack = gamma(a[0].numel(), unit) * flat(a.abs() * bounds.reach(i)).sum(1) if unit else 0.0
            total = total + constant - slack
            continue
        total, k = total + constant, node.inputs[0]
        pending[k] = pending[k] + back if k in pending else back
    return total, coefficients, at_bends


def _through_affine(
    bounds: Bounds, i: int, operation: Affine, a: Tensor, before: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return the coefficients before an affine node, and its constant."""
    network, unit = bounds.network, bounds.unit
    constant = flat(a) @ network.shift(i).flatten()
    if unit:
        reach = bounds.reach(network.nodes[i].inputs[0])
        size = flat(operation.magnitude().transpose(a.abs(), before) * reach).sum(1)
        size = size + flat(a.abs() * network.shift(i).abs()).sum(1)
        constant = constant - gamma(math.prod(before) + math.prod(network.nodes[i].shape), unit) * 3 * size
    return operation.transpose(a, before), constant


def _through_lines(rows: Rows, relaxed: Relaxed, i: int, a: Tensor, before: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the coefficients before an activation, with the prices of its splits, and its constant."""
    line, bounds = relaxed.lines[i], relaxed.bounds
    if isinstance(line, Lines) and i in rows.slopes:
        line = line.with_slopes(rows.slopes[i])
    back, constant = line.back(a, before)
    if bounds.unit:
        reach = bounds.reach(bounds.network.nodes[i].inputs[0])
        constant = constant - gamma(2 * a[0].numel(), bounds.unit) * line.rounding(a, reach)
    if i in rows.prices:
        back = back - rows.prices[i].clamp_min(0) * rows.splits[i]
        if bounds.unit:
            size = flat((back.abs() + 2 * rows.prices[i].clamp_min(0)) * reach).sum(1)
            constant = constant - gamma(2, bounds.unit) * size
    return back, constant


def lower_bounds(rows: Rows, bounds: Bounds, *, by_lines: bool = True) -> Tensor:
    """Return a lower bound for every row, (R,), part by part as the memory allows."""
    result = []
    for part in in_parts(
        torch.arange(len(rows.owner), device=rows.owner.device), rows_at_once(bounds.network, rows.start)
    ):
        some = rows.take(part)
        result.append(backward(some, Relaxed.of(bounds, some, by_lines=by_lines))[0])
    return torch.cat(result) if result else rows.a.new_zeros(0)


def in_parts(rows: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return indices in parts of a size, at most; no parts where there are no indices."""
    return rows.split(size) if len(rows) else ()


def rows_at_once(network: Network, start: int, memory: int = ROW_BYTES) -> int:
    """Return how many rows fit in the memory set aside for coefficients."""
    entries = sum(math.prod(node.shape) * (7 if node.curved else 3) for node in network.nodes[: start + 1])
    return max(1, memory // (entries * (8 if network.dtype == torch.float64 else 4)))


def samples_at_once(network: Network, most: int = 32) -> int:
    """Return how many samples are bounded together: `most`, or as many as the memory set aside for them allows."""
    return min(most, rows_at_once(network, len(network.nodes) - 1, SAMPLE_BYTES))


def margin_rows(network: Network, y: Tensor) -> Rows:
    """Return the rows of the margins z_y - z_k, for every sample and every k but y, samples first."""
    classes, n = network.classes, len(y)
    others = torch.arange(classes - 1, device=y.device).expand(n, -1)
    others = others + (others >= y[:, None])
    one = torch.eye(classes, dtype=network.dtype, device=y.device)
    a = (one[y][:, None] - one[others]).reshape(-1, classes)
    return Rows(len(network.nodes) - 1, a, torch.arange(n, device=y.device).repeat_interleave(classes - 1))


def interval_bounds(network: Network, region: Region, *, unit: float = 0.0) -> Bounds:
    """Return the bounds of all nodes by intervals."""
    return Bounds(network, region, intervals(network, region, unit=unit), unit)


def crown_bounds(bounds: Bounds, *, tighten: Callable[[Bounds, int], Interval] | None = None) -> Bounds:
    """Return tighter bounds of all nodes: those before an activation by relaxation, layer by layer.

    Only entries whose sign is not known are bounded anew where the activation is a ReLU; the others do not need it.

    Args:
        bounds: Bounds by intervals.
        tighten: Function of bounds and of a node before a ReLU, to better bounds of that node. None: there is none.
    """
    network, known = bounds.network, {}
    first = True
    for i in network.curved:
        before = network.nodes[i].inputs[0]
        if before in known:
            continue
        if first and bounds.region.norm == math.inf and _first(network, before):
            first = False
            continue  # intervals are exact
        known[before] = _refined(bounds, before, split=i in network.bends)
        bounds = replace(bounds, nodes=intervals(network, bounds.region, known=known, unit=bounds.unit))
        if tighten is not None and i in network.bends:
            known[before] = tighten(bounds, before)
            bounds = replace(bounds, nodes=intervals(network, bounds.region, known=known, unit=bounds.unit))
    return bounds


def _first(network: Network, i: int) -> bool:
    """Return whether one affine node with weights, at most, lies between the input and a node."""
    count = 0
    while network.nodes[i].inputs:
        operation = network.nodes[i].operation
        if not isinstance(operation, Affine):
            return False
        count += hasattr(operation, "weight")
        i = network.nodes[i].inputs[0]
    return count <= 1


def _refined(bounds: Bounds, i: int, *, split: bool) -> Interval:
    """Return the bounds of a node by relaxation; of a node before a ReLU only where its sign is not known."""
    low, high = (flat(end).clone() for end in bounds.nodes[i])
    wanted = (low < 0) & (high > 0) if split else torch.ones_like(low, dtype=torch.bool)
    owner, place = wanted.nonzero(as_tuple=True)
    windows = sees_windows(bounds, i)
    at_once = patches.rows_at_once(bounds, i) if windows else rows_at_once(bounds.network, i)
    for part in in_parts(torch.arange(len(owner), device=low.device), at_once):
        who, where = owner[part], place[part]
        below, above = (_by_windows if windows else _by_all)(bounds, i, who, where)
        low[who, where] = torch.maximum(low[who, where], below)
        high[who, where] = torch.minimum(high[who, where], -above)
    shape = bounds.nodes[i][0].shape
    return low.reshape(shape), high.reshape(shape)


def _by_all(bounds: Bounds, i: int, owner: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower bounds of entries of a node, and of their negatives, (R,) each."""
    shape = bounds.network.nodes[i].shape
    a = torch.zeros(len(owner), math.prod(shape), dtype=bounds.nodes[i][0].dtype, device=owner.device)
    a = a.scatter(1, place[:, None], 1.0).reshape(-1, *shape)
    relaxed = Relaxed.of(bounds, Rows(i, a, owner))
    below, above = (backward(Rows(i, sign * a, owner), relaxed)[0] for sign in (1, -1))
    return below, above


def _by_windows(bounds: Bounds, i: int, owner: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same where the entries are functions of windows of the nodes before."""
    patch = patches.taken_back(patches.entries(bounds, i, owner, place), bounds)
    node = bounds.network.nodes[patch.node]
    if not node.inputs and bounds.region.norm == math.inf:
        below, above = patches.least(bounds, patch)
        return below, above
    a, twice = patch.dense(node.shape).flatten(0, 1), torch.cat([owner, owner])
    parts = [
        lower_bounds(Rows(patch.node, a[part], twice[part]), bounds)
        for part in in_parts(torch.arange(len(twice), device=owner.device), rows_at_once(bounds.network, patch.node))
    ]
    below, above = (torch.cat(parts) + patch.total.flatten()).chunk(2)
    return below, above


def is_finite(bounds: Bounds) -> Tensor:
    """Return the samples of which no bound has overflowed, (B,) bool."""
    finite = [flat(end).isfinite().all(1) for pair in bounds.nodes for end in pair]
    return torch.stack(finite).all(0)


def undecided(bounds: Bounds) -> Tensor:
    """Return the number of entries before an activation that relaxation would bound anew, for each sample, (B,)."""
    network, count = bounds.network, torch.zeros(len(bounds.nodes[0][0]), dtype=torch.int64)
    for i in network.curved:
        low, high = bounds.nodes[network.nodes[i].inputs[0]]
        count += flat((low < 0) & (high > 0)).sum(1).cpu() if i in network.bends else flat(low).shape[1]
    return count
