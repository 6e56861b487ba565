"""ALMA: an augmented Lagrangian search for the nearest adversarial example in L1 or L2.

    min_d  |d|_p + P(c(x + d), rho, mu),   c = 1e-4 - margin / (z_pi1 - z_pi3)

(towards a target, margin / (z_pi1 - (z_pi3 + z_pi4) / 2): the first ratio is 1 wherever the target is third.)

    P(c, rho, mu) = mu c + mu rho c^2 + rho^2 c^3 / 6    where c >= 0, not adversarial
                    mu c / (1 - rho c)                   elsewhere

Each step is one of RMSProp with momentum. The multiplier follows the slope of the penalty,
mu <- a mu + (1 - a) P'(c, rho, mu); every 10 steps rho grows by a fifth where no adversarial point has been met and c
has not fallen by a twentieth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.nearest import Nearest, check_minimal, decided, loss_and_gradient, unbounded
from unfooled.core.errors import BadInput
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, Threat
from unfooled.core.types import Model

CHECK, TOLERANCE = 10, 1e-4
HEAVIEST = 20.0  # multiplier times constraint's slope, in slopes of the norm; heavier, it takes too long to come down
DEFAULTS = {1.0: (0.5, 0.5), 2.0: (0.1, 0.9)}
"""Size of the first step and share a of the averages, by norm."""


def penalty(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The price of a constraint c <= 0: increasing, once differentiable, of slope mu at 0.

    Args:
        c: values of the constraint, (B,).
        rho: positive penalty parameters, (B,).
        mu: positive multipliers, (B,).

    Returns:
        The prices, (B,).
    """
    over, under = c.clamp_min(0), c.clamp_max(0)
    return mu * (over + rho * over.square() + under / (1 - rho * under)) + rho.square() * over.pow(3) / 6


def slope(c: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative of `penalty` with respect to c, (B,): the next multiplier."""
    over, under = c.clamp_min(0), c.clamp_max(0)
    return mu * (2 * rho * over + (1 - rho * under).pow(-2)) + rho.square() * over.square() / 2


def _ratio(logits: Tensor, y: Tensor) -> Tensor:
    """Margin over the gap from the first to the third logit; the margin itself where two classes leave no third."""
    gap = margin(logits, y)
    if logits.shape[1] < 3:
        return gap
    top = logits.topk(3, dim=1).values
    return gap / (top[:, 0] - top[:, 2]).clamp_min(TINY)


def _ratio_to_target(logits: Tensor, y: Tensor) -> Tensor:
    """Margin over the gap from the first logit to the mean of the last two of the first four (of three, if three)."""
    gap = margin(logits, y)
    if logits.shape[1] < 3:
        return gap
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    return gap / (top[:, 0] - top[:, -2:].mean(1)).clamp_min(TINY)


def _first_rate(z: Tensor, g: Tensor, threat: Threat, first: float) -> Tensor:
    """The factor of g that takes z a way `first` long inside the box, by bisection, (B,). No pass."""

    def reaches(rate: Tensor) -> Tensor:
        return threat.size(threat.box.clamp(z - per_sample(rate, g) * g) - z) >= first

    high = first / threat.size(g).clamp_min(TINY)
    for _ in range(20):  # only where the box is in the way is the first guess too short
        high = torch.where(reaches(high), high, 2 * high)
    low = torch.zeros_like(high)
    for _ in range(20):
        middle = (low + high) / 2
        far = reaches(middle)
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return high


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
    """Find near adversarial examples in L1 or L2.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs in the unit box, (B, *D).
        y: labels, or targets when `targeted`, (B,) int64.
        norm: 1 or 2.
        targeted: hit y instead of leaving it.
        steps: gradient evaluations (cost: steps forwards and backwards, 10 more forwards to end).
        first: size of the first step in the norm, before RMSProp scales it; .5 in L1 and .1 in L2 where None. Steps
            keep that scale until the first adversarial point, and fall to a hundredth of it from there. Other scales
            lead to other local minima.
        average: share a of the past in all averages, from 0 to below 1; .5 in L1 and .9 in L2 where None.
        start: points to start from, such as another attack's; x where None.
        generator: base seed of the first direction where the gradient is zero.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: another norm, an option out of range, or inputs that cannot be used.

    References:
        Rony, Granger, Pedersoli, Ben Ayed, Augmented Lagrangian adversarial attacks, ICCV 2021, arXiv:2011.11857
        (algorithm 1 with penalty P2).
        Differs from the paper: two classes are enough, a start can be given, the multiplier is bounded by what
        outweighs the norm 20 times (it doubles with each step outside and would leave no weight to the norm for
        hundreds of steps inside), the scale of the steps is at most the best distance, a point counts as adversarial
        when the decision is another by more than rounding, and the end is pulled back towards x.
    """
    check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2))
    usual = DEFAULTS[float(norm)]
    first, a = usual[0] if first is None else first, usual[1] if average is None else average
    if not (first > 0 and 0 <= a < 1):
        raise BadInput(f"first is {first} and average {a}; they must be positive, and from 0 to below 1")
    best, sign = Nearest(x, threat), -1.0 if targeted else 1.0
    ratio = _ratio_to_target if targeted else _ratio
    z = x if start is None else start
    square, speed = torch.ones_like(x), torch.zeros_like(x)
    mu, rho = (torch.ones(len(x), dtype=x.dtype, device=x.device) for _ in range(2))
    met = torch.full_like(mu, float(steps))  # step of the first adversarial point
    with frozen(model):
        for t in range(steps):
            logits, c, g = loss_and_gradient(model, z, y, -sign, ratio)
            c, hit = c + TOLERANCE, decided(logits, y, targeted=targeted)
            best.see(z, hit)
            met = torch.where(hit, met.clamp_max(t), met)
            if t == 0:
                before = c
            else:
                mu = (a * mu + (1 - a) * slope(c, rho, mu)).clamp(1e-6, 1e12)
            if t % CHECK == CHECK - 1:
                rho = torch.where((met == steps) & (c >= 0.95 * before), 1.2 * rho, rho)
                before = c
            away = _away(z - x, norm)
            mu = torch.minimum(mu, HEAVIEST * _length(away).clamp_min(1) / _length(g).clamp_min(TINY))
            g = per_sample(slope(c, rho, mu), g) * g + away
            if t == 0:
                dead = ~(flat(g) != 0).any(1)
                if dead.any():
                    seeds = rng.seeds(x, generator, stage=rng.Stream.REVIVED)
                    noise = rng.normal(seeds, tuple(x.shape[1:]), dtype=x.dtype)
                    g = where_rows(dead, threat.steepest(noise), g)
                rate = _first_rate(z, g, threat, first)
            square = a * square + (1 - a) * g.square()
            speed = a * speed + g / (square.sqrt() + 1e-8)
            # Steps longer than all the way would never settle.
            scale = rate * (best.distance / first).clamp_max(1)
            step = scale * 0.01 ** ((t - met).clamp_min(0) / (steps - met).clamp_min(1))
            z = threat.box.clamp(z - per_sample(step, speed) * speed)
        return best.pull_back(model, y, targeted=targeted)


def _away(delta: Tensor, norm: float) -> Tensor:
    """The gradient of the norm, (B, *D); 0 at 0."""
    if norm == 1:
        return delta.sign()
    return delta / per_sample(_length(delta).clamp_min(TINY), delta)


def _length(v: Tensor) -> Tensor:
    """Euclidean, (B,)."""
    return flat(v).norm(dim=1)
