"""Projected gradient descent: maximise the loss inside the threat, one steepest step at a time.

z <- P( z + s_t eps steepest(grad_z l(f(z), y)) ),   z_0 a random point of the threat
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.attacks.restarts import repeat
from unfooled.core.ascent import Decaying, Rule, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.goals import fooling
from unfooled.core.losses import cross_entropy
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Loss, Model


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 20,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    loss: Loss = cross_entropy,
    restarts: int = 1,
    stop: bool = True,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss by projected steepest ascent.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: Threat model; its eps (a fraction of the input range) may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        steps: Gradient evaluations per restart (cost: steps + 1 forwards, steps backwards per sample, less once
            fooled).
        rule: Step sizes relative to eps; `Constant(.1)` for the paper's.
        loss: Per-sample loss.
        restarts: Number of random starts; fooled samples are not attacked again (cost: 1 more forward each, for more
            than one).
        stop: True: stop a sample as soon as it is fooled; False: take every step and return the point of highest loss.
        batch: Samples computed at once. None: all.
        generator: Base seed; the same seed and sample give the same start in any batch.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: x outside the box, labels outside [0, K), shapes that do not agree; the message names the invalid one.

    References:
        Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018,
        arXiv:1706.06083, eq. 2.1.
        Differs from the paper: returns the best iterate instead of the last, and decaying steps by default.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> pgd(model, torch.tensor([[0.3, 0.3]]), torch.tensor([0]), Linf(0.2), steps=5).shape
        torch.Size([1, 2])
    """
    x = check_attack(x, y, threat)
    check_mode(model)

    def climb(x: Tensor, y: Tensor, threat: Threat, source: torch.Generator | None) -> Tensor:
        return _climb(
            model, x, y, threat, threat.sample(x, source), targeted=targeted, steps=steps, rule=rule, loss=loss,
            stop=stop, batch=batch, generator=source,
        )  # fmt: skip

    with frozen(model):
        if restarts == 1:
            return climb(x, y, threat, generator)
        return repeat(climb, restarts, model, x, y, threat, targeted=targeted, generator=generator)


def pgd_from(
    start: Tensor,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 20,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    loss: Loss = cross_entropy,
    stop: bool = True,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss as `pgd` does, from given starting points.

    Args:
        start: Starting points, (B, *D); those outside the threat are projected.
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: Threat model; its eps may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        steps: Gradient evaluations (cost: steps + 1 forwards, steps backwards per sample, less once fooled).
        rule: Step sizes relative to eps.
        loss: Per-sample loss.
        stop: True: stop a sample as soon as it is fooled.
        batch: Samples computed at once. None: all.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Points inside the threat, (B, *D), detached.

    Raises:
        BadInput: As `pgd`, or a start of another shape.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    with frozen(model):
        return _climb(
            model, x, y, threat, start, targeted=targeted, steps=steps, rule=rule, loss=loss, stop=stop, batch=batch,
            generator=generator,
        )  # fmt: skip


def _climb(
    model: Model, x: Tensor, y: Tensor, threat: Threat, start: Tensor, *, targeted: bool, steps: int, rule: Rule,
    loss: Loss, stop: bool, batch: int | None, generator: torch.Generator | None,
) -> Tensor:  # fmt: skip
    """Ascend from `start`; the arguments are checked already."""
    objective = fooling(model, y, loss, targeted=targeted, stop=stop)
    return ascend(objective, x, threat, steps=steps, rule=rule, start=start, batch=batch, generator=generator).z
