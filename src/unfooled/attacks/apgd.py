"""APGD: projected gradient ascent that sets its own step sizes.

    u = P(z_t + s steepest(g_t)),   z_{t+1} = P(z_t + a (u - z_t) + (1 - a)(z_t - z_{t-1}))

s starts at 2 eps and is halved, from the best point, at checkpoints that show no progress (`core.ascent.Auto`).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.restarts import restarted
from unfooled.core.ascent import Auto, ascend
from unfooled.core.checks import BadInput, check_attack, check_mode
from unfooled.core.goals import fooling
from unfooled.core.losses import margin
from unfooled.core.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 100,
    loss: Loss = margin,
    restarts: int = 1,
    start: Tensor | None = None,
    eot: int = 1,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack with APGD in Linf or L2.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs in the threat's box, (B, *D).
        y: labels, or targets when `targeted`, (B,) int64.
        threat: `Linf` or `L2`; its eps (a fraction of the input range) may be (B,).
        targeted: lower the loss of y instead.
        steps: gradient evaluations a restart (cost: steps + 1 forwards, steps backwards a sample, less once fooled).
        loss: `margin` (default), `cross_entropy`, `dlr`, or any `(logits, y) -> (B,)`.
        restarts: random starts; samples already fooled are left out of the next (cost: 1 more forward each).
        start: first points, (B, *D), instead of random ones.
        eot: gradients averaged over this many draws of a random model (cost: times eot).
        batch: samples alive at once; all where None.
        generator: base seed; the same seed and sample give the same start whatever the batch.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: a threat other than Linf or L2, or inputs, labels or outputs that cannot be used.

    References:
        Croce, Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks,
        ICML 2020, arXiv:2003.01690.
        Differs from the published code: finished samples leave the batch, no gradient is taken after the last step, the
        default loss is the margin, and the random start is uniform in the ball instead of on its surface.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> apgd(model, torch.tensor([[0.3, 0.3]]), torch.tensor([0]), Linf(0.2), steps=5).shape
        torch.Size([1, 2])
    """
    check_attack(x, y, threat)
    check_mode(model)
    if threat.norm not in (2.0, math.inf):
        raise BadInput(f"apgd knows Linf and L2, the threat is {threat}; use pgd")
    if restarts != 1:
        if start is not None:
            raise BadInput(
                "start fixes the first points, so every restart would repeat one run; give start or restarts"
            )
        again = partial(apgd, steps=steps, loss=loss, eot=eot, batch=batch)
        return restarted(again, restarts)(model, x, y, threat, targeted=targeted, generator=generator)
    with frozen(model):
        z = threat.sample(x, generator) if start is None else start
        objective = fooling(model, y, loss, targeted=targeted, eot=eot)
        return ascend(objective, x, threat, steps=steps, rule=Auto(), start=z, batch=batch, generator=generator).z
