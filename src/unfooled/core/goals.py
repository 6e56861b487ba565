"""Goals of attacks on the label: reading a model's logits, the objective, and the test of success."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unfooled.core.checks import check_labels, check_logits, is_trusted
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import batched
from unfooled.core.model.calls import run, run_checked
from unfooled.core.model.outputs import labelled, logits_of
from unfooled.core.model.precision import HALF
from unfooled.core.types import Loss, Model, Objective

ANSWERS_COMPARED = 64
"""Samples on which it is compared whether a model answers classes or sets of labels."""


def read_logits(model: Model, x: Tensor, y: Tensor | None = None, *, batch: int | None = None) -> Tensor:
    """Run the model and return its checked logits, (B, K), with K >= 2 and every label below K.

    For the first call of a model; loops use `logits_at`. Without gradients, an exception inside the model is raised as
    `ModelFails`.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels to check against the number of classes, (B,). None: not checked.
        batch: Samples computed at once. None: all.

    Raises:
        BadInput: The output is not logits, or a label is not below the number of classes.
    """
    reader = checked_once(model, y)
    if batch is None:
        return reader(x)
    return batched(reader, batch)(x) if y is None else batched(reader, batch)(x, y)


def logits_at(model: Model, x: Tensor, *, batch: int | None = None) -> Tensor:
    """Return the logits, (B, K), of a model whose output has been checked before.

    Only the shape is checked, since some models drop the batch dimension for a single sample.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        batch: Samples computed at once. None: all.
    """
    if batch is not None:
        return batched(lambda part: logits_at(model, part), batch)(x)
    if isinstance(model, _CheckedOnce):
        return model(x)
    return unwrapped(run(model, x) if torch.is_grad_enabled() else run_checked(model, x), len(x), model)


def unwrapped(output: Any, n: int, model: Any = None) -> Tensor:
    """Return the logits of a model's output for n samples, (n, K), refusing another shape."""
    plain = isinstance(output, Tensor) and output.dtype not in HALF
    logits = output if plain else logits_of(output, model)
    return logits if logits.ndim == 2 and len(logits) == n else check_logits(logits, n)


def checked_once(model: Model, y: Tensor | None = None) -> _CheckedOnce:
    """Wrap a model for a loop: the first output is checked against all labels, later ones only for their shape.

    Args:
        model: Any callable to logits; one that is already wrapped is returned unchanged.
        y: Labels of every sample that the loop may pass, (B,); they also help to identify the logits among several
            outputs. None: not checked.

    Returns:
        A model whose outputs are unwrapped to logits, (B, K).
    """
    return model if isinstance(model, _CheckedOnce) else _CheckedOnce(model, y)


def behind(model: Model) -> Model:
    """Return the model that `checked_once` wrapped; any other as it is."""
    return model.model if isinstance(model, _CheckedOnce) else model


class _CheckedOnce:
    """A model that returns plain logits, and checks its first output."""

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
    """Return which samples are misclassified (or hit the target), (B,) bool; those without an answer do not count."""
    prediction = logits.argmax(1)
    changed = prediction == y if targeted else prediction != y
    return changed & answered(logits, None if targeted else y)


def answered(logits: Tensor, y: Tensor | None = None) -> Tensor:
    """Return for which samples a model decides, (B,) bool.

    A logit that is NaN or infinite is no answer, except for -inf at a class that is not the label: a probability of 0.

    Args:
        logits: Logits, (B, K).
        y: Labels, (B,). None: some class needs a finite logit.
    """
    own = logits.amax(1) if y is None else logits.gather(1, y[:, None].to(logits.device))[:, 0]
    return (logits < torch.inf).all(1) & (own > -torch.inf)


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
        model: Any callable to logits; its first output is checked, see `checked_once`.
        y: Labels, or targets when `targeted`, (B,).
        loss: `(logits, y) -> (B,)`, maximised (minimised when targeted).
        targeted: True: y are target classes.
        stop: True: report samples as done once they are fooled.
        draws: Evaluations of a random model whose loss is averaged. With more than one, no sample is reported as done:
            a single fooled draw is not enough.

    Returns:
        An objective for `ascend`. Cost: `draws` passes per evaluation.
    """
    sign, reader = -1.0 if targeted else 1.0, checked_once(model, y)

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        label = y[at]
        logits = reader(z, label)
        value = loss(logits, label)
        if draws > 1:
            others = [loss(reader(z), label) for _ in range(draws - 1)]
            value = torch.stack([value, *others]).mean(0)
        done = fooled(logits.detach(), label, targeted=targeted) if stop and draws == 1 else torch.zeros_like(at) > 0
        return sign * value, done

    return objective


Attack = Callable[..., Tensor]
"""An attack passed as an argument, its options bound; it may accept fewer keywords than `BudgetAttack`."""


def predicted(model: Model, x: Tensor, *, batch: int | None = 256) -> Tensor:
    """Return the predicted class of each sample, (B,) int64. Cost: one forward.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        batch: Samples computed at once. None: all.

    Example:
        >>> predicted(lambda z: z, torch.tensor([[0.2, 0.8], [0.9, 0.1]])).tolist()
        [1, 0]
    """
    with torch.no_grad():
        return read_logits(model, x, batch=batch).argmax(1)


def least_likely(model: Model, x: Tensor, *, batch: int | None = 256) -> Tensor:
    """Return the least likely class of each sample, (B,) int64, as a target. Cost: one forward.

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        batch: Samples computed at once. None: all.

    Example:
        >>> least_likely(lambda z: z, torch.tensor([[0.2, 0.8], [0.9, 0.1]])).tolist()
        [0, 1]
    """
    with torch.no_grad():
        return read_logits(model, x, batch=batch).argmin(1)


def refuse_one_hot(model: Model, x: Tensor, y: Tensor, sets: Model, classes: Tensor) -> None:
    """Refuse labels of which exactly one is set in each row, where the model answers classes: `y` is written otherwise.

    Args:
        model: The model as it was given.
        x: Samples, (n, *D); the first 64 are used.
        y: Labels, (n, L) of 0 and 1.
        sets: The model of sets of labels, see `multi_label`.
        classes: The set of each sample, (n,).

    Raises:
        BadInput: The largest output is right more often than the set of labels.
    """
    if y.shape[1] < 2 or not bool((y.sum(1) == 1).all()):
        return
    few = x[:ANSWERS_COMPARED]
    as_classes = (logits_at(model, few).argmax(1) == y[: len(few)].argmax(1).to(few.device)).sum()
    if as_classes > (logits_at(sets, few).argmax(1) == classes[: len(few)].to(few.device)).sum():
        raise BadInput(
            f"y has shape {tuple(y.shape)} and looks one-hot; give the classes, y.argmax(1), or where samples do have "
            "several labels, model, y, names = uf.multi_label(model, y, x)"
        )
