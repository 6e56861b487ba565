"""Low-frequency attack: PGD over changes that a low-pass filter lets through.

    max over u in T(x)   l(f(P(x + low(u - x))), y),     the returned point is P(x + low(u - x))

A purifier that replaces the high frequencies of its input does not remove such a change. T(x) is the threat without its
box and P its projection; in Linf the filter keeps a change inside the ball, so that P only clamps to the box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.square import as_images
from unfooled.core.ascent import Decaying, Rule, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooling
from unfooled.core.losses import margin
from unfooled.core.low_pass import low_pass
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Box, Threat
from unfooled.core.types import Loss, Model

SMOOTH = partial(low_pass, smooth=5.0)
"""The default filter: Tikhonov's, with mu = 5."""


def low_frequency(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    steps: int = 20,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    loss: Loss = margin,
    low: Callable[[Tensor], Tensor] = SMOOTH,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss over changes in the low frequencies.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D); vectors and single-channel inputs are reshaped to images.
        y: Labels, or targets when `targeted`, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        targeted: True: y are target classes, whose loss is minimised.
        steps: Gradient evaluations (cost: steps + 1 forwards, steps backwards per sample, less once fooled).
        rule: Step sizes relative to eps.
        loss: Per-sample loss.
        low: Filter of changes, images (b, C, H, W) -> (b, C, H, W), differentiable, such as
            `partial(core.low_pass.low_pass, smooth=1.0)` or `core.low_pass.low_dct`.
        generator: Base seed of the starting points.

    Returns:
        Points inside the threat, (B, *D), detached. Success is not implied: see `verify`.

    Raises:
        BadInput: An L0 threat, or inputs that cannot be used.

    Example:
        >>> model = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1)
        >>> low_frequency(model, torch.tensor([[0.3, 0.3]]), torch.tensor([0]), Linf(0.2), steps=5).shape
        torch.Size([1, 2])
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    if threat.norm == 0:
        raise BadInput("low frequencies change every entry, L0 allows few; choose Linf, L2 or L1")

    def point(u: Tensor, x: Tensor, threat: Threat) -> Tensor:
        change = low(as_images(u - x)).reshape(x.shape)
        return threat.project(x + change, x)

    span = threat.box.high - threat.box.low
    ball = replace(threat, box=Box(threat.box.low - span, threat.box.high + span))
    goal = fooling(model, y, loss, targeted=targeted)

    def objective(u: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        return goal(point(u, x[at], threat.take(at)), at)

    with frozen(model):
        start = threat.sample(x, generator)
        u = ascend(objective, x, ball, steps=steps, rule=rule, start=start, generator=generator).z
        with torch.no_grad():
            return point(u, x, threat)
