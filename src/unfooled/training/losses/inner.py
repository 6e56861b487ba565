"""Inner maximisation of adversarial training losses, and copies of the network for their regularisers."""

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
    """Find points of the threat with a high loss in `steps` steps.

    The model is in eval mode meanwhile, so that batch statistics are those of the data, and its parameters get no
    gradient. The starts follow torch's global generator, which the training loop seeds step by step: a sample gets a
    new start in every epoch, and a resumed run has the same ones. Cost: steps + 1 forwards, steps backwards per sample,
    less for samples that are removed.

    Args:
        model: The network in training.
        x: Samples, (B, *D).
        y: Second argument of `loss`, (B,).
        threat: Constraint set of the points.
        loss: Loss `(logits, y) -> (B,)`, maximised.
        steps: Steps of the ascent.
        rule: Step sizes of the ascent.
        memory: Store of the last perturbed point of each sample, to start from. None: random starts.
        remove: Margin, best other logit minus the label's, at which a sample leaves. None: no sample leaves.
        labels: Labels of the margins, (B,). None: y.
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
        memory.store(x, z)
    return z


def proposed(attack: BudgetAttack, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Run an attack with the model in eval mode, from new starts in every step of training."""
    source = torch.Generator().manual_seed(int(torch.randint(1 << 62, ())))
    with evaluating(model), frozen(model):
        return attack(model, x, y, threat, generator=source).detach()


@dataclass(frozen=True, eq=False)
class InEval:
    """A wrapper that puts a model in eval mode for each call, also when a backward pass calls it again later.

    In training mode, batch statistics would make the explanation of a sample depend on the others, and dropout on
    chance.
    """

    model: nn.Module

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits in eval mode; the previous modes are restored."""
        with evaluating(self.model):
            logits: Tensor = self.model(x)
            return logits


def smoothed(model: Model, beta: float | None) -> Model:
    """Return the model with softplus(beta t) / beta for ReLU. None: the model itself."""
    return model if beta is None else Smoothed(model, beta)


def at_least(least: float, **options: float) -> None:
    """Refuse options that are smaller than `least`, or not a number."""
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least:g}")


def memory_for(start: str, memory: Starts | None) -> Starts | None:
    """Return the memory of a loss: none for random starts, else the given one or a new one."""
    if start not in ("random", "warm"):
        raise ValueError(f'start is {start!r}; it must be "random" or "warm"')
    return None if start == "random" else Starts() if memory is None else memory
