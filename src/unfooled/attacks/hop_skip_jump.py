"""HopSkipJump: a label-only walk along the decision boundary towards x, in L2 or Linf.

    v = mean_b (phi_b - mean phi) u_b,   phi_b = +1 where clip(z + delta u_b) is adversarial, else -1
    z <- bisect( x, clip(z + xi v) ),    xi = size(z - x) / sqrt(t), halved until adversarial

u_b are random unit vectors, delta is the length of a probe, t the number of the estimate. Near the boundary, the
decisions at random steps estimate its normal. The first point is adversarial noise. First points, halved jumps and the
steps of a bisection can be asked several in one call; those that one query a call would not have asked are wasted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.nearest import Nearest, check_minimal, unbounded
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once, fooled, logits_at
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, Threat
from unfooled.core.types import Model

MAX_NOISE_IMAGES = 60  # largest number of random images tried as a first point
MAX_HALVINGS = 10  # largest number of halvings of a jump that ends on the wrong side
RESERVED_QUERIES = 4  # queries reserved for the jump, beside those of the bisection
MIN_PROBES = 8  # smallest number of probes for an estimate of the normal
MAX_AHEAD = 7  # largest number of queries of a sample that are asked in one call of a bisection: three of its steps
BATCH = 1024  # samples computed at once


@torch.no_grad()
def hop_skip_jump(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float,
    *,
    targeted: bool = False,
    steps: int = 2000,
    probes: int = 30,
    start: Tensor | None = None,
    rows: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the nearest adversarial examples along the boundary, using only predicted classes.

    Args:
        model: Any callable to logits, or to one-hot labels, (B, *D) -> (B, K); no gradient is computed.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 2 or math.inf.
        targeted: True: y are target classes; give a `start` of that class unless noise has it.
        steps: Number of queries (cost: at most steps forwards per sample, 1 for samples fooled already).
        probes: Number of random steps for the first estimate of a normal; the t-th estimate uses sqrt(t) times as many.
        start: Adversarial starting points, such as those of another attack; those that are not are
            replaced by noise. None: noise.
        rows: Largest number of points of a call with several queries of a sample in turn; above 1, fewer calls and more
            forwards, with the same result.
        generator: Base seed of the noise.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Chen, Jordan, Wainwright, HopSkipJumpAttack: a query-efficient decision-based attack, IEEE S&P 2020,
        arXiv:1904.02144.
        Differs from the published code: fewer probes at first, first points also from coarse and two-valued noise, and
        every sample has its own noise and budget.
    """
    x = check_minimal(model, x, y, steps)
    if rows < 1:
        raise BadInput(f"rows is {rows}; it must be at least 1")
    threat = unbounded(norm, (2, math.inf))
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    seed = rng.seeds(x, generator, stage=rng.Stream.HOP_SKIP_JUMP)
    walk = _Walk(checked_once(model, y), x, y, threat, steps, targeted=targeted, seed=seed, rows=rows)
    live = walk.start_points(start)
    t = 0
    while len(live):
        t += 1
        live = walk.hop(live, t, round(probes * math.sqrt(t)))
    return walk.best.z


