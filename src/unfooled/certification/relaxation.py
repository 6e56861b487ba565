"""Straight lines below and above an activation between two bounds of its argument.

    lower(z) = a z + c <= f(z) <= b z + d = upper(z)      for l <= z <= u

ReLU and leaky ReLU with a bend inside: the chord above, a line through 0 below, whose slope may be chosen freely.
Sigmoid and tanh: chord and tangent where the curve bends one way only, lines with the smaller end slope otherwise.

References:
    Zhang et al., Efficient neural network robustness certification with general activation functions, NeurIPS 2018,
    arXiv:1811.00866.
    Singh et al., An abstract domain for certifying neural networks, POPL 2019 (lines with the smaller end slope).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.certification.operations import Activation, MaxPool
from unfooled.core.shapes import flat

STEPS = 255  # slopes are stored as multiples of 1 / 255
NARROW = 1e-3  # width below which a smooth activation gets parallel lines


@dataclass(frozen=True, eq=False)
class Lines:
    """Slopes and intercepts of both lines, (R, *shape) each.

    Attributes:
        low_slope: Slope of the lower line.
        low_shift: Intercept of the lower line.
        high_slope: Slope of the upper line.
        high_shift: Intercept of the upper line.
        free: Entries whose lower slope may be any number from `least` to 1. None: there are none.
        least: Smallest free slope.
    """

    low_slope: Tensor
    low_shift: Tensor
    high_slope: Tensor
    high_shift: Tensor
    free: Tensor | None = None
    least: float = 0.0

    def with_slopes(self, slopes: Tensor) -> Self:
        """Return the lines with other lower slopes where they are free."""
        if self.free is None:
            return self
        return replace(self, low_slope=torch.where(self.free, slopes.clamp(self.least, 1.0), self.low_slope))

    def take(self, rows: Tensor) -> Self:
        """Return the lines of some rows, in any order and number."""
        if self.free is None:
            free, low_shift = None, self.low_shift[rows]
        else:  # the lower lines go through 0
            free, low_shift = self.free[rows], self.low_shift.new_zeros(()).expand(len(rows), *self.low_shift.shape[1:])
        return replace(
            self, low_slope=self.low_slope[rows], low_shift=low_shift, high_slope=self.high_slope[rows],
            high_shift=self.high_shift[rows], free=free,
        )  # fmt: skip

    def back(self, a: Tensor, before: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the coefficients before the activation, and the constant that is added to a lower bound, (R,)."""
        constant = flat(a.clamp(max=0) * self.high_shift).sum(1)
        if self.free is None:
            constant = constant + flat(a.clamp(min=0) * self.low_shift).sum(1)
        return a * torch.where(a > 0, self.low_slope, self.high_slope), constant

    def rounding(self, a: Tensor, reach: Tensor) -> Tensor:
        """Return the size of the terms that `back` adds, (R,), for a bound of its rounding errors."""
        size = (self.low_slope.abs() + self.high_slope.abs()) * reach + self.low_shift.abs() + self.high_shift.abs()
        return flat(a.abs() * size).sum(1)


def coded(slopes: Tensor) -> Tensor:
    """Return slopes as they are stored, in multiples of 1 / 255, uint8."""
    return (slopes.clamp(0, 1) * STEPS).round().to(torch.uint8)


