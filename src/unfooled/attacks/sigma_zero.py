"""sigma-zero: minimisation of a smooth approximation of L0 together with the margin.

    min_d  max(-margin(x + d), 0) + mean_i d_i^2 / (d_i^2 + sigma)

Adam on the gradient divided by its largest entry; entries below tau are zeroed after each step; tau rises where the
point is adversarial and falls where it is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.ascent.nearest import Nearest, check_minimal, clearly_fooled, half_cosine, unbounded
from unfooled.core.checks import check_differentiable
from unfooled.core.goals import checked_once
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threats import TINY
from unfooled.core.types import Model


def sigma_zero(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float = 0,
    *,
    targeted: bool = False,
    steps: int = 500,
    sigma: float = 1e-3,
    tau: float = 0.3,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find adversarial examples that change few entries.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 0, the only norm supported.
        targeted: True: y are target classes.
        steps: Gradient evaluations (cost: steps forwards and backwards, 10 more forwards at the end).
        sigma: Width of the smooth approximation of L0.
        tau: First threshold below which an entry is set to zero.
        start: Starting points. None: x.
        generator: Unused; the attack is deterministic.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Cina et al., sigma-zero: gradient-based optimization of l0-norm adversarial examples, ICLR 2025,
        arXiv:2402.01879.
        Differs from the published code: it takes targets, and the smallest changes are undone at the end.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (0,))
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    delta = torch.zeros_like(x) if start is None else (start - x).detach()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    bound = torch.full((len(x),), tau, dtype=x.dtype, device=x.device)
    with frozen(model):
        for t in range(steps):
            rate = half_cosine(1.0, 0.1, t, steps)
            leaf = delta.detach().requires_grad_()
            with torch.enable_grad():
                logits = reader(x + leaf)
                check_differentiable(logits)
                far = (-sign * margin(logits, y)).clamp_min(0)
                smooth_l0 = (leaf.square() / (leaf.square() + sigma)).flatten(1).mean(1)
                (g,) = torch.autograd.grad((far + smooth_l0).sum(), leaf)
            hit = clearly_fooled(logits.detach(), y, targeted=targeted)
            best.record(x + delta, hit)
            g = g.nan_to_num(0.0, 0.0, 0.0)
            g = g / per_sample(flat(g).abs().amax(1).clamp_min(TINY), g)
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g.square()
            step = (first / (1 - 0.9 ** (t + 1))) / ((second / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
            delta = threat.box.clamp(x + delta - rate * step) - x
            bound = (bound + torch.where(hit, 0.01 * rate, -0.01 * rate)).clamp(0, 1)
            delta = torch.where(delta.abs() < per_sample(bound, delta), torch.zeros_like(delta), delta)
        return best.pull_back(reader, y, targeted=targeted)
