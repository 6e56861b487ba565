"""FMN: fast minimum-norm attacks in L0, L1, L2 and Linf.

    r <- |d| + |margin| / |grad|_dual until the first success, then r (1 -+ gamma_t)
    d <- P_r( d + s_t g / |g|_2 )

r is the radius, d the change of x, g the gradient, P_r the projection onto the ball of radius r and the box. The step
s_t falls from 1 to .01 and gamma_t from .05 to .001, along half a cosine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.ascent.nearest import (
    DUAL,
    Nearest,
    check_minimal,
    clearly_fooled,
    half_cosine,
    loss_and_gradient,
    replace_zero_gradients,
    unbounded,
)
from unfooled.core.goals import checked_once
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat
from unfooled.core.threats import L2, TINY, project_l1_box
from unfooled.core.types import Model


def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float,
    *,
    targeted: bool = False,
    steps: int = 500,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Search for the nearest adversarial examples in L0, L1, L2 or Linf.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 0, 1, 2 or math.inf.
        targeted: True: y are target classes.
        steps: Gradient evaluations (cost: steps forwards and backwards, 10 more forwards at the end).
        start: Starting points, such as those of another attack. None: x.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Pintor et al., Fast minimum-norm adversarial attacks through adaptive norm constraints, NeurIPS 2021,
        arXiv:2102.12827.
        Differs from the published code: the dual norm is bounded away from 0, so that a zero gradient gives no infinite
        radius, L1 is projected onto ball and box at once, and the result is moved back towards x.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm)
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    z = x if start is None else start
    worst = threat.size(torch.maximum(x - threat.box.low, threat.box.high - x))
    radius = torch.ones_like(worst) if norm == 0 and start is None else threat.size(z - x)
    succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # adversarial at some step
    with frozen(model):
        for t in range(steps):
            logits, value, g = loss_and_gradient(reader, z, y, sign, margin)
            hit = clearly_fooled(logits, y, targeted=targeted)
            size = best.record(z, hit)
            succeeded |= hit
            gamma = half_cosine(0.05, 0.001, t, steps)
            if norm == 0:
                smaller = torch.minimum(torch.minimum(radius - 1, (radius * (1 - gamma)).floor()), best.distance)
                larger = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
            else:
                dual = flat(g).norm(p=DUAL[float(norm)], dim=1).clamp_min(TINY)
                smaller = torch.minimum(radius * (1 - gamma), best.distance)
                # A little beyond the linear estimate, which on a linear model ends on the boundary and never across it.
                larger = torch.where(succeeded, radius * (1 + gamma), (size + value.abs() / dual) * (1 + gamma))
            radius = torch.minimum(torch.where(hit, smaller, larger), worst).clamp_min(0)
            far = z + half_cosine(1.0, 0.01, t, steps) * L2(1.0).steepest(replace_zero_gradients(g, x, generator, t))
            # In L1, ball then box would spend the radius on entries that cannot move any further.
            z = project_l1_box(far, x, radius) if norm == 1 else threat.with_eps(radius).project(far, x)
        return best.pull_back(reader, y, targeted=targeted)