def decoded(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Return stored slopes as numbers."""
    return stored.to(dtype) / STEPS


@dataclass(frozen=True, eq=False)
class Windows:
    """Bounds of max pooling: at least the entry with the largest lower bound; at most the largest upper bound.

    Attributes:
        winner: Flat position, within the spatial dimensions, of that entry, (R, *after).
        alone: Windows in which that entry is the largest whatever the input, (R, *after) bool.
        high: Largest upper bound, (R, *after).
    """

    winner: Tensor
    alone: Tensor
    high: Tensor

    def take(self, rows: Tensor) -> Self:
        """Return the windows of some rows, in any order and number."""
        return replace(self, winner=self.winner[rows], alone=self.alone[rows], high=self.high[rows])

    def back(self, a: Tensor, before: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the coefficients before the pooling, and the constant that is added to a lower bound, (R,)."""
        passed = a.clamp(min=0) + torch.where(self.alone, a.clamp(max=0), 0.0)
        constant = flat(torch.where(self.alone, 0.0, a.clamp(max=0) * self.high)).sum(1)
        channels = before[0]
        put = a.new_zeros(len(a), channels, int(torch.tensor(before[1:]).prod()))
        put = put.scatter_add(2, self.winner.flatten(2), passed.flatten(2))
        return put.reshape(len(a), *before), constant

    def rounding(self, a: Tensor, reach: Tensor) -> Tensor:
        """Return the size of the terms that `back` adds, (R,), for a bound of its rounding errors."""
        return flat(a.abs()).sum(1) * flat(reach).amax(1)


def lines(operation: Activation | MaxPool, low: Tensor, high: Tensor, *, unit: float = 0.0) -> Lines | Windows:
    """Return the lines of an operation between bounds of its argument.

    Args:
        operation: The operation.
        low: Lower bounds, (R, *shape).
        high: Upper bounds.
        unit: Unit of rounding by which the lines are moved apart; 0: not at all.
    """
    if isinstance(operation, MaxPool):
        return _windows(operation, low, high)
    if operation.bends:
        return _bent(operation.slope, low, high, unit)
    return _smooth(operation, low, high, unit)


def _bent(slope: float, low: Tensor, high: Tensor, unit: float) -> Lines:
    """Return the lines of max(z, slope z)."""
    free = (low < 0) & (high > 0)
    width = torch.where(free, high - low, 1.0)
    one, least = torch.ones_like(low), torch.full_like(low, slope)  # not numbers, whose type would be float32
    fixed = torch.where(low >= 0, one, least)
    chord = torch.where(free, (high - slope * low) / width, fixed)
    shift = torch.where(free, -(1 - slope) * low * (high / width), 0.0)
    steeper = torch.where(high > -low, one, least)
    zero = torch.zeros_like(low)
    return Lines(torch.where(free, steeper, fixed), zero, chord, shift + 8 * unit * shift, free, slope)


def _smooth(curve: Activation, low: Tensor, high: Tensor, unit: float) -> Lines:
    """Return the lines of a smooth activation that is convex below 0 and concave above."""
    f_low, f_high = curve(low), curve(high)
    d_low, d_high = curve.derivative(low), curve.derivative(high)
    wide = high - low > NARROW
    chord = (f_high - f_low) / torch.where(wide, high - low, 1.0)
    middle = (low + high) / 2
    tangent = curve.derivative(middle)
    parallel = torch.minimum(d_low, d_high)
    concave, convex = wide & (low >= 0), wide & (high <= 0)
    low_slope = torch.where(concave, chord, torch.where(convex, tangent, parallel))
    high_slope = torch.where(convex, chord, torch.where(concave, tangent, parallel))
    bends = wide & ~concave & ~convex
    low_slope = torch.where(bends & (chord <= d_low), chord, low_slope)
    high_slope = torch.where(bends & (chord <= d_high), chord, high_slope)
    at_low = torch.where(convex, middle, low)
    at_high = torch.where(concave, middle, high)
    slack = 16 * unit * (1 + low.abs() + high.abs())
    low_shift = curve(at_low) - low_slope * at_low - slack
    return Lines(low_slope, low_shift, high_slope, curve(at_high) - high_slope * at_high + slack)


def _windows(pool: MaxPool, low: Tensor, high: Tensor) -> Windows:
    winner, best = pool.winners(low), pool(low)
    # A window is decided if no other entry can exceed the lower bound of its winner.
    alone = torch.ones_like(best, dtype=torch.bool)
    positions = torch.arange(low[0, 0].numel(), dtype=low.dtype, device=low.device).reshape(1, 1, *low.shape[2:])
    for value, place in zip(_slices(pool, high, -torch.inf), _slices(pool, positions, -1.0), strict=True):
        alone &= (place.long() == winner) | (value <= best)
    return Windows(winner, alone, pool(high))


def _slices(pool: MaxPool, z: Tensor, fill: float) -> list[Tensor]:
    """Return the k-th entry of every window, for each k; `fill` outside of the input."""
    sides = len(pool.kernel)
    after = pool(torch.zeros_like(z[:1])).shape[2:]
    ends, reach = [], []
    for k in range(sides):
        size = z.shape[2 + k]
        needed = (after[k] - 1) * pool.stride[k] + (pool.kernel[k] - 1) * pool.dilation[k] + 1
        ends.append((pool.padding[k], max(0, needed - size - pool.padding[k])))
        reach.append((after[k] - 1) * pool.stride[k] + 1)
    padded = F.pad(z, [side for end in reversed(ends) for side in end], value=fill)
    result = []
    for offset in torch.cartesian_prod(*[torch.arange(k) for k in pool.kernel]).reshape(-1, sides).tolist():
        cut = padded
        for k, start in enumerate(offset):
            begin = start * pool.dilation[k]
            cut = cut.narrow(2 + k, begin, reach[k])[(slice(None),) * (2 + k) + (slice(None, None, pool.stride[k]),)]
        result.append(cut)
    return result
