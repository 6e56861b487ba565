"""Threat models: the inputs that an adversary may put in place of x, as a norm ball inside a box.

    T(x) = { z : size(z - x) <= eps,  low <= z <= high }

The ascent kernel uses only these six methods, and contains no code for a particular norm:

    size(delta)     (B, *D) -> (B,)     the norm of each change
    project(z, x)   onto the ball, then the box: idempotent, keeps interior points, non-expansive (not L0)
    steepest(g)     argmax <g, d> over the unit ball; attains the dual norm
    sample(x)       a random point inside
    extreme(x)      a random point inside to start an attack from: a corner of the ball in Linf
    take(rows)      the threat for a subset of the samples, where eps is (B,)

`eps` is a fraction of the input range (`8 / 255`), a float or one value per sample, (B,). L0's eps counts tensor
entries, or pixels with `per="pixel"`.

References:
    Duchi et al., Efficient projections onto the l1-ball, ICML 2008 (L1).
    Croce, Hein, Mind the box: l1-APGD, ICML 2021, arXiv:2103.01208 (the exact projection onto ball and box).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threat_text import eps_text

TINY = 1e-12


@dataclass(frozen=True)
class Box:
    """The interval that every input coordinate must stay in."""

    low: float = 0.0
    high: float = 1.0

    def clamp(self, z: Tensor) -> Tensor:
        """Clamp each coordinate of z to the box."""
        return z.clamp(self.low, self.high)


UNIT = Box()


@dataclass(frozen=True, eq=False)
class Threat(ABC):
    """A norm ball of radius eps around x, intersected with a box. See the module's docstring.

    Args:
        eps: Radius, a float, or one per sample, (B,), also as a list or an array; at least 0 and not NaN; math.inf
            leaves only the box.
        box: Bounds of the inputs; the unit box by default.
        free: Entries that may change, (*D) bool. None: all.
    """

    eps: float | Tensor
    box: Box = field(default=UNIT, kw_only=True)
    free: Tensor | None = field(default=None, kw_only=True, repr=False)
    norm: ClassVar[float]

    def __post_init__(self) -> None:
        given: Any = self.eps
        if isinstance(given, (list, tuple)) or (not isinstance(given, Tensor) and np.ndim(given) > 0):
            object.__setattr__(self, "eps", torch.tensor([float(value) for value in given]))
        if isinstance(self.eps, Tensor):
            if self.eps.ndim > 1:
                raise ValueError(f"eps has shape {tuple(self.eps.shape)}; it must be a number or one per sample, (B,)")
            bad = bool(((self.eps < 0) | self.eps.isnan()).any())
        else:
            object.__setattr__(self, "eps", float(self.eps))
            bad = not self.eps >= 0
        if bad:
            raise ValueError(f"eps is {self.eps}; it must be at least 0")

    @abstractmethod
    def size(self, delta: Tensor) -> Tensor:
        """Return the norm of each sample's change, (B, *D) -> (B,)."""

    @abstractmethod
    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Project z onto the ball around x, then onto the box."""

    @abstractmethod
    def steepest(self, g: Tensor) -> Tensor:
        """Return the unit step with the largest inner product with g; 0 where g is 0."""

    @abstractmethod
    def _random_change(self, seed: Tensor, x: Tensor, draw: int | Tensor) -> Tensor:
        """Draw a random change of size at most eps."""

    def sample(
        self,
        x: Tensor,
        generator: torch.Generator | int | None = None,
        *,
        draw: int | Tensor = 0,
        stage: int = rng.Stream.START,
    ) -> Tensor:
        """Draw a random point of the threat for each sample; equal sample, seed, stage and draw give equal points."""
        return self.project(x + self._random_change(rng.seeds(x, generator, stage=stage), x, draw), x)

    def extreme(
        self,
        x: Tensor,
        generator: torch.Generator | int | None = None,
        *,
        draw: int | Tensor = 0,
        stage: int = rng.Stream.START,
    ) -> Tensor:
        """Draw a random point from which attacks start: a corner of the ball in Linf, `sample` in the other norms.

        In Linf every coordinate can move by eps at once, and attacks end near such corners. As for `sample`, the points
        lie inside the threat, and equal sample, seed, stage and draw give equal points.
        """
        return self.sample(x, generator, draw=draw, stage=stage)

    def restore_fixed(self, z: Tensor, x: Tensor) -> Tensor:
        """Put entries that may not change back to x."""
        return z if self.free is None else torch.where(self.free.to(z.device), z, x)

    def _movable(self, g: Tensor) -> Tensor:
        """Return a direction, 0 in entries that may not change."""
        return g if self.free is None else g * self.free.to(g)

    def take(self, rows: Tensor) -> Self:
        """Return the threat of the samples in `rows`, an index or a mask."""
        return replace(self, eps=self.eps[rows]) if isinstance(self.eps, Tensor) and self.eps.ndim else self

    def scaled(self, factor: float | Tensor) -> Self:
        """Return the same threat with eps times `factor`."""
        return replace(self, eps=self.eps * factor)

    def with_eps(self, eps: float | Tensor) -> Self:
        """Return the same threat with another radius."""
        return replace(self, eps=eps)

    def bounded(self, x: Tensor) -> Self:
        """Limit eps to the box's diameter in this norm: the same set of points, with a finite eps."""
        d = x[0].numel()
        reach = float(d) if self.norm == 0 else (self.box.high - self.box.low) * d ** (1 / self.norm)
        return self.with_eps(self.eps.clamp(max=reach) if isinstance(self.eps, Tensor) else min(self.eps, reach))

    def __str__(self) -> str:
        name = type(self).__name__.lower() + ("-pixel" if getattr(self, "per", "") == "pixel" else "")
        if isinstance(self.eps, Tensor) and self.eps.ndim:
            return f"{name}:per-sample"
        return f"{name}:{eps_text(float(self.eps))}"


