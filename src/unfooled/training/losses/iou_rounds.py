"""Selection by attention: samples whose attention did not move under attack are attacked and trained on again.

    round t:  z <- attack(x, start z);  one step on the loss of (x, z);
              keep the samples with iou(1[P > 1/hw], 1[P' > 1/hw]) > key,  P, P' the attention maps of x, z

References:
    Wu et al., ARP, 2018, arXiv:1811.09831; code: iou_train.py. Differs: the attack is an argument and projects, and the
    number of rounds is limited (in the published code, a sample whose attention never moves may loop for ever).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.core.model.modes import evaluating
from unfooled.distances.maps.attention import above_mean, iou


@dataclass(frozen=True)
class Rounds:
    """Results of the rounds on one batch.

    Attributes:
        attacked: Share of the batch that each round attacked; the first is 1.
        losses: Loss of each optimiser step.
    """

    attacked: tuple[float, ...]
    losses: tuple[float, ...]


def iou_rounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    attack: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
    attend: Callable[..., Tensor],
    key: float = 0.2,
    rounds: int = 4,
) -> Rounds:
    """Train on one batch in rounds, each on the samples whose attention the last attack did not move.

    Args:
        model: Network, trained in place in its current mode; in eval mode while it is attacked and explained.
        x: Samples, (B, *D).
        y: Labels, (B,).
        optimizer: Optimiser of the model's parameters; one step per round.
        loss: Loss `(model, x, x_adv, y) -> scalar`, such as `Arp(...).on`.
        attack: Attack `(model, x, y, start) -> x_adv`, which continues from `start` and projects.
        attend: Attention `(model, x, y) -> (B, h, w)`.
        key: IoU with the clean map above which attention counts as not moved.
        rounds: Largest number of rounds after the first (cost of each: the attack's, the loss's, and 2 maps).

    Returns:
        A `Rounds` with at most `rounds + 1` entries.
    """
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}; it must be at least 0")
    z, alive = x.detach().clone(), torch.arange(len(x), device=x.device)
    attacked, losses = [], []
    for _ in range(rounds + 1):
        attacked.append(len(alive) / len(x))
        with evaluating(model):
            z[alive] = attack(model, x[alive], y[alive], z[alive]).detach()
        value = loss(model, x[alive], z[alive], y[alive])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
        with evaluating(model):
            before, now = (attend(model, part[alive], y[alive]) for part in (x, z))
        # A uniform map has no cells above its mean: where both maps have none, attention has not moved.
        alive = alive[iou(above_mean(before), above_mean(now)).nan_to_num(1.0) > key]
        if len(alive) == 0:
            break
    return Rounds(tuple(attacked), tuple(losses))
