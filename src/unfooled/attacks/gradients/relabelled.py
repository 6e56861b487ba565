"""Twins of labels: a distilled twin goes on to learn only the labels, whatever the scores say.

    twin_L = argmin mean KL( 0.9 onehot(argmax f(z)) + 0.1 / K || softmax(twin(z)) ),   from the twin of the scores

Scores may be smooth, their gradients true, and the labels still come from elsewhere. A twin of the labels crosses the
borders at which the label changes.

References:
    Papernot et al., Practical black-box attacks against machine learning, AsiaCCS 2017, arXiv:1602.02697.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.gradients.twins import compute_directly, fit, steps_of, with_prefix
from unfooled.core.goals import answered, logits_at
from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model
from unfooled.runs.chunks import ComputeOnce

MIN_AGREEMENT_TO_SKIP, MIN_AGREEMENT_TO_SHORTEN = 0.98, 0.9
"""Shares of the points at which the twin has the model's labels: above the first it is a twin of the labels already,
below the second it learns for as many steps as it did from the scores."""


class Recorded:
    """A model that stores its queries and its labels, so that a second twin needs no query."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.points: list[Tensor] = []
        self.labels: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of the model, (B, K)."""
        logits = logits_from(self.model, x)
        self.record(x, logits)
        return logits

    def record(self, x: Tensor, logits: Tensor) -> None:
        """Store points and the model's labels there."""
        finite = answered(logits)
        self.points.append(x.detach()[finite])
        self.labels.append(logits.detach()[finite].argmax(1))


def relabelled(
    twin: nn.Module,
    model: Recorded,
    *,
    epochs: int = 10,
    batch: int = 64,
    seed: int = 0,
    keep: ComputeOnce | None = None,
) -> nn.Module:
    """Return a copy of a twin that has learned the labels at the points at which the model was queried.

    Args:
        twin: Twin of the scores.
        model: Model with the queries that it was asked while the twin learned, and their labels.
        epochs: Epochs over these points, a third as many where the twin already has most of the labels.
        batch: Samples per training step.
        seed: Random seed of the order.
        keep: Store of the training's states, by which a second start continues. None: none.

    Returns:
        The twin of the labels, in eval mode; the given one where that has the labels already. Cost: no pass of the
        model.
    """
    pool, labels = torch.cat(model.points), torch.cat(model.labels)
    with torch.no_grad():
        right = logits_at(twin, pool, batch=1024).argmax(1) == labels
        logits = twin(pool[:1])
    agreement = float(right.double().mean())
    if agreement >= MIN_AGREEMENT_TO_SKIP:
        return twin
    classes = logits.shape[1]
    targets = 0.9 * F.one_hot(labels, classes).to(pool.dtype) + 0.1 / classes
    share = 1 / 3 if agreement >= MIN_AGREEMENT_TO_SHORTEN else 1.0
    steps = math.ceil(share * steps_of(epochs, len(pool), batch))
    student = copy.deepcopy(twin).requires_grad_()
    fit(student, pool, targets, steps, batch, seed, with_prefix(keep or compute_directly, "labels"))
    return student.requires_grad_(False)
