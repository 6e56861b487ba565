"""The set of inputs that a bound is about: a norm ball around each sample, intersected with the box.

A linear function a . z is minimised over it exactly in Linf and L1, and in L2 to a lower bound that uses both ball and
box: a = p + q, min a . z >= x . p - eps |p|_2 + sum_i min(q_i low_i, q_i high_i), with the best split on a line search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threats import Threat

TINY = 1e-30
HALVINGS = 24  # of the line search for the split in L2


@dataclass(frozen=True, eq=False)
class Region:
    """Ball and box around some samples.

    Attributes:
        x: Samples, (B, *D).
        low: Lower end of every coordinate, (B, *D).
        high: Upper end.
        eps: Radius, (B,).
        norm: Norm of the ball: inf, 2 or 1.
    """

    x: Tensor
    low: Tensor
    high: Tensor
    eps: Tensor
    norm: float

    @classmethod
    def of(cls, x: Tensor, threat: Threat, dtype: torch.dtype) -> Self:
        """Return the region of a threat around samples.

        Raises:
            BadInput: An L0 threat.
        """
        if threat.norm not in (math.inf, 2.0, 1.0):
            raise BadInput(
                f"the threat {threat} has no bounds by relaxation; give linf, l2 or l1, or smooth "
                "the model: uf.certification.ablate, unfooled certify --effort smoothing:45"
            )
        threat, x = threat.bounded(x), x.detach().to(dtype)
        eps = torch.as_tensor(threat.eps, dtype=dtype, device=x.device).expand(len(x))
        reach = per_sample(eps, x) if threat.free is None else per_sample(eps, x) * threat.free.to(x)
        low, high = (x - reach).clamp(min=threat.box.low), (x + reach).clamp(max=threat.box.high)
        return cls(x, torch.minimum(low, x), torch.maximum(high, x), eps, threat.norm)

    def take(self, rows: Tensor) -> Self:
        """Return the region of some samples, in any order and number."""
        return type(self)(self.x[rows], self.low[rows], self.high[rows], self.eps[rows], self.norm)

    def minimum(self, a: Tensor) -> Tensor:
        """Return a lower bound of a . z over the region, (R,); `a` has one row per sample of the region."""
        if self.norm == math.inf:
            return flat(a * torch.where(a > 0, self.low, self.high)).sum(1)
        at_x, down = flat(a * self.x).sum(1), self._room(a)
        if self.norm == 1:
            return at_x - self._knapsack(flat(a).abs(), down)
        return at_x - self._ball_and_box(flat(a).abs(), down)

    def _room(self, a: Tensor) -> Tensor:
        """Return how far every coordinate may move in the direction that lowers a . z, (R, D)."""
        return flat(torch.where(a > 0, self.x - self.low, self.high - self.x)).clamp_min(0)

    def _order(self, gain: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """Return the moves, largest gain first: how far each goes, and the order."""
        order = gain.argsort(dim=1, descending=True)
        sorted_room = room.gather(1, order)
        left = (self.eps[:, None] - (sorted_room.cumsum(1) - sorted_room)).clamp_min(0)
        return torch.minimum(sorted_room, left), order

    def _knapsack(self, gain: Tensor, room: Tensor) -> Tensor:
        """Return the largest decrease in L1: the coordinates with the largest gain move first."""
        moves, order = self._order(gain, room)
        return (moves * gain.gather(1, order)).sum(1)

    def _ball_and_box(self, gain: Tensor, room: Tensor) -> Tensor:
        """Return an upper bound of the decrease in L2: eps |p| + sum (gain - p) room, p = min(gain, room / t)."""
        with torch.no_grad():
            share = room / self._multiplier(gain, room)
        share = torch.minimum(gain, share)
        return self.eps * share.norm(dim=1) + ((gain - share) * room).sum(1)

    def _multiplier(self, gain: Tensor, room: Tensor) -> Tensor:
        """Return the largest t found for which the moves min(room, t gain) are at most eps long, (R, 1)."""
        low = (self.eps / gain.norm(dim=1).clamp_min(TINY)).clamp(TINY, 1 / TINY)[:, None]
        high = low * 1e8
        for _ in range(HALVINGS):
            middle = (low * high).sqrt()
            fits = torch.minimum(room, middle * gain).norm(dim=1, keepdim=True) <= self.eps[:, None]
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        return low

    def minimiser(self, a: Tensor) -> Tensor:
        """Return a point of the region, up to rounding, at which a . z is about smallest, (R, *D)."""
        if self.norm == math.inf:
            return torch.where(a > 0, self.low, self.high)
        gain, room = flat(a).abs(), self._room(a)
        if self.norm == 1:
            sizes, order = self._order(gain, room)
            moves = torch.zeros_like(sizes).scatter(1, order, sizes)
        else:
            moves = torch.minimum(room, self._multiplier(gain, room) * gain)
        return self.x - a.sign() * moves.reshape(a.shape)
