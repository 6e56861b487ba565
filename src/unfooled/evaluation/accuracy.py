"""Robust accuracy in one call: attack, judge, count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unfooled.attacks.ensembles.cascade import cascade
from unfooled.core.checks import check_attack, check_run
from unfooled.core.errors import BadInput
from unfooled.core.given import as_samples, in_precision_of
from unfooled.core.goals import predicted, refuse_one_hot
from unfooled.core.memory import max_bytes_in_memory
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.two_class import multi_label
from unfooled.core.samples import Streamed
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.data.torch_sets import from_torch
from unfooled.evaluation.verify import verify
from unfooled.models.black_boxes import as_model
from unfooled.statistics.intervals import Estimate, share

AnyAttack = Callable[[Model, Tensor, Tensor, Threat], Tensor]
"""An attack: from model, inputs, labels and threat to the proposed points, (B, *D)."""


def robust_accuracy(
    model: Model, x: Any, y: Any, threat: Threat, *, attack: AnyAttack | None = None, seed: int = 0
) -> Estimate:
    """Measure robust accuracy against one attack: an upper bound, without the checks that `audit` makes.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K).
        x: Inputs in the threat's box: a tensor or a NumPy array, (B, *D), Pillow images, or a `Dataset` or
            `DataLoader` that fits into memory.
        y: Labels, (B,): a tensor, an array or a list; several per sample, (B, L) of 0 and 1. None: those of the data
            set, or the predicted classes; the share that an attack leaves unchanged is returned then.
        threat: Constraint set.
        attack: Attack to use, such as `uf.attacks.pgd`, or your own; options by `functools.partial`. None: the cascade.
        seed: Random seed of the cascade.

    Returns:
        The share of samples that are right and stay right, with its Clopper-Pearson interval. A sample with an answer
        that is not finite does not count as robust. Cost: that of the attack, and two forwards per sample.

    Raises:
        BadInput: inputs, labels or a model that cannot be used.

    Example:
        >>> import torch
        >>> from unfooled.core.threats import Linf
        >>> x = torch.tensor([[0.9, 0.1], [0.55, 0.45]])  # the larger entry is the class
        >>> robust_accuracy(lambda z: z, x, [0, 0], Linf(0.2)).value
        0.5
    """
    model = as_model(model)
    x, y = _read(x, y, seed) if isinstance(x, (Dataset, DataLoader)) else as_samples(x, y)
    y = predicted(model, x) if y is None else y
    if isinstance(y, Tensor) and y.ndim == 2:
        several, places, _ = multi_label(model, y, x)
        refuse_one_hot(model, x, y, several, places)
        model, y = several, places
    x, _ = in_precision_of(model, x)
    check_run(seed)
    x = check_attack(x, y, threat)
    points = cascade(model, x, y, threat, seed=seed) if attack is None else attack(model, x, y, threat)
    judged = verify(model, x, y, points, threat, batch=fitting_batch(model, x))
    return share(~judged.success & ~judged.undefined)


def _read(data: Dataset[Any] | DataLoader[Any], y: Any, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples and labels of a data set, in memory."""
    kind = type(data).__name__
    if y is not None:
        raise BadInput(f"x is a {kind}, which has labels; give y=None")
    x, own, _ = from_torch(data, seed=seed)
    if isinstance(x, Streamed):
        if len(x) * x[:1].nbytes > max_bytes_in_memory():
            raise BadInput(f"the samples of the {kind} do not fit into memory; take `audit`, which reads them in parts")
        x = x[:]
    return x, own
