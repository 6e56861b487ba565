"""Interval bound propagation: every node between two numbers, from the input to the logits.

    affine      mu' = W mu + b,   r' = |W| r          activation   [f(l), f(u)]

In L2 and L1 the first layers see the ball as well as the box: r'_i = eps |W_i|_q, 1/p + 1/q = 1.

References:
    Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018,
    arXiv:1810.12715.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unfooled.certification.network import Interval, Network, Node
from unfooled.certification.operations import Affine
from unfooled.certification.region import Region
from unfooled.core.shapes import flat, per_sample

UNIT = 2.0**-53  # of rounding in float64
MARGIN = 4.0  # factor on every bound of rounding errors


def gamma(count: int, unit: float) -> float:
    """Return the relative rounding error of a sum of `count` products, at most; 0 if `unit` is 0."""
    return MARGIN * (count + 8) * unit


def intervals(
    network: Network, region: Region, *, known: Mapping[int, Interval] | None = None, unit: float = 0.0
) -> list[Interval]:
    """Return bounds of every node.

    Args:
        network: The network.
        region: Set of inputs.
        known: Bounds of some nodes, which are used as far as they are tighter. None: there are none.
        unit: Unit of rounding by which all bounds are moved apart; 0: not at all.

    Returns:
        Lower and upper bounds of each node, (B, *shape).
    """
    bounds: list[Interval] = []
    for i, node in enumerate(network.nodes):
        low, high = _node(network, i, node, bounds, region, unit)
        if known is not None and i in known:
            low, high = torch.maximum(low, known[i][0]), torch.minimum(high, known[i][1])
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        bounds.append((low, high))
    return bounds


def _node(network: Network, i: int, node: Node, bounds: list[Interval], region: Region, unit: float) -> Interval:
    """Return the bounds of one node from those before it."""
    if not node.inputs:
        return region.low, region.high
    before = [bounds[k] for k in node.inputs]
    if isinstance(node.operation, Affine):
        (low, high), operation = before[0], node.operation
        middle, radius = (low + high) / 2, (high - low) / 2
        centre, spread = operation.forward(middle), operation.magnitude().linear(radius)
        if region.norm != math.inf and (rows := _ball(network, i, region)) is not None:
            at_x = network.result_at(region.x, i)
            spread_ball = per_sample(region.eps, at_x) * rows
            tight = _meet((centre - spread, centre + spread), (at_x - spread_ball, at_x + spread_ball))
        else:
            tight = centre - spread, centre + spread
        if unit:
            size = operation.magnitude().linear(torch.maximum(low.abs(), high.abs())) + network.shift(i).abs()
            count = math.prod(network.nodes[node.inputs[0]].shape) + math.prod(node.shape)
            slack = gamma(count, unit) * 2 * size
            tight = tight[0] - slack, tight[1] + slack
        return tight
    if node.operation is None:
        low, high = (torch.stack(end).sum(0) for end in zip(*before, strict=True))
        size = torch.stack([torch.maximum(a.abs(), b.abs()) for a, b in before]).sum(0)
        slack = gamma(len(before), unit) * size
        return low - slack, high + slack
    low, high = (node.operation(end) for end in before[0])
    return low - 16 * unit * (1 + low.abs()), high + 16 * unit * (1 + high.abs())


def _meet(a: Interval, b: Interval) -> Interval:
    return torch.maximum(a[0], b[0]), torch.minimum(a[1], b[1])


def _ball(network: Network, i: int, region: Region) -> Tensor | None:
    """Return the dual norm of every row of the map from the input to an affine node; None after the first activation.

    The rows are the same for all samples, and are found once for each network and norm.
    """
    key = (i, region.norm)
    if key not in network.rows:
        network.rows[key] = _dual_norms(network, i, region.norm)
    return network.rows[key]


def _dual_norms(network: Network, i: int, norm: float) -> Tensor | None:
    path = _affine_path(network, i)
    if path is None or torch.is_grad_enabled():
        return None
    count, shape = math.prod(network.nodes[i].shape), network.nodes[i].shape
    device = network.shift(i).device
    parts = []
    for start in range(0, count, 1024):
        rows = torch.arange(start, min(start + 1024, count), device=device)
        a = torch.zeros(len(rows), count, dtype=network.dtype, device=device)
        a = a.scatter(1, rows[:, None], 1.0).reshape(len(rows), *shape)
        for k in path:
            operation, before = network.nodes[k].operation, network.nodes[network.nodes[k].inputs[0]].shape
            assert isinstance(operation, Affine)
            a = operation.transpose(a, before)
        parts.append(flat(a).norm(dim=1) if norm == 2 else flat(a).abs().amax(1))
    return torch.cat(parts).reshape(1, *shape) * (1 + 1e-6)


def _affine_path(network: Network, i: int) -> list[int] | None:
    """Return the affine nodes from one back to the input; None if there is anything else."""
    path = []
    while network.nodes[i].inputs:
        if not isinstance(network.nodes[i].operation, Affine):
            return None
        path.append(i)
        i = network.nodes[i].inputs[0]
    return path
