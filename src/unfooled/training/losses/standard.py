"""Standard training: the mean cross-entropy of clean samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Standard:
    """The mean cross-entropy, mean CE(f(x), y). Cost: 1 forward, 1 backward.

    Args:
        smoothing: Label smoothing in [0, 1).
    """

    smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return F.cross_entropy(model(x), y, label_smoothing=self.smoothing)
