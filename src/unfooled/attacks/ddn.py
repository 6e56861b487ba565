"""DDN: decouple direction and norm to find the nearest adversarial example in L2.

    d <- d + s_t g / |g|_2,   r <- r (1 - gamma) where adversarial, r (1 + gamma) elsewhere,   d <- r d / |d|_2

r is the radius, d the change of x, g the gradient; the step s_t falls from 1 to .01 along half a cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.ascent.nearest import (
    Nearest,
    check_minimal,
    clearly_fooled,
    half_cosine,
    loss_and_gradient,
    replace_zero_gradients,
    unbounded,
)
from unfooled.core.goals import checked_once
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import per_sample
from unfooled.core.threats import TINY
from unfooled.core.types import Model


def ddn(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float = 2,
    *,
    targeted: bool = False,
    steps: int = 500,
    gamma: float = 0.05,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the nearest adversarial examples in L2.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 2, the only norm supported.
        targeted: True: y are target classes.
        steps: Gradient evaluations (cost: steps forwards and backwards, 10 more forwards at the end).
        gamma: Relative change of the radius per step.
        start: Starting points. None: x.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Rony et al., Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses,
        CVPR 2019, arXiv:1811.09600.
        Differs from the published code: nothing is rounded to 8 bits, and the result is moved back towards x.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (2,))
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    z = x if start is None else start
    radius = threat.size(z - x)
    radius = torch.where(radius > 0, radius, torch.ones_like(radius))
    with frozen(model):
        for t in range(steps):
            logits, _, g = loss_and_gradient(reader, z, y, sign, cross_entropy)
            hit = clearly_fooled(logits, y, targeted=targeted)
            best.record(z, hit)
            step = half_cosine(1.0, 0.01, t, steps)
            delta = z - x + step * threat.steepest(replace_zero_gradients(g, x, generator, t))
            radius = radius * torch.where(hit, 1 - gamma, 1 + gamma)
            delta = delta * per_sample(radius / threat.size(delta).clamp_min(TINY), delta)
            z = threat.box.clamp(x + delta)
        return best.pull_back(reader, y, targeted=targeted)
