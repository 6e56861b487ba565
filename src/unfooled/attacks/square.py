"""Square attack: random search with square-shaped changes; uses scores, no gradient.

    Linf   start with vertical stripes x +- eps; then set one random window to x +- eps, channel by channel
    L2, L1 start with a grid of bumps of length eps; then move length from one window into another, as a new bump

The window's side is round(sqrt(p H W)); p halves after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries (of
10,000; scaled to the number of queries). A change is kept where the loss rises.

The proposals of a sample depend on its seed, the query's number and the best point so far. So the next m proposals are
known as long as none is kept: `square_search` can evaluate them in one call, and the first that rises is taken, as with
one query a call. Those after it are wasted; m is a share of the mean number of queries between two rises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooling
from unfooled.core.losses import margin
from unfooled.core.shapes import per_sample
from unfooled.core.threats import L1, L2, TINY, Linf, Threat
from unfooled.core.types import Loss, Model, Objective

HALVING_QUERIES = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


AHEAD = 0.6
"""Proposals of a sample in one call, in mean numbers of queries between two rises: about a third more forwards, and two
calls for a rise."""
NEEDED, MIN_RISES = 2.0, 5
"""A sample whose success is not near is given up where the gain of a query would have to grow more than so many times,
if at least as many proposals were kept: a search that rises rarely tells nothing about what is to come."""
LEAST = 8
"""Steps of a search below which no sample is given up."""
ROWS, ROWS_ON_GPU, MAX_ENTRIES = 64, 512, 1 << 20
"""Largest number of rows, and of entries, of a call with several proposals of a sample."""


def rows_for(x: Tensor) -> int:
    """Return the number of rows that suits a call with several proposals of a sample."""
    most = ROWS if x.device.type == "cpu" else ROWS_ON_GPU
    return max(1, min(most, MAX_ENTRIES // max(1, x[:1].numel())))


def halvings(query: Tensor, queries: int) -> Tensor:
    """Return how often p was halved before a query, like query."""
    scaled = (query.double() / queries * 10_000).long()
    return (scaled[..., None] > torch.tensor(HALVING_QUERIES, device=query.device)).sum(-1)


def as_images(x: Tensor) -> Tensor:
    """View any (B, *D) as (B, C, H, W): vectors as one row, (B, H, W) as one channel."""
    if x.ndim == 4:
        return x
    return x.reshape(len(x), 1, -1, x.shape[-1]) if x.ndim > 2 else x[:, None, None, :]


@torch.no_grad()
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 5000,
    p: float = 0.8,
    loss: Loss = margin,
    start: Tensor | None = None,
    first_query: int = 0,
    schedule: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack by random search with square-shaped changes.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K); no gradient is computed.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        steps: Number of queries (cost: steps forwards per sample, less once fooled, and none for a window that already
            has the proposed values).
        p: Share of the pixels in the first windows.
        loss: Per-sample loss.
        start: Starting points, such as the best ones of a gradient attack. None: stripes or bumps.
        first_query: First query in the schedule of p; above 0 for a warm start.
        schedule: Number of queries over which p falls. None: first_query + steps.
        generator: Base seed.

    Returns:
        Points inside the threat, (B, *D). Success is not implied: see `verify`.

    Raises:
        BadInput: An L0 threat, or inputs that cannot be used.

    References:
        Andriushchenko et al., Square Attack: a query-efficient black-box adversarial attack via random search, ECCV
        2020, arXiv:1912.00049.
        Differs from the published code: every sample draws its own windows (there, one window serves the whole batch),
        and vectors are searched as one row of pixels.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    return square_search(
        fooling(model, y, loss, targeted=targeted),
        x,
        threat,
        rng.seeds(x, generator, stage=rng.Stream.SQUARE),
        steps=steps,
        p=p,
        start=start,
        first_query=first_query,
        schedule=schedule,
    )


@torch.no_grad()
def square_search(
    objective: Objective,
    x: Tensor,
    threat: Threat,
    seed: Tensor,
    *,
    steps: int,
    p: float = 0.8,
    start: Tensor | None = None,
    first_query: int = 0,
    schedule: int | None = None,
    rows: int = 1,
    near: Tensor | None = None,
) -> Tensor:
    """Maximise any objective by random changes of windows, as `square` does.

    Args:
        objective: `(z, at) -> value, done`, as for `ascend`; no gradient is computed.
        x: Centres of the threat, (B, *D).
        threat: `Linf`, `L2` or `L1`.
        seed: Seeds, one per sample, (B,).
        steps: Evaluations of the objective per sample.
        p: Share of the pixels in the first windows.
        start: Starting points. None: stripes or bumps.
        first_query: First query in the schedule of p.
        schedule: Number of queries over which p falls. None: first_query + steps.
        rows: Largest number of points of a call with several proposals of a sample; above 1, fewer calls and about a
            third more forwards, with the same result.
        near: Samples are given up after a quarter, a half or three quarters of the steps where their value is below
            -near, (B,), and would not reach 0 at twice the mean gain of a step so far; not where they rose less than
            five times. None: none are.

    Returns:
        The best points found, (B, *D), inside the threat.
    """
    if not isinstance(threat, (Linf, L2, L1)):
        raise BadInput(f"square supports Linf, L2 and L1, the threat is {threat}; use pgd")
    for name, count in (("steps", steps), ("rows", rows)):
        if count < 1:
            raise BadInput(f"{name} is {count}; it must be at least 1")
    z = start if start is not None else _proposals(threat).first(x, seed)
    schedule = schedule or steps + first_query
    search = _Search(objective, x, threat, seed, threat.project(z, x), steps, first_query, schedule, p, rows, near)
    while search.leave():
        search.advance()
    return search.out


class _Search:
    """State of the samples that are searched for: best points, values, next queries and numbers of rises."""

    def __init__(
        self, objective: Objective, x: Tensor, threat: Threat, seed: Tensor, best: Tensor,
        steps: int, first_query: int, schedule: int, p: float, rows: int, near: Tensor | None,
    ) -> None:  # fmt: skip
        """Evaluate the starting points."""
        self.objective, self.x, self.threat, self.seed, self.best, self.steps = objective, x, threat, seed, best, steps
        self.first_query, self.schedule, self.p, self.rows = first_query, schedule, p, rows
        self.at = torch.arange(len(x), device=x.device)
        self.value, self.done = objective(best, self.at)
        self.query, self.rises = torch.ones_like(self.at), torch.zeros_like(self.at)
        self.out, self.first_value, self.near = best.clone(), self.value.clone(), near
        self.period = steps if near is None or steps < LEAST else steps // 4

    def leave(self) -> int:
        """Store and leave out samples that are done, out of queries or given up; return how many are left."""
        live = ~self.done & (self.query < self.steps) & ~self.hopeless()
        if not bool(live.all()):
            self.out[self.at[~live]] = self.best[~live]
            for name in ("at", "best", "value", "seed", "query", "rises", "done"):
                setattr(self, name, getattr(self, name)[live])
        return len(self.at)

    def hopeless(self) -> Tensor:
        """Return which samples are to be given up, at queries that do not depend on the number of rows."""
        if self.near is None or self.period == self.steps:
            return torch.zeros_like(self.done)
        gain, left = self.value - self.first_value[self.at], self.steps - self.query
        far = (self.value < -self.near[self.at]) & (self.value + NEEDED * gain * left / self.query < 0)
        return far & (self.query % self.period == 0) & (self.rises >= MIN_RISES)

    def advance(self) -> None:
        """Ask for the next proposals of each sample, and take its first that rises."""
        mean_gap = self.query / (self.rises + 1)
        count = (AHEAD * mean_gap).long().clamp(1, max(1, self.rows // len(self.at)))
        count = count.minimum(self.steps - self.query).minimum(self.period - self.query % self.period)
        row = torch.arange(len(count), device=count.device).repeat_interleave(count)
        first_row = count.cumsum(0) - count
        number = torch.arange(len(row), device=row.device) - first_row[row]
        z = self.changed(row, self.query[row] + number)
        value, done = self.evaluate(z, row)
        rises = (value > self.value[row]) | (self.value[row].isnan() & ~value.isnan())
        rising = torch.where(rises | done, number, self.steps)
        first = torch.full_like(count, self.steps).scatter_reduce(0, row, rising, "amin")
        risen = first < self.steps
        taken = (first_row + first)[risen]
        self.best[risen], self.value[risen], self.done[risen] = z[taken], value[taken], done[taken]
        self.query, self.rises = self.query + torch.where(risen, first + 1, count), self.rises + risen.long()

    def changed(self, row: Tensor, query: Tensor) -> Tensor:
        """Return the proposals of some queries, made from the best points of the samples `row`."""
        x, best, seed, near = self.x[self.at[row]], self.best[row], self.seed[row], self.threat.take(self.at[row])
        times = halvings(query + self.first_query, self.schedule)
        z = torch.empty_like(best)
        for n in times.unique().tolist():  # windows of one size
            k = (times == n).nonzero()[:, 0]
            z[k] = _proposals(near.take(k)).change(x[k], best[k], seed[k], query[k], self.p / 2**n)
        return near.project(z, x)

    def evaluate(self, z: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate proposals that differ from the best points; the others keep their value."""
        moved = (z != self.best[row]).flatten(1).any(1).nonzero()[:, 0]
        value, done = self.value[row], torch.zeros_like(row, dtype=torch.bool)
        if len(moved):
            value[moved], done[moved] = self.objective(z[moved], self.at[row[moved]])
        return value, done