@dataclass(frozen=True, eq=False)
class Linf(Threat):
    """Threat in the maximum norm: every coordinate may move by at most eps."""

    norm: ClassVar[float] = math.inf

    def size(self, delta: Tensor) -> Tensor:
        """Return the largest change of a coordinate."""
        return flat(delta).abs().amax(1)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Clamp to x +- eps, then to the box."""
        eps = per_sample(self.eps, x)
        return self.restore_fixed(self.box.clamp(z.clamp(x - eps, x + eps)), x)

    def steepest(self, g: Tensor) -> Tensor:
        """Return the sign of g."""
        return self._movable(g).sign()

    def _random_change(self, seed: Tensor, x: Tensor, draw: int | Tensor) -> Tensor:
        eps = per_sample(self.eps, x).clamp(max=self.box.high - self.box.low)
        return eps * (2 * rng.uniform(seed, tuple(x.shape[1:]), draw=draw, dtype=x.dtype) - 1)

    def corner(
        self,
        x: Tensor,
        generator: torch.Generator | int | None = None,
        *,
        draw: int | Tensor = 0,
        stage: int = rng.Stream.START,
    ) -> Tensor:
        """Draw a random corner of the ball, x +- eps in each coordinate, clamped to the box."""
        u = rng.uniform(rng.seeds(x, generator, stage=stage), tuple(x.shape[1:]), draw=draw, dtype=x.dtype)
        eps = per_sample(self.eps, x).clamp(max=self.box.high - self.box.low)
        return self.project(torch.where(u < 0.5, x - eps, x + eps), x)

    def extreme(
        self,
        x: Tensor,
        generator: torch.Generator | int | None = None,
        *,
        draw: int | Tensor = 0,
        stage: int = rng.Stream.START,
    ) -> Tensor:
        """Draw a random corner of the ball."""
        return self.corner(x, generator, draw=draw, stage=stage)


@dataclass(frozen=True, eq=False)
class L2(Threat):
    """Threat in the Euclidean norm: the length of the change is at most eps."""

    norm: ClassVar[float] = 2.0

    def size(self, delta: Tensor) -> Tensor:
        """Return the Euclidean length."""
        return flat(delta).norm(dim=1)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Shorten the change to eps, then clamp to the box."""
        z = self.restore_fixed(z, x)
        delta = z - x
        length = per_sample(self.size(delta).clamp_min(TINY), delta)
        shrink = (per_sample(self.eps, x) / length).clamp(max=1)
        # Where the change fits, keep z itself: a point already inside must not move by rounding.
        return self.box.clamp(torch.where(shrink < 1, x + delta * shrink, z))

    def steepest(self, g: Tensor) -> Tensor:
        """Return the direction of g, scaled by its largest entry first so that tiny gradients do not underflow."""
        g = self._movable(g)
        peak = per_sample(flat(g).abs().amax(1), g)
        g = g / torch.where(peak > 0, peak, torch.ones_like(peak))
        return g / per_sample(self.size(g).clamp_min(TINY), g)

    def _random_change(self, seed: Tensor, x: Tensor, draw: int | Tensor) -> Tensor:
        shape, d = tuple(x.shape[1:]), x[0].numel()
        radius = rng.uniform(seed ^ 1, (1,), draw=draw, dtype=torch.float64)[:, 0] ** (1 / d)
        reach = (self.box.high - self.box.low) * math.sqrt(d)
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device).clamp(max=reach)
        return self.steepest(rng.normal(seed, shape, draw=draw, dtype=x.dtype)) * per_sample(
            eps * radius.to(x.dtype), x
        )


