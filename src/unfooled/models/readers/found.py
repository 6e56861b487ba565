"""What a source knows of its model, before it becomes a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

Statistic = float | Sequence[float] | None
"""A mean or standard deviation: one number, one a channel, or None where there is none."""


@dataclass(frozen=True)
class Found:
    """A module, and what came with it; None where the source is silent.

    Attributes:
        module: a module or a callable.
        name: what reports call it.
        mean: of the training data, in fractions of the input range.
        std: likewise.
        classes: class names in the order of the logits.
        input_shape: one sample's shape.
    """

    module: nn.Module | Callable[..., Any]
    name: str = ""
    mean: Statistic = None
    std: Statistic = None
    classes: Sequence[str] | None = None
    input_shape: Sequence[int] | None = None
