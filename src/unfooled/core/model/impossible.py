"""Classes that a model rules out by a logit of -inf, as networks padded to more outputs than classes do.

    f_c = -inf   ->   min_k f_k - 30   over the finite logits f_k of the sample,  for a class c that is no label

The probability of such a class is below exp(-30), which is nothing beside the others in float32; decisions, margins
and losses are what they were, and no difference or gradient is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model

DEPTH = 30.0
"""Distance of an impossible class below the lowest finite logit."""


@dataclass(frozen=True, eq=False)
class FiniteLogits:
    """A model whose logits of -inf are read as finite ones, for classes that are never the label.

    Attributes:
        model: The model.
        classes: Classes that are no label, (K,) bool.
    """

    model: Model
    classes: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""
        return with_finite(logits_from(self.model, x), self.classes)


def never_the_label(logits: Tensor, y: Tensor) -> Tensor:
    """Return the classes that are no label, (K,) bool, given some logits, (B, K), and all labels."""
    classes = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    classes[y.unique().to(logits.device)] = False
    return classes


def with_finite(logits: Tensor, classes: Tensor) -> Tensor:
    """Return logits, (B, K), with those of -inf replaced for some classes, (K,) bool, where others are finite."""
    ruled_out = torch.isneginf(logits) & classes.to(logits.device)
    if not bool(ruled_out.any()):
        return logits
    finite = torch.isfinite(logits)
    least = logits.masked_fill(~finite, torch.inf).amin(1, keepdim=True)
    return torch.where(ruled_out & finite.any(1, keepdim=True), least - DEPTH, logits)