def _add(x: Tensor, delta: Tensor) -> Tensor:
    """Add, rounding towards x: rounding errors of thousands of equal shifts would add up and leave the ball."""
    z = x + delta
    return torch.where((z - x).abs() > delta.abs(), torch.nextafter(z, x), z)


@dataclass(frozen=True, eq=False)
class L1(Threat):
    """Threat in the L1 norm: absolute changes add up to at most eps.

    `project` is ball then box, as for every threat; `project_l1_box` is the exact projection onto both.
    """

    norm: ClassVar[float] = 1.0

    def size(self, delta: Tensor) -> Tensor:
        """Return the sum of absolute values."""
        return flat(delta).abs().sum(1)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Soft-threshold the change until its sum is eps, then clamp to the box."""
        z = self.restore_fixed(z, x)
        delta = flat(z - x)
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device).expand(len(x))
        size = delta.abs().sum(1)
        over = size > eps
        if over.any():
            u = delta[over].abs()
            top = u.sort(dim=1, descending=True).values
            excess = top.cumsum(1, dtype=torch.float64) - eps[over, None]  # sums of thousands of terms
            count = torch.arange(1, u.shape[1] + 1, device=x.device)
            last = (top * count > excess).sum(1, keepdim=True).clamp_min(1)
            lam = (excess.gather(1, last - 1) / last).to(x.dtype)
            delta = delta.clone()
            delta[over] = delta[over].sign() * (u - lam).clamp_min(0)
            z = torch.where(per_sample(over.to(x.dtype), z) > 0, _add(x, delta.reshape(x.shape)), z)
        return self.box.clamp(z)

    def steepest(self, g: Tensor) -> Tensor:
        """Return the sign of g's largest entry, and 0 elsewhere."""
        rows = flat(self._movable(g))
        top = rows.abs().argmax(1, keepdim=True)
        return torch.zeros_like(rows).scatter(1, top, rows.gather(1, top).sign()).reshape(g.shape)

    def _random_change(self, seed: Tensor, x: Tensor, draw: int | Tensor) -> Tensor:
        # Uniform in the ball: D signed exponentials over the sum of D + 1.
        shape, d = tuple(x.shape[1:]), x[0].numel()
        u = rng.uniform(seed, (d + 1,), draw=draw, dtype=torch.float64)
        e = -torch.log1p(-u)
        sign = torch.where(rng.uniform(seed ^ 1, (d,), draw=draw) < 0.5, -1.0, 1.0)
        reach = (self.box.high - self.box.low) * d
        eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device).clamp(max=reach)
        step = (sign * e[:, :d] / e.sum(1, keepdim=True).clamp_min(TINY)).to(x.dtype)
        return step.reshape(len(x), *shape) * per_sample(eps, x)


