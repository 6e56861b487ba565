"""The radius that the product of the layers' norms certifies: a simple lower bound, tight for 1-Lipschitz networks.

    R = min over k of (z_y - z_k) / (sqrt(2) L),   L = product of |W|_2 over the layers

Norms of small layers are exact; of large ones |W|_2 <= sqrt(|W|_1 |W|_inf) is used, never an estimate from below.

References:
    Tsuzuku, Sato, Sugiyama, Lipschitz-margin training, NeurIPS 2018, arXiv:1802.04034.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unfooled.certification.graph import trace
from unfooled.certification.network import Network
from unfooled.certification.operations import Activation, Affine, Curve, MaxPool
from unfooled.core.checks import check_inputs
from unfooled.core.shapes import flat

EXACT = 4_000_000  # entries of the matrix of a layer, at most, for its norm to be computed exactly


def lipschitz_radius(model: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
    """Return the L2 radius within which the product of norms proves the label, (B,); 0 for samples that are wrong.

    Args:
        model: A module, or a callable around one, to logits, in evaluation mode. Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.

    Raises:
        BadInput: The inputs cannot be used, or the model has an operation that cannot be bounded.
    """
    check_inputs(x, y)
    network = trace(model, x).network(torch.float64)
    with torch.no_grad():
        logits = network.logits(x)
        own = logits.gather(1, y[:, None])[:, 0]
        margin = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
        return (margin.clamp_min(0) / (math.sqrt(2) * lipschitz_constant(network))).to(x)


def lipschitz_constant(network: Network) -> float:
    """Return an upper bound of the Lipschitz constant of the logits in L2."""
    constants: list[float] = []
    for i, node in enumerate(network.nodes):
        before = [constants[k] for k in node.inputs]
        if not before:
            constants.append(1.0)
        elif node.operation is None:
            constants.append(sum(before))
        elif isinstance(node.operation, Affine):
            constants.append(before[0] * _norm(network, i, node.operation))
        elif isinstance(node.operation, MaxPool):
            constants.append(before[0] * math.sqrt(_windows(node.operation)))
        else:
            constants.append(before[0] * _steepest(node.operation))
    return constants[-1]


def _windows(pool: MaxPool) -> int:
    """Return the largest number of windows that one entry lies in."""
    sides = zip(pool.kernel, pool.stride, pool.dilation, strict=True)
    return math.prod(math.ceil(k * math.gcd(s, d) / s) for k, s, d in sides)


def _steepest(curve: Activation) -> float:
    """Return the largest slope of an activation."""
    return 0.25 if curve.curve is Curve.SIGMOID else 1.0


def _norm(network: Network, i: int, operation: Affine) -> float:
    """Return an upper bound of the spectral norm of an affine node."""
    node = network.nodes[i]
    before = network.nodes[node.inputs[0]].shape
    size = math.prod(before)
    if size * math.prod(node.shape) <= EXACT:
        matrix = flat(operation.linear(torch.eye(size, dtype=network.dtype).reshape(-1, *before)))
        return float(torch.linalg.matrix_norm(matrix, 2)) * (1 + 1e-9)
    size_of = operation.magnitude()
    rows = size_of.linear(torch.ones(1, *before, dtype=network.dtype)).amax()
    columns = size_of.transpose(torch.ones(1, *node.shape, dtype=network.dtype), before).amax()
    return math.sqrt(float(rows * columns)) * (1 + 1e-9)