class _Walk:
    """State of a batch: each sample's point on the boundary, and its remaining queries."""

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, threat: Threat, steps: int, *, targeted: bool, seed: Tensor, rows: int
    ) -> None:
        self.rows = rows
        self.model, self.x, self.y, self.threat, self.targeted, self.seed = model, x, y, threat, targeted, seed
        self.best, self.z = Nearest(x, threat), x.clone()
        self.halvings = math.ceil(math.log2(8 * x[0].numel()))
        self.left = torch.full((len(x),), steps, dtype=torch.int64, device=x.device)

    def ask(self, z: Tensor, at: Tensor) -> Tensor:
        """Return where the points are adversarial for the samples `at`, which may repeat; count the queries."""
        self.left.index_add_(0, at, torch.full_like(at, -1))
        return self.decide(z, at)

    def decide(self, z: Tensor, at: Tensor) -> Tensor:
        """Return the same without counting."""
        return fooled(logits_at(self.model, z, batch=BATCH), self.y[at], targeted=self.targeted)

    def ahead(self, samples: int, most: int) -> int:
        """Return how many queries of each of some samples to ask in one call, at most `most`."""
        return max(1, min(most, self.rows // samples))

    def in_turn(self, z: Tensor, at: Tensor) -> Tensor:
        """Ask points in turn, (m, b, *D), until one is adversarial or no query is left; return its number, m for none.

        Queries are counted up to that point, though all are asked in one call.
        """
        order = torch.arange(len(z), device=at.device)[:, None]
        asked = order < self.left[at]
        hit = torch.zeros_like(asked)
        hit[asked] = self.decide(z[asked], at.expand_as(asked)[asked])
        first = torch.where(hit, order, len(z)).amin(0)
        self.left[at] -= (first + 1).minimum(asked.sum(0))
        return first

    def start_points(self, start: Tensor | None) -> Tensor:
        """Find first points and bring them to the boundary; return the samples with a point and remaining queries."""
        every = torch.arange(len(self.x), device=self.x.device)
        right = ~self.ask(self.x, every)  # where x is fooled already, x is the result
        far, ready = self.x.clone(), ~right  # ready: nothing more to find
        searching = every[right & (self.left > 0)]
        if start is not None and len(searching):
            hit = self.ask(start[searching], searching)
            far[searching] = where_rows(hit, start[searching], far[searching])
            ready[searching] |= hit
        draw = 0
        while draw < MAX_NOISE_IMAGES and len(searching := every[~ready & (self.left > 0)]):
            x, seed = self.x[searching], self.seed[searching]
            draws = range(draw, draw + self.ahead(len(searching), MAX_NOISE_IMAGES - draw))
            z = torch.stack([self.threat.restore_fixed(_noise(x, seed, k), x) for k in draws])
            first = self.in_turn(z, searching)
            hit = first < len(z)
            far[searching[hit]], ready[searching] = z[first[hit], hit.nonzero()[:, 0]], hit
            draw = draws.stop
        live = every[right & ready]
        if not len(live):
            return live
        self.best.record_at(far[live], torch.ones_like(live) > 0, live)
        self.z[live] = self.to_boundary(far[live], live)
        return self.can_continue(live)

    def between(self, far: Tensor, share: Tensor, at: Tensor) -> Tensor:
        """Return the point at a share of the distance of `far`: on the segment from x, or in Linf by clipping."""
        x = self.x[at]
        if self.threat.norm == 2:
            return x + per_sample(share, x) * (far - x)
        radius = per_sample(share * self.threat.size(far - x), x)
        return torch.maximum(torch.minimum(far, x + radius), x - radius)

    def to_boundary(self, far: Tensor, at: Tensor) -> Tensor:
        """Bisect from adversarial points towards x within the remaining queries; return the adversarial ends."""
        low, high, near = torch.zeros(len(at)).to(far), torch.ones(len(at)).to(far), far.clone()
        done = 0
        while done < self.halvings and bool((on := (self.left[at] > 0).nonzero()[:, 0]).numel()):
            depth = min(self.halvings - done, int(math.log2(self.ahead(len(on), MAX_AHEAD) + 1)))
            ends, shares, points = [(low[on], high[on])], [], []
            for k in range(2**depth - 1):  # node k is followed by 2k + 1 after a hit, and by 2k + 2 after a miss
                shares.append((ends[k][0] + ends[k][1]) / 2)
                ends += [(ends[k][0], shares[k]), (shares[k], ends[k][1])]
                points.append(self.between(far[on], shares[k], at[on]))
            hits = self.decide(torch.cat(points), at[on].repeat(len(points))).reshape(len(points), -1)
            node, every, z = torch.zeros_like(on), torch.arange(len(on), device=on.device), torch.stack(points)
            for _ in range(depth):
                go = every[self.left[at[on]] > 0]
                if not len(go):
                    break
                hit, middle = hits[node[go], go], torch.stack(shares)[node[go], go]
                self.left[at[on[go]]] -= 1
                self.best.record_at(z[node[go], go], hit, at[on[go]])
                near[on[go[hit]]] = z[node[go[hit]], go[hit]]
                low[on[go[~hit]]], high[on[go[hit]]] = middle[~hit], middle[hit]
                node[go] = 2 * node[go] + 2 - hit.long()
            done += depth
        return near

    def hop(self, at: Tensor, t: int, probes: int) -> Tensor:
        """Make one estimate, one jump and one bisection; return the samples that can afford another."""
        v = self.normal(at, t, probes)
        z, x = self.z[at], self.x[at]
        step, far = self.threat.size(z - x) / math.sqrt(t), z.clone()
        jumped, halved = torch.zeros_like(at) > 0, 0
        while halved < MAX_HALVINGS and len(on := (~jumped & (self.left[at] > 0)).nonzero()[:, 0]):
            sizes = range(halved, halved + self.ahead(len(on), min(2, MAX_HALVINGS - halved)))
            further = torch.stack([z[on] + per_sample(step[on] / 2**k, x) * v[on] for k in sizes])
            first = self.in_turn(further := self.threat.box.clamp(further), at[on])
            hit, halved = first < len(further), sizes.stop
            if bool(hit.any()):
                far[on[hit]], jumped[on[hit]] = further[first[hit], hit.nonzero()[:, 0]], True
                self.best.record_at(far[on[hit]], hit[hit], at[on[hit]])
        self.z[at] = self.to_boundary(far, at)
        return self.can_continue(at)

    def normal(self, at: Tensor, t: int, probes: int) -> Tensor:
        """Estimate the direction into the adversarial side, as the steepest one of the norm."""
        x, z = self.x[at], self.z[at]
        d = x[0].numel()
        # Probes reach over the boundary by delta / sqrt(d), several times what the bisection leaves open.
        delta = 0.5 * flat(z - x).norm(dim=1) / math.sqrt(d)
        allowed = (self.left[at] - self.halvings - RESERVED_QUERIES).clamp(max=probes)
        sums = torch.zeros(2, len(at), d).to(x)  # sums of phi u and of u
        phis, count = torch.zeros(len(at)).to(x), allowed.to(x.dtype)
        group = max(1, BATCH // len(at))
        for first in range(0, probes, group):
            draw = torch.arange(first, min(first + group, probes), device=x.device)
            row = torch.arange(len(at), device=x.device).repeat_interleave(len(draw))
            draw = draw.repeat(len(at))
            row, draw = row[draw < allowed[row]], draw[draw < allowed[row]]
            if not len(row):
                break
            u = flat(rng.normal(self.seed[at[row]], tuple(x.shape[1:]), draw=(t << 20) + draw, dtype=x.dtype))
            u = u / u.norm(dim=1, keepdim=True).clamp_min(TINY)
            probe = self.threat.box.clamp(z[row] + (delta[row, None] * u).reshape(-1, *x.shape[1:]))
            probe = self.threat.restore_fixed(probe, z[row])
            phi = 2 * self.ask(probe, at[row]).to(x.dtype) - 1
            u = flat(probe - z[row]) / delta[row, None].clamp_min(TINY)  # the part inside the box
            sums[0].index_add_(0, row, phi[:, None] * u)
            sums[1].index_add_(0, row, u)
            phis.index_add_(0, row, phi)
        mean = (phis / count)[:, None]
        v = torch.where(mean.abs() < 1, sums[0] - mean * sums[1], sums[0])
        return self.threat.steepest(v.reshape(x.shape))

    def can_continue(self, at: Tensor) -> Tensor:
        """Return the samples with enough queries left for an estimate."""
        return at[self.left[at] >= self.halvings + RESERVED_QUERIES + MIN_PROBES]


def _noise(x: Tensor, seed: Tensor, draw: int) -> Tensor:
    """Draw random inputs: in odd draws only 0 and 1, in two draws of four stripes as wide as a row."""
    shape = tuple(x.shape[1:])
    u = rng.uniform(seed, shape if draw % 4 < 2 else (*shape[:-1], 1), draw=draw, dtype=x.dtype).expand_as(x)
    return u.round() if draw % 2 else u.clone()
