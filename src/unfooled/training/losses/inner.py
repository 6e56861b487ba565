"""The inner maximisation that adversarial training losses share, and the network as their regularisers see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unfooled.core.ascent import Rule, ascend
from unfooled.core.losses import margin
from unfooled.core.model.modes import evaluating, frozen
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Loss, Model
from unfooled.explanations import Smoothed
from unfooled.training.losses.memory import Starts


def worst_points(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    loss: Loss,
    steps: int,
    rule: Rule,
    memory: Starts | None = None,
    remove: float | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Points of the threat with the highest loss that `steps` steps find.

    The model is in eval mode meanwhile, so that batch statistics are those of the data, and its parameters ask for no
    gradient. The starts follow torch's global generator, which the training loop seeds step by step: equal samples get
    new starts in every epoch, and a resumed run the same ones. Cost: steps + 1 forwards, steps backwards a sample, less
    for samples that are removed.

    Args:
        model: the network in training.
        x: samples, (B, *D).
        y: what `loss` compares the logits with, (B,).
        threat: where the points must lie.
        loss: `(logits, y) -> (B,)`, maximised.
        steps: of the ascent.
        rule: its step sizes.
        memory: start where the last attack on the same sample ended, and remember where this one does.
        remove: a sample leaves once its margin, best other logit minus that of its label, is at least this.
        labels: for the margins, (B,); y where None.
    """
    seed = int(torch.randint(1 << 62, ()))
    labels = y if labels is None else labels
    with evaluating(model), frozen(model):

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(z).to(z.dtype)
            done = torch.zeros_like(at, dtype=torch.bool)
            if remove is not None:
                done = margin(logits.detach(), labels[at]) >= remove
            return loss(logits, y[at]), done

        start = threat.sample(x, seed)
        if memory is not None:
            start = memory.start(x, start, threat)
        z = ascend(objective, x, threat, steps=steps, rule=rule, start=start).z
    if memory is not None:
        memory.keep(x, z)
    return z


def proposed(attack: BudgetAttack, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Points that an attack proposes, with the model in eval mode and new starts in every step of training."""
    source = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
    with evaluating(model), frozen(model):
        return attack(model, x, y, threat, generator=source).detach()


@dataclass(frozen=True, eq=False)
class InEval:
    """A model that is in eval mode whenever it is called, also when a backward pass calls it again later.

    Explanations are each sample's own: batch statistics and dropout would make them depend on the other rows.
    """

    model: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Logits in eval mode; each submodule's own mode is restored."""
        with evaluating(self.model):
            logits: Tensor = self.model(x)
            return logits


def smoothed(model: Model, beta: float | None) -> Model:
    """The model with softplus(beta t) / beta for ReLU; itself where beta is None."""
    return model if beta is None else Smoothed(model, beta)


def at_least(least: float, **options: float) -> None:
    """Refuse options that are smaller, or not a number."""
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least:g}")


def remembering(start: str, memory: Starts | None) -> Starts | None:
    """The memory that a loss with these options has: none for random starts, a new one unless it has one already."""
    if start not in ("random", "warm"):
        raise ValueError(f'start is {start!r}; it must be "random" or "warm"')
    return None if start == "random" else Starts() if memory is None else memory