def _proposals(threat: Threat) -> _Stripes | _Bumps:
    """Return the proposals of a norm."""
    return _Stripes(threat) if isinstance(threat, Linf) else _Bumps(threat)


def _windows(x: Tensor, seed: Tensor, draw: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Draw one window per sample: its mask (B, 1, H, W), its top and left, and its height and width."""
    h, w = x.shape[2:]
    height = min(h, max(1, round(math.sqrt(share * h * w))))
    width = min(w, max(1, round(share * h * w / height)))
    u = rng.uniform(seed, (2,), draw=draw, dtype=torch.float64)
    top, left = (u[:, 0] * (h - height + 1)).long(), (u[:, 1] * (w - width + 1)).long()
    row, column = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    in_rows = (row >= top[:, None]) & (row < top[:, None] + height)
    in_columns = (column >= left[:, None]) & (column < left[:, None] + width)
    return (in_rows[:, None, :, None] & in_columns[:, None, None, :]), top, left, height, width


@dataclass(frozen=True)
class _Stripes:
    """Proposals in Linf: stripes first, then one window of +-eps, channel by channel."""

    threat: Threat

    def first(self, x: Tensor, seed: Tensor) -> Tensor:
        """Return the first points, (b, *D)."""
        image = as_images(x)
        b, c, _, w = image.shape
        sign = torch.where(rng.uniform(seed, (c, 1, w), draw=0) < 0.5, -1.0, 1.0).to(x.dtype).reshape(b, c, 1, w)
        return (image + per_sample(self.threat.eps, image) * sign).reshape(x.shape)

    def change(self, x: Tensor, best: Tensor, seed: Tensor, query: Tensor, share: float) -> Tensor:
        """Return the best points with one window replaced, (b, *D)."""
        image, z = as_images(x), as_images(best)
        mask, *_ = _windows(image, seed, 2 * query, share)
        u = rng.uniform(seed, (image.shape[1],), draw=2 * query + 1)
        sign = torch.where(u < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
        return torch.where(mask, image + per_sample(self.threat.eps, image) * sign, z).reshape(x.shape)


@dataclass(frozen=True)
class _Bumps:
    """Proposals in L2 and L1: a grid of bumps, then the length of one window moves into a bump elsewhere.

    The unused part of eps is added to the new bump.
    """

    threat: Threat

    def length(self, delta: Tensor, dims: int) -> Tensor:
        """Sum over all but the first `dims` dimensions: squares in L2, absolute values in L1."""
        return delta.flatten(dims).abs().pow(self.threat.norm).sum(dims)

    def first(self, x: Tensor, seed: Tensor) -> Tensor:
        """Return the first points, (b, *D)."""
        image = as_images(x)
        _, c, h, w = image.shape
        tile = max(1, min(h, w) // 5)
        delta = torch.zeros_like(image)
        for i, top in enumerate(range(0, h - tile + 1, tile)):
            for j, left in enumerate(range(0, w - tile + 1, tile)):
                u = rng.uniform(seed, (c,), draw=-1 - i * w - j)  # negative: draws from 2 on belong to queries
                sign = torch.where(u < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
                delta[:, :, top : top + tile, left : left + tile] = _bump(tile, tile, x, self.threat.norm) * sign
        unit = delta / per_sample(self.threat.size(delta).clamp_min(TINY), delta)
        return (image + unit * per_sample(self.threat.eps, image)).reshape(x.shape)

    def change(self, x: Tensor, best: Tensor, seed: Tensor, query: Tensor, share: float) -> Tensor:
        """Return the best points with the change of one window moved to another, (b, *D)."""
        image, delta = as_images(x), as_images(best) - as_images(x)
        into, top, left, height, width = _windows(image, seed, 3 * query, share)
        away, *_ = _windows(image, seed, 3 * query + 1, share)
        b, c = image.shape[:2]
        p = self.threat.norm
        eps = torch.as_tensor(self.threat.eps, dtype=x.dtype, device=x.device).expand(b)
        left_over = (eps.pow(p) - self.length(delta, 1)).clamp_min(0) / c
        taken = self.length(torch.where(into | away, delta, torch.zeros_like(delta)), 2)
        u = rng.uniform(seed, (c,), draw=3 * query + 2)
        sign = torch.where(u < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
        bump = torch.zeros_like(delta)
        rows = top[:, None] + torch.arange(height, device=x.device)
        columns = left[:, None] + torch.arange(width, device=x.device)
        shape = _bump(height, width, x, p) * sign
        where = torch.arange(b, device=x.device)[:, None, None]
        bump[where, :, rows[:, :, None], columns[:, None, :]] = shape.movedim(1, -1)
        old = torch.where(into, delta, torch.zeros_like(delta))
        old = old / self.length(old, 2).pow(1 / p).clamp_min(TINY)[:, :, None, None]
        mixed = torch.where(into, bump + old, torch.zeros_like(delta))
        mixed = mixed / self.length(mixed, 2).pow(1 / p).clamp_min(TINY)[:, :, None, None]
        mixed = mixed * (taken + left_over[:, None]).pow(1 / p)[:, :, None, None]
        moved = torch.where(into, mixed, torch.where(away, torch.zeros_like(delta), delta))
        return (image + moved).reshape(x.shape)


def _bump(height: int, width: int, like: Tensor, p: float) -> Tensor:
    """Build a bump of length 1: concentric rectangles weighted by 1/m^2 (1/m^4 in L1), the lower half negative."""
    power = 4 if p == 1 else 2

    def hill(h: int, w: int) -> Tensor:
        out = torch.zeros(h, w, dtype=like.dtype, device=like.device)
        for m in range((min(h, w) + 1) // 2):
            out[m : h - m, m : w - m] += 1.0 / (m + 1) ** power
        return out

    if height < 2:
        shape = hill(height, width)
    else:
        half = height // 2
        shape = torch.cat([hill(half, width), -hill(height - half, width)])
    return shape / shape.norm(p=p)
