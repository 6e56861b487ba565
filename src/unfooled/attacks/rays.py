"""RayS: a label-only search for the nearest adversarial example in Linf, along rays of signs.

    r(d) = min { r : f(clip(x + r d)) is adversarial },   d in {-1, +1}^D
    flip the signs of one block of d; keep them flipped where r falls

f is the model, D the number of coordinates. Blocks are the whole input, its halves, quarters, ... single coordinates,
then again in random orders. One query at the best radius decides whether a flip is searched further.

What is asked next depends on one answer, hit or miss. So queries that follow likely answers can be asked in the same
call: those on the way that the answers take count, as with one query a call, and the others are wasted.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.nearest import check_minimal, unbounded
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, logits_at, read_logits
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model

RADIUS_PRECISION = 0.01  # relative precision of a radius
LIKELY = 0.5  # least probability of the answers before a query that is asked ahead of them


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
    rows: int = 1,
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
        rows: Largest number of points of a call with several queries of a sample; above 1, fewer calls and more
            forwards, with the same result.
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
    if rows < 1:
        raise BadInput(f"rows is {rows}; it must be at least 1")
    threat = unbounded(norm, (math.inf,))
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    out = x.clone()
    live = ~fooled(read_logits(model, x, y), y, targeted=targeted)
    if steps == 1 or not bool(live.any()):
        return out
    seeds = rng.seeds(x[live], generator, stage=rng.Stream.RAYS)
    search = _Search(x[live], None if start is None else start[live], seeds, threat)
    at, label, left = live.nonzero()[:, 0], y[live], torch.full((int(live.sum()),), steps - 1, device=x.device)
    while len(at):
        tree = _Tree(search, left, max(1, rows // len(at)))
        asked = torch.stack([node.asked for node in tree.nodes])
        hit = torch.zeros_like(asked)
        points = torch.cat([node.state.z[node.asked] for node in tree.nodes])
        hit[asked] = fooled(logits_at(model, points), label.expand_as(asked)[asked], targeted=targeted)
        search, used = tree.answered(hit)
        left = left - used
        if bool((over := left == 0).any()):
            out[at[over]] = search.best[over]
            search, at, label, left = search.take(~over), at[~over], label[~over], left[~over]
    return out


@dataclass
class _Node:
    """A state of all samples after some answers, with its proposals.

    Attributes:
        state: The state.
        share: Probability of these answers, by sample, (B,).
        depth: Number of the answers.
        asked: Samples whose proposal is asked in this call, (B,) bool.
        after: Positions of the nodes after a miss and after a hit; 0 for none.
    """

    state: _Search
    share: Tensor
    depth: int
    asked: Tensor
    after: list[int] = field(default_factory=lambda: [0, 0])


class _Tree:
    """Queries of one call: the next one of each sample, and those that follow likely answers.

    Args:
        search: State of the samples.
        left: Queries left, (B,), at least 1.
        most: Largest number of queries of a sample.
    """

    def __init__(self, search: _Search, left: Tensor, most: int) -> None:
        first = _Node(search, torch.ones_like(search.radius), 0, torch.ones_like(search.searching))
        search.z = search.propose()
        self.nodes, count = [first], torch.ones_like(left)
        for node in self.nodes:  # grows
            gain = node.state.likely()
            for k, share in enumerate((node.share * (1 - gain), node.share * gain) if most > 1 else ()):
                asked = node.asked & (share >= LIKELY) & (node.depth + 1 < left) & (count < most)
                if bool(asked.any()):
                    after = copy.copy(node.state)
                    after.answer(torch.full_like(asked, k == 1), after.z)
                    after.z = after.propose()
                    node.after[k], count = len(self.nodes), count + asked
                    self.nodes.append(_Node(after, share, node.depth + 1, asked))

    def answered(self, hit: Tensor) -> tuple[_Search, Tensor]:
        """Return the state after the answers, (nodes, B) bool, and the number of queries that counted, (B,)."""
        after = torch.tensor([node.after for node in self.nodes], device=hit.device)
        asked = torch.stack([node.asked for node in self.nodes])
        at = torch.zeros(hit.shape[1], dtype=torch.int64, device=hit.device)
        every, used = torch.arange(len(at), device=hit.device), torch.ones_like(at)
        for _ in self.nodes:
            following = after[at, hit[at, every].long()]
            on = (following > 0) & asked[following, every]
            at, used = torch.where(on, following, at), used + on
        search = self.nodes[0].state
        for k, node in enumerate(self.nodes[1:], 1):
            if bool((at == k).any()):
                search = search.replaced(node.state, at == k)
        search.answer(hit[at, every], search.z)
        return search, used


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
        self.query, self.z = self.radius, x  # the proposal, once there is one
        self.flips, self.gains = zero.clone(), zero.clone()  # queries that try a flip, and hits among them

    def likely(self) -> Tensor:
        """Return the probability that the next query hits, (b,): even where a radius is searched, else as so far."""
        so_far = (self.gains + 1).to(self.radius.dtype) / (self.flips + 2)
        return torch.where(self.searching, torch.full_like(so_far, 0.5), so_far)

    def take(self, rows: Tensor) -> _Search:
        """Return the state of some samples."""
        part = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[rows])
        return part

    def replaced(self, other: _Search, rows: Tensor) -> _Search:
        """Return this state with that of another one at some samples."""
        mixed = copy.copy(self)
        for name, value in vars(other).items():
            if isinstance(value, Tensor) and value is not getattr(self, name):
                setattr(mixed, name, where_rows(rows, value, getattr(self, name)))
        return mixed

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
        if bool(hit.any()):
            self.best = where_rows(hit, z, self.best)
        begin, search = hit & ~self.searching, self.searching
        refused = ~hit & ~self.searching
        self.flips, self.gains = self.flips + ~self.searching, self.gains + begin
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
            self.rank = self.rank.clone()
            self.rank[again] = order.argsort(dim=1)
