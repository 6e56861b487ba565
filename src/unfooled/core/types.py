"""Call signatures that the parts of the library expect of one another.

Shapes: B samples, `*D` one sample's shape, K classes. Inputs live in the unit box, labels are int64.
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
"""(z (b, *D), at (b,) int64 positions of the live samples) -> value (b,), done (b,) bool."""


class Explain(Protocol):
    """An explanation: one attribution per input coordinate for the class `y`, differentiable when asked."""

    def __call__(self, model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
        """Return the attribution, (B, *D)."""
        ...


class TrainingLoss(Protocol):
    """A scalar to minimise, with gradients to the parameters of `model`."""

    def __call__(self, model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        ...


class BudgetAttack(Protocol):
    """An attack that looks for the strongest point inside a threat; it never grades itself."""

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
    """An attack that looks for the nearest point that changes the decision; x itself where it finds none."""

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
