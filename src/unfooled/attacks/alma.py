"""ALMA: an augmented Lagrangian search for the nearest adversarial example in L1 or L2.

    min_d  |d|_p + P(c(x + d), rho, mu),   c = 1e-4 - margin / (z_pi1 - z_pi3)

z_pi1 >= z_pi2 >= ... are the sorted logits. (Towards a target, c has margin / (z_pi1 - (z_pi3 + z_pi4) / 2), since the
first ratio is 1 wherever the target is third.)

    P(c, rho, mu) = mu c + mu rho c^2 + rho^2 c^3 / 6    where c >= 0, not adversarial
                    mu c / (1 - rho c)                   elsewhere

Each step is one of RMSProp with momentum. The multiplier follows the slope of the penalty,
mu <- a mu + (1 - a) P'(c, rho, mu); every 10 steps rho grows by a fifth where no adversarial point has been found yet
and c has not fallen by a twentieth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.nearest import Nearest, check_minimal, clearly_fooled, loss_and_gradient, unbounded
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, Threat
from unfooled.core.types import Model

WINDOW_STEPS, MARGIN_TOLERANCE = 10, 1e-4
MAX_MULTIPLIER = 20.0
"""Bound of the multiplier times the constraint's slope, over the norm's slope; larger values decay too slowly."""
DEFAULTS = {1.0: (0.5, 0.5), 2.0: (0.1, 0.9)}
"""Size of the first step and share a of the averages, by norm."""


def alma(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float = 2,
    *,
    targeted: bool = False,
    steps: int = 500,
    first: float | None = None,
    average: float | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the nearest adversarial examples in L1 or L2.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 1 or 2.
        targeted: True: y are target classes.
        steps: Gradient evaluations (cost: steps forwards and backwards, 10 more forwards at the end).
        first: Size of the first step in the norm, before RMSProp scales it. None: .5 in L1 and .1 in L2. Steps keep
            that scale until the first adversarial point, and fall to a hundredth of it from there. Other scales lead to
            other local minima.
        average: Share a of the past in all averages, from 0 to below 1. None: .5 in L1 and .9 in L2.
        start: Starting points, such as those of another attack. None: x.
        generator: Base seed of the first direction where the gradient is zero.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, an option out of range, or inputs that cannot be used.

    References:
        Rony, Granger, Pedersoli, Ben Ayed, Augmented Lagrangian adversarial attacks, ICCV 2021, arXiv:2011.11857
        (algorithm 1 with penalty P2).
        Differs from the paper: two classes are enough, a start can be given, the multiplier is bounded by 20
        times the slope of the norm (it doubles with each step outside and would leave no weight to the norm for
        hundreds of steps inside), the scale of the steps is at most the best distance, a point counts as adversarial
        if its label has changed by more than rounding, and the result is moved back towards x.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2))
    first, a = _options(norm, first, average)
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    ratio = _ratio_to_target if targeted else _ratio
    z = x if start is None else start
    square, speed = torch.ones_like(x), torch.zeros_like(x)
    penalties = _Penalty(x, steps, a)
    with frozen(model):
        for t in range(steps):
            logits, c, g = loss_and_gradient(reader, z, y, -sign, ratio)
            c, hit = c + MARGIN_TOLERANCE, clearly_fooled(logits, y, targeted=targeted)
            best.record(z, hit)
            penalties.update(t, c, hit)
            g = penalties.descent(c, g, _norm_gradient(z - x, norm))
            if t == 0:
                g = _replace_zero_gradients(g, x, threat, generator)
                rate = _first_rate(z, g, threat, first)
            square = a * square + (1 - a) * g.square()
            speed = a * speed + g / (square.sqrt() + 1e-8)
            # Steps longer than the best distance would never settle.
            scale = rate * (best.distance / first).clamp_max(1)
            z = threat.box.clamp(z - per_sample(scale * 0.01 ** penalties.progress(t), speed) * speed)
        return best.pull_back(reader, y, targeted=targeted)


class _Penalty:
    """Parameters of the penalty, one per sample, and the step of the first adversarial point."""

    def __init__(self, x: Tensor, steps: int, average: float) -> None:
        self.steps, self.average = steps, average
        self.mu, self.rho = (torch.ones(len(x), dtype=x.dtype, device=x.device) for _ in range(2))
        self.first_hit = torch.full_like(self.mu, float(steps))
        self.before = self.mu  # the constraint at the last window's end

    def update(self, t: int, c: Tensor, hit: Tensor) -> None:
        """Update the multiplier, and rho at the end of a window."""
        self.first_hit = torch.where(hit, self.first_hit.clamp_max(t), self.first_hit)
        if t == 0:
            self.before = c
        else:
            mu = self.average * self.mu + (1 - self.average) * slope(c, self.rho, self.mu)
            self.mu = mu.clamp(1e-6, 1e12)
        if t % WINDOW_STEPS == WINDOW_STEPS - 1:
            stuck = (self.first_hit == self.steps) & (c >= 0.95 * self.before)
            self.rho = torch.where(stuck, 1.2 * self.rho, self.rho)
            self.before = c

    def descent(self, c: Tensor, g: Tensor, away: Tensor) -> Tensor:
        """Return the gradient of norm and penalty, with a bounded multiplier, see `MAX_MULTIPLIER`."""
        self.mu = torch.minimum(self.mu, MAX_MULTIPLIER * _length(away).clamp_min(1) / _length(g).clamp_min(TINY))
        return per_sample(slope(c, self.rho, self.mu), g) * g + away

    def progress(self, t: int) -> Tensor:
        """Return the share of the steps done since the first adversarial point, (B,)."""
        return (t - self.first_hit).clamp_min(0) / (self.steps - self.first_hit).clamp_min(1)


def penalty(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """Return the penalty of a constraint c <= 0: increasing, once differentiable, of slope mu at 0.

    Args:
        c: Values of the constraint, (B,).
        rho: Positive penalty parameters, (B,).
        mu: Positive multipliers, (B,).

    Returns:
        Penalties, (B,).
    """
    over, under = c.clamp_min(0), c.clamp_max(0)
    return mu * (over + rho * over.square() + under / (1 - rho * under)) + rho.square() * over.pow(3) / 6


def slope(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """Return the derivative of `penalty` with respect to c, (B,): the next multiplier."""
    over, under = c.clamp_min(0), c.clamp_max(0)
    return mu * (2 * rho * over + (1 - rho * under).pow(-2)) + rho.square() * over.square() / 2


def _options(norm: float, first: float | None, average: float | None) -> tuple[float, float]:
    """Fill in the defaults of the norm."""
    usual = DEFAULTS[float(norm)]
    first, average = usual[0] if first is None else first, usual[1] if average is None else average
    if not (first > 0 and 0 <= average < 1):
        raise BadInput(f"first is {first} and average {average}; they must be positive, and from 0 to below 1")
    return first, average


def _ratio(logits: Tensor, y: Tensor) -> Tensor:
    """Divide the margin by the gap from the first to the third logit; not divided for two classes."""
    gap = margin(logits, y)
    if logits.shape[1] < 3:
        return gap
    top = logits.topk(3, dim=1).values
    return gap / (top[:, 0] - top[:, 2]).clamp_min(TINY)


def _ratio_to_target(logits: Tensor, y: Tensor) -> Tensor:
    """Divide the margin by the gap from the first logit to the mean of the last two of the first four (or three)."""
    gap = margin(logits, y)
    if logits.shape[1] < 3:
        return gap
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return gap / (top[:, 0] - top[:, -2:].mean(1)).clamp_min(TINY)


def _replace_zero_gradients(g: Tensor, x: Tensor, threat: Threat, generator: torch.Generator | None) -> Tensor:
    """Replace gradients that are zero by random unit steps."""
    dead = ~(flat(g) != 0).any(1)
    if not dead.any():
        return g
    seeds = rng.seeds(x, generator, stage=rng.Stream.REVIVED)
    noise = rng.normal(seeds, tuple(x.shape[1:]), dtype=x.dtype)
    return where_rows(dead, threat.steepest(noise), g)


def _first_rate(z: Tensor, g: Tensor, threat: Threat, first: float) -> Tensor:
    """Find the factor of g that moves z by `first` inside the box, by bisection, (B,). Cost: no pass."""

    def reaches(rate: Tensor) -> Tensor:
        return threat.size(threat.box.clamp(z - per_sample(rate, g) * g) - z) >= first

    high = first / threat.size(g).clamp_min(TINY)
    for _ in range(20):  # the first guess is too short only where the box limits the step
        high = torch.where(reaches(high), high, 2 * high)
    low = torch.zeros_like(high)
    for _ in range(20):
        middle = (low + high) / 2
        far = reaches(middle)
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return high


def _norm_gradient(delta: Tensor, norm: float) -> Tensor:
    """Return the gradient of the norm, (B, *D); 0 at 0."""
    if norm == 1:
        return delta.sign()
    return delta / per_sample(_length(delta).clamp_min(TINY), delta)


def _length(v: Tensor) -> Tensor:
    """Return the Euclidean length, (B,)."""
    return flat(v).norm(dim=1)
