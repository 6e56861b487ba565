"""The exact answer for tiny networks, by mixed integer programming.

    z = W x + b;   y >= z, y >= 0, y <= u d, y <= z - l (1 - d), d in {0, 1}    for every ReLU of either sign

Minimised is a margin, or the size of the change under which a margin is not above 0; l and u are CROWN's bounds.

References:
    Tjeng, Xiao, Tedrake, Evaluating robustness of neural networks with mixed integer programming, ICLR 2019,
    arXiv:1711.07356.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.certification.crown import Bounds, crown_bounds, interval_bounds, margin_rows
from unfooled.certification.graph import trace
from unfooled.certification.operations import Activation, Affine
from unfooled.certification.region import Region
from unfooled.core.checks import check_attack
from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat
from unfooled.core.threats import L1, UNIT, Box, Linf, Threat

MOST = 4000  # entries of all nodes together


@dataclass(eq=False)
class _Program:
    """Variables and constraints of a mixed integer program.

    Attributes:
        low: Lower bounds of the variables.
        high: Upper bounds.
        whole: True for integer variables.
        entries: Rows, columns and values of the constraint matrix.
        least: Lower limits of the constraints.
        most: Upper limits.
    """

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)

    def variables(self, low: Any, high: Any, *, whole: bool = False) -> np.ndarray:
        """Add variables and return their columns."""
        start = len(self.low)
        self.low += list(map(float, low))
        self.high += list(map(float, high))
        self.whole += [whole] * (len(self.low) - start)
        return np.arange(start, len(self.low))

    def require(self, terms: list[tuple[int, float]], least: float = -np.inf, most: float = np.inf) -> None:
        """Add a constraint, least <= sum of coefficient times variable <= most."""
        row = len(self.least)
        self.entries += [(row, int(column), float(value)) for column, value in terms if value]
        self.least.append(least)
        self.most.append(most)

    def minimise(self, terms: list[tuple[int, float]], seconds: float) -> tuple[float, np.ndarray | None, bool]:
        """Return a lower bound of the minimum, the best variables found, and whether it is attained there.

        Infinity, None and True if there is no solution.
        """
        from scipy.optimize import Bounds as Ends
        from scipy.optimize import LinearConstraint, milp
        from scipy.sparse import csr_array

        cost = np.zeros(len(self.low))
        for column, value in terms:
            cost[column] += value
        rows, columns, values = zip(*self.entries, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.least), len(self.low)))
        done = milp(
            cost, integrality=np.array(self.whole, dtype=int), bounds=Ends(np.array(self.low), np.array(self.high)),
            constraints=LinearConstraint(matrix, np.array(self.least), np.array(self.most)),
            options={"time_limit": seconds, "mip_rel_gap": 1e-9},
        )  # fmt: skip
        if done.status == 2:
            return math.inf, None, True
        if done.status == 0:
            return float(done.fun), done.x, True
        return -math.inf if done.mip_dual_bound is None else float(done.mip_dual_bound), done.x, False


@dataclass(frozen=True)
class Exact:
    """Exact answer for one sample.

    Attributes:
        value: Smallest margin over the threat, or distance of the nearest adversarial example; inf if there is none. A
            lower bound where it is not exact.
        point: A point that attains it, (*D); the best one found where it is not exact. None: none was found.
        exact: False if the time was over before the answer was found.
    """

    value: float
    point: Tensor | None
    exact: bool = True


def _encode(bounds: Bounds, x: Tensor, norm: float, eps: float | None) -> tuple[_Program, list[np.ndarray], list[int]]:
    """Return the program of a network, the columns of its nodes, and the column of the size of the change."""
    program, columns = _Program(), list[np.ndarray]()
    network = bounds.network
    for i, node in enumerate(network.nodes):
        low, high = (flat(end)[0].numpy() for end in bounds.nodes[i])
        own = program.variables(low, high)
        if isinstance(node.operation, Affine):
            before = network.nodes[node.inputs[0]].shape
            one = torch.eye(math.prod(before), dtype=network.dtype).reshape(-1, *before)
            weights, shift = flat(node.operation.linear(one)).numpy(), flat(network.shift(i))[0].numpy()
            for k, column in enumerate(own):
                terms = [(c, w) for c, w in zip(columns[node.inputs[0]], weights[:, k], strict=True) if w]
                program.require([(column, -1.0), *terms], -shift[k], -shift[k])
        elif isinstance(node.operation, Activation):
            ends = tuple(flat(end)[0].tolist() for end in bounds.nodes[node.inputs[0]])
            _add_bends(program, own, columns[node.inputs[0]], ends, node.operation)
        elif node.inputs:
            for k, column in enumerate(own):
                program.require([(column, -1.0), *[(columns[j][k], 1.0) for j in node.inputs]], 0.0, 0.0)
        columns.append(own)
    size = _add_size(program, columns[0], flat(x)[0].tolist(), norm, eps)
    return program, columns, size


def _add_bends(
    program: _Program, own: np.ndarray, before: np.ndarray, ends: tuple[list[float], ...], curve: Activation
) -> None:
    """Add the constraints of ReLUs; only those of either sign get a whole number."""
    s = curve.slope
    for column, z, low, high in zip(own, before, *ends, strict=True):
        if low >= 0 or high <= 0:
            program.require([(column, -1.0), (z, 1.0 if low >= 0 else s)], 0.0, 0.0)
            continue
        (d,) = program.variables([0], [1], whole=True)
        program.require([(column, 1.0), (z, -1.0)], least=0.0)
        program.require([(column, 1.0), (z, -s)], least=0.0)
        program.require([(column, 1.0), (z, -s), (d, -(1 - s) * high)], most=0.0)
        program.require([(column, 1.0), (z, -1.0), (d, -(1 - s) * low)], most=-(1 - s) * low)


def _add_size(program: _Program, inputs: np.ndarray, x: list[float], norm: float, eps: float | None) -> list[int]:
    """Add the size of the change: one variable in Linf, one per coordinate in L1."""
    if norm == math.inf and eps is not None:
        return []
    count = 1 if norm == math.inf else len(x)
    size = program.variables([0.0] * count, [np.inf] * count)
    for k, (column, value) in enumerate(zip(inputs, x, strict=True)):
        own = size[0 if norm == math.inf else k]
        program.require([(column, 1.0), (own, 1.0)], least=value)
        program.require([(column, 1.0), (own, -1.0)], most=value)
    if eps is not None:
        program.require([(c, 1.0) for c in size], most=eps)
    return [int(c) for c in size]


def _bounded(model: Callable[..., Any], x: Tensor, threat: Threat) -> Bounds:
    if threat.norm not in (math.inf, 1.0):
        raise BadInput(f"the exact answer needs a threat in linf or l1, not {threat}")
    network = trace(model, x).network(torch.float64)
    entries = sum(math.prod(node.shape) for node in network.nodes)
    if len(network.bends) != len(network.curved) or entries > MOST:
        raise BadInput(
            f"the exact answer is for tiny networks of ReLUs, with at most {MOST} entries of all layers; this one has "
            f"{entries}, or other activations"
        )
    with torch.no_grad():
        return crown_bounds(interval_bounds(network, Region.of(x, threat, torch.float64)))


def exact_margins(
    model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat, *, seconds: float = 60.0
) -> list[Exact]:
    """Return the smallest margin of each sample over a threat, exactly.

    Args:
        model: A tiny network of affine layers and ReLUs, to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Linf or L1 threat.
        seconds: Time for each margin.

    Raises:
        BadInput: The network is too large or has other activations, or the threat another norm.
    """
    x = check_attack(x, y, threat)
    bounds = _bounded(model, x, threat)
    with torch.no_grad():
        return [_smallest(bounds.take(torch.tensor([k])), x[k : k + 1], y[k : k + 1], seconds) for k in range(len(x))]


def _smallest(bounds: Bounds, x: Tensor, y: Tensor, seconds: float) -> Exact:
    eps = float(bounds.region.eps[0])
    program, columns, _ = _encode(bounds, x, bounds.region.norm, eps)
    answers = []
    for a in margin_rows(bounds.network, y).a.tolist():
        value, point, done = program.minimise(list(zip(columns[-1], a, strict=True)), seconds)
        answers.append(Exact(value, _reshaped(point, columns[0], x), done))
    return _least(answers)


def _reshaped(point: np.ndarray | None, columns: np.ndarray, x: Tensor) -> Tensor | None:
    return None if point is None else torch.tensor(point[columns]).reshape(x.shape[1:])


def _least(answers: list[Exact]) -> Exact:
    """Return the smallest answer; it is exact if it is exact itself, for no bound below another value is smaller."""
    return min(answers, key=lambda answer: answer.value, default=Exact(math.inf, None))


def exact_distance(
    model: Callable[..., Any],
    x: Tensor,
    y: Tensor,
    *,
    norm: float = math.inf,
    most: float = 1.0,
    box: Box = UNIT,
    seconds: float = 60.0,
) -> list[Exact]:
    """Return the distance of each sample to its nearest adversarial example, exactly, and this example.

    Args:
        model: A tiny network of affine layers and ReLUs, to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        norm: Norm of the distance: inf or 1.
        most: Largest distance that is looked at; inf is returned beyond it.
        box: Bounds of the inputs.
        seconds: Time for each class.

    Raises:
        BadInput: The network is too large or has other activations, or the norm is another one.
    """
    kinds: dict[float, type[Threat]] = {math.inf: Linf, 1.0: L1}
    if norm not in kinds:
        raise BadInput(f"the exact distance is found in the norms inf and 1, not {norm:g}")
    threat = kinds[norm](most, box=box)
    x = check_attack(x, y, threat)
    bounds = _bounded(model, x, threat)
    with torch.no_grad():
        return [_nearest(bounds.take(torch.tensor([k])), x[k : k + 1], y[k : k + 1], seconds) for k in range(len(x))]


def _nearest(bounds: Bounds, x: Tensor, y: Tensor, seconds: float) -> Exact:
    answers = []
    for a in margin_rows(bounds.network, y).a.tolist():
        program, columns, size = _encode(bounds, x, bounds.region.norm, None)
        program.require(list(zip(columns[-1], a, strict=True)), most=0.0)
        value, point, done = program.minimise([(c, 1.0) for c in size], seconds)
        answers.append(Exact(value, _reshaped(point, columns[0], x), done))
    return _least(answers)
