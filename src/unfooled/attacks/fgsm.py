"""Fast gradient sign method: one steepest step of length eps from x.

x_adv = P( x + eps steepest(grad_x l(f(x), y)) )
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.ascent import Constant, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.goals import fooling
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take one steepest step of length eps.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: Threat model; its eps (a fraction of the input range) may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        loss: Per-sample loss.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Points inside the threat, (B, *D), detached; x itself where it is fooled already. Cost: 2 forwards, 1 backward.

    Raises:
        BadInput: Inputs, labels or outputs that cannot be used; the message names the invalid one.

    References:
        Goodfellow, Shlens, Szegedy, Explaining and harnessing adversarial examples, ICLR 2015, arXiv:1412.6572.
        Differs from the paper: any norm's steepest step, not only the sign.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> fgsm(model, torch.tensor([[0.3, 0.3]]), torch.tensor([0]), Linf(0.1))
        tensor([[0.2000, 0.2000]])
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    with frozen(model):
        objective = fooling(model, y, loss, targeted=targeted)
        result = ascend(
            objective, x, threat, steps=1, rule=Constant(1.0), keep_best=False, batch=len(x), generator=generator
        )
    return result.z
