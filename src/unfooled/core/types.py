"""Call signatures shared by the parts of the library.

Shapes: B samples, `*D` the shape of one sample, K classes. Inputs lie in the unit box [0, 1], labels are int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    import torch

    from unfooled.core.threats import Threat

Model = Callable[[Tensor], Tensor]
"""x (B, *D) in the unit box -> logits (B, K). Modules, wrappers and plain functions alike."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""(a, b) -> (B,)."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), y (B,)) -> (B,); larger is worse for the model."""

Purify = Callable[[Tensor], Tensor]
"""x (B, *D) -> x (B, *D)."""

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(z (b, *D), at (b,) int64 positions of the samples that are still attacked) -> value (b,), done (b,) bool."""


class Explain(Protocol):
    """An explanation: an attribution to each input coordinate for class `y`, differentiable if `create_graph`."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the attribution, (B, *D)."""
        ...


class TrainingLoss(Protocol):
    """A scalar to minimise, with gradients to the parameters of `model`."""

    def __call__(self, model: torch.nn.Module, x: Tensor, y: Tensor, /) -> Tensor:
        """Return the loss of the batch, a scalar."""
        ...


class BudgetAttack(Protocol):
    """An attack that searches for the strongest point inside a threat; its success is evaluated elsewhere."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return points inside the threat, (B, *D)."""
        ...


class MinimalAttack(Protocol):
    """An attack that searches for the nearest point that changes the label; it returns x where it finds none."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        norm: float,
        *,
        targeted: bool = False,
        steps: int = ...,
        start: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return adversarial points, (B, *D), after at most `steps` gradients or queries from `start`."""
        ...
