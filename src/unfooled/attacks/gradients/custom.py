"""Models with a custom gradient: the values of a model, and a gradient that is computed elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model

Pull = Callable[[Tensor, Tensor], Tensor]
"""(x (B, *D), g (B, K)) -> (B, *D): the gradient with respect to the input, from the one with respect to the logits."""


def with_gradient(x: Tensor, model: Model, pull: Pull) -> Tensor:
    """Return the values of `model` at x, (B, K), whose gradient is computed by `pull`."""
    logits: Tensor = _WithGradient.apply(x, model, pull)
    return logits


class _WithGradient(torch.autograd.Function):
    """The values of a model in the forward pass, `pull` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, model: Model, pull: Pull) -> Tensor:
        """Return the logits; the model records no graph."""
        ctx.save_for_backward(x)
        ctx.pull = pull
        with torch.no_grad():
            return logits_from(model, x.detach()).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient with respect to the input."""
        (x,) = ctx.saved_tensors
        return ctx.pull(x, g), None, None


def check_count(number: int, name: str = "draws") -> None:
    """Refuse a number below 1."""
    if number < 1:
        raise BadInput(f"{name} is {number}; it must be at least 1")


def check_sigma(sigma: float) -> None:
    """Refuse a sigma that is not between 0 and 1/2 of the input range."""
    if not 0 < sigma < 0.5:
        raise BadInput(f"sigma is {sigma}; it must be above 0 and below 1/2, a fraction of the input range")
