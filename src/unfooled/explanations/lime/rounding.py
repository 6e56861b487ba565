"""Weights that are nothing but rounding errors.

A weight is one where it is at most `ROUNDING` of the largest of its class, or at most `OF_ANSWERS` of the answers that
it was fitted to: sums of float64 numbers of that size are not more exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-9
"""Share of the largest |weight| up to which a weight is a rounding error."""
OF_ANSWERS = 1e-12
"""Share of the largest |answer| up to which a weight is a rounding error."""


def rounding_errors(weights: Tensor, answers: Tensor) -> Tensor:
    """Return the |weight| up to which weights are rounding errors, (..., 1).

    Args:
        weights: Weights of the features, (..., M).
        answers: Size of the answers that they were fitted to, (...).
    """
    largest = torch.nn.functional.pad(weights.abs(), (0, 1)).amax(-1)
    return torch.maximum(ROUNDING * largest, OF_ANSWERS * answers.abs().to(largest))[..., None]


def settled(weights: Tensor, answers: Tensor) -> Tensor:
    """Return weights, (..., M), with 0 in place of rounding errors; see `rounding_errors`."""
    return weights.where(weights.abs() > rounding_errors(weights, answers), torch.zeros_like(weights))
