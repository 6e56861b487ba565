"""RayS: a label-only search for the nearest adversarial example in Linf, along rays of signs.

    r(d) = min { r : f(clip(x + r d)) is adversarial },   d in {-1, +1}^D
    flip the signs of one block of d; keep them flipped where r falls

f is the model, D the number of coordinates. Blocks are the whole input, its halves, quarters, ... single coordinates,
then again in random orders. One query at the best radius decides whether a flip is searched further.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.nearest import check_minimal, unbounded
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, logits_at, read_logits
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.core.types import Model

RADIUS_PRECISION = 0.01  # relative precision of a radius


@torch.no_grad()
def rays(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float = math.inf,
    *,
    targeted: bool = False,
    steps: int = 1000,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the nearest adversarial examples along rays of signs, using only predicted classes.

    Args:
        model: Any callable to logits, or to one-hot labels, (B, *D) -> (B, K); no gradient is computed.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: math.inf, the only norm supported.
        targeted: True: y are target classes; give a `start` of that class, since few rays reach one.
        steps: Number of queries (cost: steps forwards per sample, 1 for samples fooled already).
        start: Points z whose signs of z - x are the first ray. None: all signs positive.
        generator: Base seed of the orders of coordinates.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Chen, Gu, RayS: a ray searching method for hard-label adversarial attack, KDD 2020, arXiv:2006.12792.
        Differs from the published code: a flip must gain a share of the radius that shrinks with the block, and the
        radius is searched from the best one downwards in doubling steps before it is bisected; after single coordinates
        the blocks start again in random orders; samples proceed independently.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (math.inf,))
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    out = x.clone()
    live = ~fooled(read_logits(model, x, y), y, targeted=targeted)
    if not bool(live.any()):
        return out
    seeds = rng.seeds(x[live], generator, stage=rng.Stream.RAYS)
    search = _Search(x[live], None if start is None else start[live], seeds, threat)
    label = y[live]
    for _ in range(steps - 1):
        z = search.propose()
        search.answer(fooled(logits_at(model, z), label, targeted=targeted), z)
    out[live] = search.best
    return out


class _Search:
    """State of a batch; each sample is either checking a flip at its best radius or searching a radius."""

    def __init__(self, x: Tensor, start: Tensor | None, seed: Tensor, threat: Threat) -> None:
        self.threat = threat
        b, self.size = len(x), x[0].numel()
        self.x, self.seed, self.best = x, seed, x.clone()
        self.d = torch.ones_like(flat(x)) if start is None else torch.where(flat(start) < flat(x), -1.0, 1.0).to(x)
        self.rank = torch.arange(self.size, device=x.device).repeat(b, 1)
        zero = torch.zeros(b, dtype=torch.int64, device=x.device)
        self.round, self.level, self.block = zero.clone(), zero - 1, zero.clone()  # level -1: the first ray as it is
        self.radius = torch.full((b,), torch.inf, dtype=x.dtype, device=x.device)
        self.searching = zero > 0
        self.low, self.high = torch.zeros_like(self.radius), torch.ones_like(self.radius)
        self.gallop = torch.zeros_like(self.radius)  # relative step of the search downwards; 0 once it bisects

    def _blocks(self) -> Tensor:
        """Return the number of blocks of each sample's level, (b,)."""
        return (1 << self.level.clamp_min(0)).clamp(max=self.size)

    def _ray(self) -> Tensor:
        """Return the signs with the block of each sample flipped, (b, D)."""
        in_block = (self.rank * self._blocks()[:, None]) // self.size == self.block[:, None]
        return torch.where(in_block & (self.level >= 0)[:, None], -self.d, self.d)

    def _least(self) -> Tensor:
        """Return the least relative gain of a flip, which decreases with the block's share of the signs."""
        return 0.25 / self._blocks().to(self.radius.dtype)

    def propose(self) -> Tensor:
        """Return the next query of every sample."""
        check = torch.where(self.radius.isinf(), torch.ones_like(self.radius), self.radius * (1 - self._least()))
        down = torch.where(self.gallop > 0, self.high * (1 - self.gallop), (self.low + self.high) / 2)
        self.query = torch.where(self.searching, down, check)
        z = (self.x + (self.query[:, None] * self._ray()).reshape(self.x.shape)).clamp(0, 1)
        return self.threat.restore_fixed(z, self.x)

    def answer(self, hit: Tensor, z: Tensor) -> None:
        """Update the search with the decisions at the proposed points."""
        rows = hit.reshape(-1, *[1] * (self.x.ndim - 1))
        self.best = torch.where(rows, z, self.best)
        begin, search = hit & ~self.searching, self.searching
        refused = ~hit & ~self.searching
        first = self.radius.isinf()
        self.high = torch.where(hit, self.query, self.high)
        self.low = torch.where(begin, torch.zeros_like(self.low), torch.where(search & ~hit, self.query, self.low))
        # Doubling steps down from the best radius; the first radius is bisected directly.
        step = torch.where(begin & ~first, self._least(), self.gallop * 2)
        self.gallop = torch.where(hit & ~(begin & first) & (step < 0.5), step, torch.zeros_like(step))
        self.radius = torch.where(hit, self.query, self.radius)
        self.searching = begin | search
        width = torch.minimum(self._least(), torch.full_like(self.low, RADIUS_PRECISION))
        ended = self.searching & (self.gallop == 0) & (self.high - self.low <= width * self.high)
        if bool(ended.any()):
            self.d = torch.where(ended[:, None], self._ray(), self.d)
        self.searching &= ~ended
        self._advance(refused | ended)

    def _advance(self, rows: Tensor) -> None:
        """Go to the next block, level or round."""
        self.block = torch.where(rows, self.block + 1, self.block)
        over = rows & ((self.level < 0) | (self.block >= self._blocks()))
        again = over & (self._blocks() >= self.size) & (self.level >= 0)
        self.block = self.block.masked_fill(over, 0)
        self.level = torch.where(over, self.level + 1, self.level).masked_fill(again, 0)
        self.round = self.round + again
        if bool(again.any()):
            order = rng.bits(self.seed[again], self.size, draw=self.round[again]).argsort(dim=1)
            self.rank[again] = order.argsort(dim=1)
