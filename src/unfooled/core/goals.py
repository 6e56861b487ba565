"""Goals of attacks on the label: how a model's logits are read, what is maximised, and when a sample is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unfooled.core.checks import check_labels, check_logits, is_trusted
from unfooled.core.model.batching import batched
from unfooled.core.model.calls import answered, run
from unfooled.core.model.outputs import labelled, logits_of
from unfooled.core.types import Loss, Model, Objective


def read_logits(model: Model, x: Tensor, y: Tensor | None = None, *, batch: int | None = None) -> Tensor:
    """Run the model and check its output once: logits, (B, K), K >= 2, that know every label.

    For the place where a model is handed in; loops read by `logits_at`. An error of the model itself is reported as the
    model's where no gradient is recorded.

    Args:
        model: any callable to logits.
        x: inputs, (B, *D).
        y: labels to be checked against the number of classes, (B,). None: not checked.
        batch: samples computed at once. None: all.

    Raises:
        BadInput: the output is no logits, or a label lies beyond the classes.
    """
    reader = checked_once(model, y)
    if batch is None:
        return reader(x)
    return batched(reader, batch)(x) if y is None else batched(reader, batch)(x, y)


def logits_at(model: Model, x: Tensor, *, batch: int | None = None) -> Tensor:
    """Run a model whose output has been checked before: logits, (B, K), unwrapped once.

    Only the shape is looked at, which costs nothing: some models drop the batch's dimension when one sample is left.

    Args:
        model: any callable to logits.
        x: inputs, (B, *D).
        batch: samples computed at once. None: all.
    """
    if batch is not None:
        return batched(lambda part: logits_at(model, part), batch)(x)
    if isinstance(model, _CheckedOnce):
        return model(x)
    return unwrapped(run(model, x) if torch.is_grad_enabled() else answered(model, x), len(x), model)


def unwrapped(output: Any, n: int, model: Any = None) -> Tensor:
    """Return the logits of a model's output for n samples, (n, K), refusing another shape."""
    logits = output if isinstance(output, Tensor) else logits_of(output, model)
    return logits if logits.ndim == 2 and len(logits) == n else check_logits(logits, n)


def checked_once(model: Model, y: Tensor | None = None) -> _CheckedOnce:
    """Wrap a model for a loop: the first output is checked, against all labels, and the later ones are trusted.

    Args:
        model: any callable to logits; returned as it is where it is wrapped already.
        y: labels of every sample that the loop may pass, (B,); by them the logits are found among several outputs.
            None: not checked.

    Returns:
        A model whose outputs are unwrapped to logits, (B, K).
    """
    return model if isinstance(model, _CheckedOnce) else _CheckedOnce(model, y)


class _CheckedOnce:
    """A model that reads its logits, and checks the first output."""

    def __init__(self, model: Model, y: Tensor | None) -> None:
        self.model, self.y, self.checked = model, y, is_trusted()
        self.called = False

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits; `labels` are those of the samples in x."""
        if self.called:
            logits = logits_at(self.model, x)
        else:
            with labelled(self.y if labels is None else labels):
                logits = logits_at(self.model, x)
            self.called = True
        if not self.checked:
            check_logits(logits, len(x))
            if self.y is not None and len(self.y):
                check_labels(self.y, len(self.y), logits.shape[1])
            self.checked = True
        return logits


def fooled(logits: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """Return where the label is lost (or the target hit), (B,) bool; NaN or infinite logits are no success."""
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
    draws: int = 1,
) -> Objective:
    """Build the objective of an attack on the label.

    Args:
        model: any callable to logits; its first output is checked, see `checked_once`.
        y: labels, or targets when `targeted`, (B,).
        loss: `(logits, y) -> (B,)`, maximised (minimised when targeted).
        targeted: hit y instead of leaving it.
        stop: report samples as done once they are fooled.
        draws: evaluations of a random model whose loss is averaged; with more than one no sample is ever done, since a
            single lucky draw is no success.

    Returns:
        An objective for `ascend`. Cost: `draws` passes an evaluation.
    """
    sign, reader = -1.0 if targeted else 1.0, checked_once(model, y)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        label = y[at]
        logits = reader(z, label)
        value = loss(logits, label)
        if draws > 1:
            more = [loss(reader(z), label) for _ in range(draws - 1)]
            value = torch.stack([value, *more]).mean(0)
        done = fooled(logits.detach(), label, targeted=targeted) if stop and draws == 1 else torch.zeros_like(at) > 0
        return sign * value, done

    return objective


Attack = Callable[..., Tensor]
"""A budget attack that is handed in, options bound; it may take fewer keywords than `BudgetAttack`."""
