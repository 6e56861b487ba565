"""A loaded module with its metadata, before it is wrapped in a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Statistic = float | Sequence[float] | None
"""A mean or standard deviation: one number, one per channel, or None for none."""


@dataclass(frozen=True)
class Loaded:
    """A module and its metadata; None for metadata that the source lacks.

    Attributes:
        module: Module or callable.
        name: Name in reports.
        mean: Mean of the training data by channel, in fractions of the input range.
        std: Standard deviation of the training data, likewise.
        classes: Class names in the order of the logits.
        input_shape: Shape of one sample.
        attributes: Names of the attributes of a concept network, in the order of its attribute logits.
        left_out: Names of the attributes that were constant in training, and have no logit.
        trained_on: Hashes of the training images of a concept network, see `Classifier`.
    """

    module: nn.Module | Callable[..., Any]
    name: str = ""
    mean: Statistic = None
    std: Statistic = None
    classes: Sequence[str] | None = None
    input_shape: Sequence[int] | None = None
    attributes: Sequence[str] | None = None
    left_out: Sequence[str] | None = None
    trained_on: Tensor | None = None
