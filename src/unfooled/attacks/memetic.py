"""Memetic search: a pool of points for each sample, which are crossed, disturbed, and improved by short ascents.

    child  = point of the pool, one window of which is that of another point, or of a random one
    child <- ascend(child), a few decaying steps on the margin
    pool  <- every point, or its child where that is better

Ascents from random starts end in local maxima. Windows in which several of them are good can be put together, which no
step along a gradient does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.attacks.square import as_images
from unfooled.core import losses, rng
from unfooled.core.ascent import Decaying, ascend
from unfooled.core.checks import check_attack, check_mode, check_run
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once, fooled, logits_at, read_logits
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model

FIRST, LATER = Decaying(0.7, 0.01), Decaying(0.4, 0.01)
"""Steps of the ascents from random points, and from children."""
FIRST_STEPS = 40
LAST, LAST_STEPS, LAST_POINTS = Decaying(0.1, 0.0005), 100, 8
"""Steps of the ascents that end a grown pool, their number, and how many of its best points they start from."""
LARGE, SMALL = (0.2, 0.7), (0.07, 0.36)
"""Sides of windows of another point, and of a random one, as shares of those of the input."""
CROSSED = 0.6
"""Share of the children that get a window of another point; the others get one of a random point."""
CLASSES = 12
"""Largest number of classes, the likeliest first, towards which the first ascents go."""
ISLANDS, LIFE, ALIKE = 3, 60, 0.05
"""Pools that grow alone before their best points are put together; most generations of one; and the spread of its
values, in multiples of the best one, at which its points are taken for alike."""
GENERATIONS, NUMBERS = 1 << 14, 1 << 16
"""Random numbers of a pool are those of so many generations, and of a generation so many draws."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Points of some samples, P each.

    Attributes:
        points: Points inside the threat, (B, P, *D).
        values: Margin of the wrong classes there, (B, P); inf where the sample is fooled.
        number: Number of the pool; each has random numbers of its own.
        generation: Number of generations so far.
    """

    points: Tensor
    values: Tensor
    number: int = 0
    generation: int = 0

    @property
    def done(self) -> Tensor:
        """Samples that are fooled, (B,) bool."""
        return self.values.amax(1) == torch.inf

    @property
    def best(self) -> Tensor:
        """Best point of each sample, (B, *D)."""
        return self.points[torch.arange(len(self.points), device=self.points.device), self.values.argmax(1)]

    @property
    def alike(self) -> bool:
        """True if the values of every sample hardly differ, so that crossing its points leads no further."""
        best, worst = self.values.amax(1), self.values.amin(1)
        return bool((best - worst <= ALIKE * best.abs()).all())

    def joined(self, other: Self) -> Self:
        """Return the best points of both pools, as many as there are here."""
        values, order = torch.cat([self.values, other.values], 1).topk(self.values.shape[1], dim=1)
        rows = torch.arange(len(values), device=order.device)[:, None]
        return replace(self, points=torch.cat([self.points, other.points], 1)[rows, order], values=values)


@dataclass(frozen=True, eq=False)
class Memetic:
    """The search on some samples, whose arguments are checked already; every method returns a new pool.

    Attributes:
        model: The model.
        x: Inputs, (B, *D).
        y: Labels, or targets when `targeted`, (B,).
        threat: Threat.
        targeted: True: y are target classes.
        size: Points of a sample.
        steps: Steps of the ascent of a child.
        seed: Base seed.
        batch: Points computed at once. None: all.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: Threat
    targeted: bool = False
    size: int = 64
    steps: int = 10
    seed: int = 0
    batch: int | None = None

    def begin(self, number: int = 0) -> Pool:
        """Return a pool of ascents from random points, three quarters of them towards single classes."""
        rows = torch.arange(len(self.x), device=self.x.device)
        pool = Pool(self.x.new_zeros(len(rows), self.size, *self.x.shape[1:]), self.x.new_zeros(len(rows), 1), number)
        aims = None if self.targeted else self._aims()
        return self._climbed(pool, rows, self._random(pool, rows), FIRST_STEPS, FIRST, aims)

    def next(self, pool: Pool) -> Pool:
        """Return the next generation; samples that are fooled keep their points."""
        pool = replace(pool, generation=pool.generation + 1)
        rows = (~pool.done).nonzero()[:, 0]
        if not len(rows):
            return pool
        grown = self._climbed(pool, rows, self._children(pool, rows), self.steps, LATER)
        better = grown.values > pool.values[rows]
        points, values = pool.points.clone(), pool.values.clone()
        points[rows] = torch.where(_wide(better, grown.points), grown.points, pool.points[rows])
        values[rows] = torch.where(better, grown.values, pool.values[rows])
        return replace(pool, points=points, values=values)

    def entering(self, starts: Tensor) -> Pool:
        """Return a pool of ascents from points, (B, M, *D)."""
        rows = torch.arange(len(self.x), device=self.x.device)
        pool = Pool(starts, self.x.new_zeros(len(rows), 1))
        return self._climbed(pool, rows, starts, 2 * self.steps, LATER)

    def finished(self, pool: Pool) -> Pool:
        """Return a pool after ascents in small steps from its best points, which children do not take."""
        rows = (~pool.done).nonzero()[:, 0]
        if not len(rows):
            return pool
        best = _top(_rows(pool, rows), min(LAST_POINTS, self.size))
        grown = self._climbed(pool, rows, best.points, LAST_STEPS, LAST)
        points, values = pool.points.clone(), pool.values.clone()
        together = _rows(pool, rows).joined(grown)
        points[rows], values[rows] = together.points, together.values
        return replace(pool, points=points, values=values)

    def _aims(self) -> Tensor:
        """Return the class that each of the first ascents goes towards, (B, P); -1: the likeliest at every step."""
        with torch.no_grad():
            logits = read_logits(self.model, self.x, self.y, batch=self.batch)
            logits = logits.scatter(1, self.y[:, None], -torch.inf)
        order = logits.topk(min(CLASSES, logits.shape[1] - 1), dim=1).indices
        slot = torch.arange(self.size, device=self.x.device)
        aims = order[:, (slot - slot // 4 - 1) % order.shape[1]]
        return torch.where(slot % 4 == 0, -1, aims)

    def _random(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return random points of some samples, (b, P, *D)."""
        draw = self._draw(pool) + torch.arange(self.size, device=rows.device).repeat(len(rows))
        own = rows.repeat_interleave(self.size)
        z = self.threat.take(own).extreme(self.x[own], self.seed, draw=draw, stage=rng.Stream.MEMETIC)
        return z.unflatten(0, (len(rows), self.size))

    def _draw(self, pool: Pool) -> int:
        return (pool.number * GENERATIONS + pool.generation) * NUMBERS

    def _children(self, pool: Pool, rows: Tensor) -> Tensor:
        """Return a child of every point of some samples, (b, P, *D): one window comes from elsewhere."""
        seed = rng.seeds(self.x[rows], self.seed, stage=rng.Stream.MEMETIC)
        u = rng.uniform(seed, (self.size, 7), draw=self._draw(pool) + NUMBERS - 1)
        # The better of two random points is the other parent.
        mates = (u[:, :, :2] * self.size).long()
        values = pool.values[rows].gather(1, mates.flatten(1)).reshape(mates.shape)
        mate = mates.gather(2, values.argmax(2, keepdim=True))[:, :, 0]
        points, crossed = pool.points[rows], u[:, :, 2] < CROSSED
        other = points[torch.arange(len(rows), device=rows.device)[:, None], mate]
        source = torch.where(_wide(crossed, points), other, self._random(pool, rows))
        images = as_images(points.flatten(0, 1))
        window = _windows(images, u[:, :, 3:].flatten(0, 1), crossed.flatten())
        child = torch.where(window, as_images(source.flatten(0, 1)), images).reshape(-1, *self.x.shape[1:])
        own = rows.repeat_interleave(self.size)
        return self.threat.take(own).project(child, self.x[own]).reshape(points.shape)

    def _climbed(
        self, pool: Pool, rows: Tensor, starts: Tensor, steps: int, rule: Decaying, aims: Tensor | None = None
    ) -> Pool:
        """Return the points that ascents from some points of some samples lead to, (b, M, *D), and their values."""
        own = rows.repeat_interleave(starts.shape[1])
        y, aim = self.y[own], None if aims is None else aims.flatten()

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            logits, label = logits_at(self.model, z), y[at]
            value = losses.margin(logits, label) * (-1.0 if self.targeted else 1.0)
            if aim is not None:
                towards = losses.margin_targeted(aim[at].clamp_min(0))(logits, label)
                value = torch.where(aim[at] < 0, value, towards)
            return value, fooled(logits.detach(), label, targeted=self.targeted)

        done = ascend(
            objective, self.x[own], self.threat.take(own), steps=steps, rule=rule, start=starts.flatten(0, 1),
            batch=self.batch, generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip
        values = torch.where(done.done, torch.inf, done.value.nan_to_num(-torch.inf, -torch.inf, -torch.inf))
        return replace(pool, points=done.z.reshape(starts.shape), values=values.unflatten(0, starts.shape[:2]))


@dataclass(frozen=True, eq=False)
class Islands:
    """Pools that grow alone, one after another, until their best points are put together in one.

    Attributes:
        pool: The pool that grows.
        grown: Pools that are grown.
        count: Number of pools that were begun.
    """

    pool: Pool
    grown: tuple[Pool, ...] = ()
    count: int = 1

    @classmethod
    def begin(cls, search: Memetic) -> Self:
        """Return the first pool alone."""
        return cls(search.begin())

    def next(self, search: Memetic) -> Islands:
        """Return the next generation; where the pool is grown, a new one, or one of the best points of all of them."""
        if self.pool.generation < LIFE and not self.pool.alike:
            return replace(self, pool=search.next(self.pool))
        last = search.finished(self.pool)
        if bool(last.done.all()):
            return replace(self, pool=last)
        grown = (*self.grown, last)
        if len(grown) < ISLANDS:
            return Islands(search.begin(self.count), grown, self.count + 1)
        share = -(-search.size // ISLANDS)
        best = [_top(pool, share) for pool in grown]
        together = replace(
            best[0], points=torch.cat([pool.points for pool in best], 1)[:, : search.size],
            values=torch.cat([pool.values for pool in best], 1)[:, : search.size], number=self.count, generation=0,
        )  # fmt: skip
        return Islands(search.next(together), (), self.count + 1)

    def joined(self, other: Pool) -> Islands:
        """Return the islands after points have come to the pool that grows."""
        return replace(self, pool=self.pool.joined(other))


def _rows(pool: Pool, rows: Tensor) -> Pool:
    """Return the pool of some samples."""
    return replace(pool, points=pool.points[rows], values=pool.values[rows])


def _top(pool: Pool, count: int) -> Pool:
    """Return a pool's best points."""
    values, order = pool.values.topk(count, dim=1)
    rows = torch.arange(len(values), device=order.device)[:, None]
    return replace(pool, points=pool.points[rows, order], values=values)


@dataclass(eq=False)
class Hunt:
    """Search beside a branch and bound, which calls it with the minimisers of open parts of a sample's region.

    From the minimisers go short ascents, whose ends enter the pool of the sample. The pool begins, and grows, as long
    as all of this takes no more than a share of the time since the first call.

    Attributes:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Threat.
        share: Share of the time that the search takes, below 1; bounds take the rest.
        starts: Largest number of minimisers that enter at once, the most promising first.
        seed: Base seed.
        clock: Function that returns the seconds that are counted.
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: Threat
    share: float = 0.5
    starts: int = 8
    seed: int = 0
    clock: Callable[[], float] = time.monotonic
    _sample: int = field(default=-1, init=False)
    _islands: Islands | None = field(default=None, init=False)
    _left: float = field(default=0.0, init=False)
    _credit: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadInput(f"share is {self.share}; it must be at least 0 and below 1, as bounds take the rest")
        if self.starts < 1:
            raise BadInput(f"starts is {self.starts}; it must be at least 1")

    @property
    def least(self) -> float:
        """Smallest margin of the label over the last sample's points so far, about: that of the present pools."""
        if self._islands is None:
            return math.inf
        return -max(float(pool.values.amax()) for pool in (self._islands.pool, *self._islands.grown))

    def __call__(self, points: Tensor, sample: int) -> Tensor | None:
        """Return an adversarial example of a sample, (*D), or None.

        Args:
            points: Points of its region, the most promising first, (M, *D).
            sample: The sample.
        """
        now, at = self.clock(), torch.tensor([sample], device=self.x.device)
        search = Memetic(self.model, self.x[at], self.y[at], self.threat.take(at), seed=self.seed)
        if sample != self._sample:
            self._sample, self._islands, self._credit = sample, None, 0.0
        else:
            self._credit += (now - self._left) * self.share / (1 - self.share)
        islands = self._islands
        if len(points) and self._credit >= 0:
            centre = self.x[at.expand(len(points[: self.starts]))]
            starts = self.threat.take(at.expand(len(centre))).project(points[: self.starts].to(centre), centre)
            entering = search.entering(starts[None])
            if bool(entering.done):
                return entering.best[0]
            islands = None if islands is None else islands.joined(entering)
        while not (islands and bool(islands.pool.done)) and self.clock() - now < self._credit:
            islands = Islands.begin(search) if islands is None else islands.next(search)
        self._islands, self._left = islands, self.clock()
        self._credit -= self._left - now
        return islands.pool.best[0] if islands and bool(islands.pool.done) else None


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask of points, (b, P), with the dimensions of the points, (b, P, *1)."""
    return mask.reshape(*mask.shape, *[1] * (like.ndim - 2))


def _windows(images: Tensor, u: Tensor, large: Tensor) -> Tensor:
    """Return one window per image, (M, 1, H, W) bool, from four numbers in [0, 1) each."""
    inside = torch.ones(len(images), 1, 1, 1, dtype=torch.bool, device=images.device)
    for k, (length, dim) in enumerate(zip(images.shape[2:], (2, 3), strict=True)):
        ends = torch.where(large[:, None], u.new_tensor(LARGE), u.new_tensor(SMALL))
        share = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * u[:, k]
        side = (share * length).ceil().clamp(1, length)
        start = (u[:, 2 + k] * (length - side + 1)).floor()
        place = torch.arange(length, device=u.device)
        along = (place >= start[:, None]) & (place < (start + side)[:, None])
        inside = inside & along.reshape(len(images), 1, *[length if d == dim else 1 for d in (2, 3)])
    return inside


def memetic(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 10,
    generations: int = 20,
    size: int = 64,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack by a pool of points that are crossed, disturbed, and improved by short ascents.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: Threat model; its eps may be (B,).
        targeted: True: y are target classes.
        steps: Gradients of a child (cost: size (steps + 1) forwards and size steps backwards a generation, after
            41 size forwards and 40 size backwards for the first pool; less once fooled).
        generations: Number of generations.
        size: Points of a sample, at least 2.
        batch: Points computed at once. None: all, `size` for each sample.
        generator: Base seed; the same seed and sample give the same points in any batch, but for rounding of the model.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: The inputs cannot be used, or a number is too small.

    References:
        Moscato, On evolution, search, optimization, genetic algorithms and martial arts: towards memetic algorithms,
        Caltech C3P report 826, 1989.
        Alzantot et al., GenAttack: practical black-box attacks with gradient-free optimization, GECCO 2019,
        arXiv:1805.11090 (crossed candidates).
        Differs: children climb along gradients, and compete with their own parent alone, which keeps the pool diverse.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    for name, count, least in (("size", size, 2), ("generations", generations, 0), ("steps", steps, 0)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise BadInput(f"{name} is {count!r}; it must be a whole number, at least {least}")
    check_run(seed := rng.base_seed(generator), batch)
    if not len(x):
        return x.clone()
    with frozen(model):
        reader = checked_once(model, y)
        search = Memetic(reader, x.detach(), y, threat, targeted, size, steps, seed, batch)
        pool = search.begin()
        for _ in range(generations):
            if bool(pool.done.all()):
                break
            pool = search.next(pool)
    return pool.best
