"""The inner maximisation that adversarial training losses share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unfooled.core.ascent import Rule, ascend
from unfooled.core.modes import evaluating, frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Loss


def worst_points(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, loss: Loss, steps: int, rule: Rule
) -> Tensor:
    """Points of the threat with the highest loss that `steps` steps find, from fresh random starts.

    The model is in eval mode meanwhile, so that batch statistics are those of the data, and its parameters ask for no
    gradient. The starts follow torch's global generator, which the training loop seeds step by step: equal samples get
    new starts in every epoch, and a resumed run the same ones. Cost: steps + 1 forwards, steps backwards a sample.
    """
    seed = int(torch.randint(1 << 62, ()))
    with evaluating(model), frozen(model):

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            return loss(model(z).to(z.dtype), y[at]), torch.zeros_like(at, dtype=torch.bool)

        return ascend(objective, x, threat, steps=steps, rule=rule, start=threat.sample(x, seed)).z
