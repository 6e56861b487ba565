"""A loaded module with its metadata, before it is wrapped in a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

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
    """

    module: nn.Module | Callable[..., Any]
    name: str = ""
    mean: Statistic = None
    std: Statistic = None
    classes: Sequence[str] | None = None
    input_shape: Sequence[int] | None = None
