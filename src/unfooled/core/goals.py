"""What an attack on the label maximises, and when it is done."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.core.checks import check_labels, check_logits
from unfooled.core.model.outputs import answered, logits_of
from unfooled.core.types import Loss, Model, Objective


def read_logits(model: Model, x: Tensor, y: Tensor | None = None, *, batch: int | None = None) -> Tensor:
    """Run the model and check what it returned: logits, (B, K), K >= 2, that know every label.

    An error of the model itself is named as the model's where no gradient is asked for.

    Args:
        model: any callable to logits.
        x: inputs, (B, *D).
        y: labels to be checked against the number of classes, (B,); None: not checked.
        batch: samples computed at once; None: all.
    """
    if batch is not None and len(x) > batch:
        labels = [None] * -(-len(x) // batch) if y is None else y.split(batch)
        return torch.cat([read_logits(model, *part) for part in zip(x.split(batch), labels, strict=True)])
    output = model(x) if torch.is_grad_enabled() else answered(model, x)
    logits = check_logits(logits_of(output), len(x))
    if y is not None and len(y):
        check_labels(y, len(x), logits.shape[1])
    return logits


def logits_at(model: Model, x: Tensor, *, batch: int | None = None) -> Tensor:
    """Run a model whose output has been checked before: logits, (B, K), unwrapped once.

    Args:
        model: any callable to logits.
        x: inputs, (B, *D).
        batch: samples computed at once. None: all.
    """
    if batch is not None and len(x) > batch:
        return torch.cat([logits_at(model, part) for part in x.split(batch)])
    return logits_of(model(x) if torch.is_grad_enabled() else answered(model, x))


def fooled(logits: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """Where the label is lost (or the target hit), (B,) bool. NaN or infinite logits are no decision, so no success."""
    prediction = logits.argmax(1)
    changed = prediction == y if targeted else prediction != y
    return changed & torch.isfinite(logits).all(1)


def fooling(
    model: Model,
    y: Tensor,
    loss: Loss,
    *,
    targeted: bool = False,
    stop: bool = True,
    eot: int = 1,
) -> Objective:
    """Build the objective of an attack on the label.

    Args:
        model: any callable to logits.
        y: labels, or targets when `targeted`, (B,).
        loss: `(logits, y) -> (B,)`, maximised (minimised when targeted).
        targeted: success is to hit y.
        stop: report samples as done once they are fooled.
        eot: draws of a random model whose loss is averaged; with more than one nothing is ever done, since a single
            lucky draw is no success.

    Returns:
        An objective for `ascend`; cost: `eot` passes an evaluation.
    """
    sign = -1.0 if targeted else 1.0

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        label = y[at]
        logits = read_logits(model, z, label)
        value = loss(logits, label)
        if eot > 1:
            more = [loss(read_logits(model, z), label) for _ in range(eot - 1)]
            value = torch.stack([value, *more]).mean(0)
        done = fooled(logits.detach(), label, targeted=targeted) if stop and eot == 1 else torch.zeros_like(at) > 0
        return sign * value, done

    return objective


Attack = Callable[..., Tensor]
"""A budget attack with its options bound; see `BudgetAttack`."""
