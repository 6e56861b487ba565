"""Step-LL: one step towards the class that is least likely at x, optionally after a random step.

    step_ll      z = P( x  - eps steepest(grad l(f(x), y_LL)) ),              y_LL = argmin_c f(x)_c
    r_step_ll    x~ = P( x + eps/2 steepest(N(0, I)) ),   z = P( x~ - eps/2 steepest(grad l(f(x~), y_LL)) )

P projects onto the threat, f are the logits, l is the loss.

Single steps are weak attacks, and training on them can overfit to them: evaluate with the cascade.

References:
    Kurakin, Goodfellow, Bengio, Adversarial machine learning at scale, ICLR 2017, arXiv:1611.01236 (Step-LL).
    Tramer et al., Ensemble adversarial training, ICLR 2018, arXiv:1705.07204 (R+Step-LL).
    Differs: any norm's steepest step, and every point is inside the threat (as published, x~ can leave the box).
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent import Constant, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.goals import fooled, logits_at, read_logits
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import per_sample, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model


def step_ll(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    loss: Loss = cross_entropy,
    skip_wrong: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take one step of length eps towards the least likely class.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: Threat model; its eps (a fraction of the input range) may be (B,).
        targeted: True: step towards y instead of the least likely class.
        loss: Per-sample loss, minimised.
        skip_wrong: True: return x where it is fooled already; False: move every sample, for training.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Points inside the threat, (B, *D), detached. Cost: 3 forwards, 1 backward.

    Raises:
        BadInput: Inputs, labels or outputs that cannot be used; the message names the invalid one.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> step_ll(model, torch.tensor([[0.6, 0.3]]), torch.tensor([0]), Linf(0.1))
        tensor([[0.5000, 0.2000]])
    """
    return _step(model, x, y, threat, targeted, loss, generator, skip_wrong=skip_wrong, noise=0.0)


def r_step_ll(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    loss: Loss = cross_entropy,
    skip_wrong: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take a random step of length eps/2, then one of eps/2 towards the class least likely at x; see `step_ll`."""
    return _step(model, x, y, threat, targeted, loss, generator, skip_wrong=skip_wrong, noise=0.5)


def _step(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    targeted: bool,
    loss: Loss,
    generator: torch.Generator | None,
    *,
    skip_wrong: bool,
    noise: float,
) -> Tensor:
    """Take the step of length 1 - noise, after a random one of length noise, in multiples of eps."""
    x = check_attack(x, y, threat)
    check_mode(model)
    x, whole = x.detach(), threat.bounded(x)
    with frozen(model):
        with torch.no_grad():
            logits = read_logits(model, x, y)
        aim = y if targeted else logits.argmin(1)
        start = x
        if noise:
            jump = whole.steepest(rng.normal(rng.seeds(x, generator), tuple(x.shape[1:]), dtype=x.dtype))
            start = whole.project(x + noise * per_sample(whole.eps, x) * jump, x)

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            return -loss(logits_at(model, z), aim[at]), torch.zeros_like(at) > 0

        step = Constant(1.0 - noise)
        z = ascend(objective, x, threat, steps=1, rule=step, start=start, keep_best=False, generator=generator).z
        return where_rows(fooled(logits, y, targeted=targeted), x, z) if skip_wrong else z