@dataclass(frozen=True, eq=False)
class L0(Threat):
    """Threat in L0: at most eps entries may take any value in the box.

    Args:
        eps: A count, a float or (B,); 10 allows ten entries.
        per: "entry" counts tensor entries, "pixel" counts positions over all channels (dimension 1 of (B, C, ...)).
    """

    per: str = field(default="entry", kw_only=True)
    norm: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per not in ("entry", "pixel"):
            raise ValueError(f'per is {self.per!r}; it must be "entry" or "pixel"')

    def _groups(self, value: Tensor) -> Tensor:
        """Sum over the entries that count as one change: (B, *D) -> (B, groups)."""
        return flat(value.sum(1)) if self.per == "pixel" and value.ndim > 2 else flat(value)

    def _largest(self, gain: Tensor, like: Tensor) -> Tensor:
        """Select the eps groups with the largest gain, as a mask in the shape of `like`; ties go to the lower index."""
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        mask = rank < per_sample(self.eps, gain)
        if self.per == "pixel" and like.ndim > 2:
            return mask.reshape(len(like), 1, *like.shape[2:]).expand_as(like)
        return mask.reshape(like.shape)

    def size(self, delta: Tensor) -> Tensor:
        """Count the entries (or pixels) that changed."""
        return (self._groups((delta != 0).to(delta.dtype)) > 0).sum(1).to(delta.dtype)

    def project(self, z: Tensor, x: Tensor) -> Tensor:
        """Keep the eps changes that reduce the distance to z most, undo the rest; exact for ball and box."""
        z = self.restore_fixed(z, x)
        inside = self.box.clamp(z)
        gain = self._groups((z - x).square() - (z - inside).square())
        return torch.where(self._largest(gain, x), inside, x)

    def steepest(self, g: Tensor) -> Tensor:
        """Return the sign of g on the eps groups with the largest sum of |g|."""
        g = self._movable(g)
        return torch.where(self._largest(self._groups(g.abs()), g), g.sign(), torch.zeros_like(g))

    def _random_change(self, seed: Tensor, x: Tensor, draw: int | Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        changed = self._largest(self._groups(rng.uniform(seed, shape, draw=draw)), x)
        value = self.box.low + (self.box.high - self.box.low) * rng.uniform(seed ^ 1, shape, draw=draw, dtype=x.dtype)
        return torch.where(changed, value - x, torch.zeros_like(x))


def project_l1_box(z: Tensor, x: Tensor, eps: float | Tensor, box: Box = UNIT) -> Tensor:
    """Project exactly onto the L1 ball of radius eps around x intersected with the box.

        delta_i = sign(u_i) min(c_i, max(|u_i| - lam, 0)),   u = z - x,   c_i = room to the box on u_i's side

    lam is 0 if sum_i |delta_i| is then at most eps, else the value at which the sum is eps. The sum is piecewise linear
    and decreasing in lam; lam is found between its 2D sorted breakpoints. Cost O(D log D) per sample.

    Args:
        z: Points, (B, *D).
        x: Centres inside the box, (B, *D).
        eps: Radius, a float or (B,).
        box: Bounds of the inputs.

    Returns:
        The nearest points, (B, *D).
    """
    u = flat(z - x)
    size = u.abs()
    room = torch.where(u > 0, box.high - flat(x), flat(x) - box.low).clamp_min(0)
    eps = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x))[:, None]

    def total(lam: Tensor) -> Tensor:
        return torch.minimum(room, (size - lam).clamp_min(0)).sum(1, keepdim=True)

    # The slope of total() changes at size (an entry starts) and at size - room (an entry reaches the box).
    points = torch.cat([size, (size - room).clamp_min(0)], 1)
    points, order = torch.cat([points, torch.zeros_like(eps)], 1).sort(dim=1, descending=True)
    starts = torch.cat([torch.ones_like(size), -torch.ones_like(size), torch.zeros_like(eps)], 1).gather(1, order)
    active = starts.cumsum(1)  # entries between start and box on the interval just below each breakpoint
    width = points[:, :-1] - points[:, 1:]
    sums = torch.cat([torch.zeros_like(eps), (active[:, :-1] * width).cumsum(1)], 1)  # total() at each breakpoint
    over = sums >= eps
    first = torch.where(over.any(1), over.to(torch.int64).argmax(1), over.shape[1] - 1)[:, None].clamp_min(1)
    above, slope = sums.gather(1, first - 1), active.gather(1, first - 1).clamp_min(1)
    lam = points.gather(1, first - 1) - (eps - above) / slope
    lam = torch.where(total(torch.zeros_like(eps)) <= eps, torch.zeros_like(lam), lam.clamp_min(0))
    delta = u.sign() * torch.minimum(room, (size - lam).clamp_min(0))
    return box.clamp(_add(x, delta.reshape(x.shape)))
