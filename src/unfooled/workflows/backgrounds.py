"""Background samples for explanations that compare a sample with others, such as expected gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from unfooled.core.types import Model
from unfooled.workflows import catalog

MAX_BACKGROUND = 100
"""Largest number of background samples; the first of the data are taken."""


@dataclass(frozen=True, eq=False)
class AgainstData:
    """An explanation with samples of the data as its background.

    Attributes:
        explain: The explanation, which takes `background`.
        background: Samples of the data, (N, *D).
    """

    explain: Callable[..., Tensor]
    background: Tensor = field(repr=False)

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the attribution of each input value, (B, *D)."""
        background = self.background.to(x.device)
        return self.explain(model, x, y, background=background, create_graph=create_graph)


def with_background(explain: Any, x: Any) -> Any:
    """Give the first samples of the data to an explanation that takes a background.

    Args:
        explain: The explanation, or None. It is returned unchanged if it takes no background, or has one already.
        x: Clean samples, (N, *D), or samples that are read by rows.
    """
    bound = isinstance(explain, partial) and "background" in explain.keywords
    if explain is None or bound or "background" not in catalog.takes(explain):
        return explain
    return AgainstData(explain, x[:MAX_BACKGROUND].detach())
