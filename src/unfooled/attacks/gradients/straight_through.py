"""Straight-through gradients: the values of one model with the gradient of another.

    f(x) + g(x) - constant(g(x))

f gives the values, g the gradient.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420 (BPDA).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model, Purify


def identity(x: Tensor) -> Tensor:
    """Return the input: the approximation of a defence that changes its input little."""
    return x


@dataclass(frozen=True)
class StraightThrough:
    """The values of one model with the gradient of another.

    Args:
        model: Source of the values; its gradient is never computed, so it may use numpy or raise in backward.
        backward: Source of the gradient: a smooth approximation, the undefended model or a distilled twin.

    Cost: 1 forward of `model`; with a gradient, also 1 forward and 1 backward of `backward`.

    References:
        arXiv:1802.00420, section 4.1.
    """

    model: Model
    backward: Model

    @property
    def module(self) -> Model:
        """The second model, as an attribute in which `frozen` searches for modules."""
        return self.backward

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of `model`, (B, K)."""
        with torch.no_grad():
            value = logits_from(self.model, x.detach())
        if not (torch.is_grad_enabled() and x.requires_grad):
            return value
        soft = logits_from(self.backward, x)
        if soft.shape != value.shape:
            raise BadInput(
                f"model returns shape {tuple(value.shape)}, backward {tuple(soft.shape)}; the gradient must be of a "
                "model with the same output shape"
            )
        return value + (soft - soft.detach())


@dataclass(frozen=True)
class Defended:
    """A model behind a defence: x -> model(defence(x)).

    Args:
        defence: Function x (B, *D) -> x (B, *D), such as a purifier, rounding or coding.
        model: Any callable to logits. Cost: 1 forward and 1 backward of each.
    """

    defence: Purify
    model: Model

    @property
    def module(self) -> Purify:
        """The defence, as an attribute in which `frozen` searches for modules."""
        return self.defence

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""
        return logits_from(self.model, self.defence(x))


def bpda(defence: Purify, model: Model, approx: Purify = identity) -> Model:
    """Put a defence in front of a model, and differentiate it as if it were `approx`.

        f(d(x)) forwards,   f'(d(x)) a'(x) backwards,   with defence d and approximation a

    Args:
        defence: Preprocessing of the input by the defended system; may use numpy, may raise in backward.
        model: Any callable to logits; differentiated at d(x).
        approx: Differentiable approximation of the defence with the same output shape; the identity by default.

    Returns:
        A model. Cost: 1 forward of the defence; 1 forward and 1 backward of the model and of `approx`.

    References:
        arXiv:1802.00420, section 4.1.

    Example:
        >>> model = bpda(lambda x: (x * 7).round() / 7, lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1))
        >>> x = torch.tensor([[0.3, 0.2]], requires_grad=True)
        >>> torch.autograd.grad(model(x)[:, 0].sum(), x)[0]
        tensor([[1., 1.]])
    """
    return Defended(StraightThrough(defence, approx), model)
