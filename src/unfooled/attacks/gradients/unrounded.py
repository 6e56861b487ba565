"""Rounding passed straight through: the values of a model, with the gradient that it would have without its rounding.

    forwards  round(x)        backwards  d round(x) / dx := 1        (floor, ceil, trunc and casts to integers alike)

Rounded inputs, activations or logits have a gradient of 0, or none, although the rounded values still follow the input.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420 (BPDA).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model

NAMES = ("round", "floor", "ceil", "trunc", "fix")
ROUNDING = {getattr(place, name) for place in (torch, Tensor) for name in NAMES}
CASTS = {Tensor.to, Tensor.type, Tensor.byte, Tensor.char, Tensor.short, Tensor.int, Tensor.long}


class _Straight(torch.autograd.Function):
    """The second tensor forwards, the identity of the first backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return g[0], None


class _Through(TorchFunctionMode):
    """A context in which rounding functions have the gradient of the identity."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled() and isinstance(out, Tensor)):
            return out
        cast = func in CASTS and not out.is_floating_point() and not out.is_complex()
        if (func in ROUNDING or cast) and out.shape == x.shape:
            return _Straight.apply(x, out.detach().to(x.dtype))
        return out


@dataclass(frozen=True)
class Unrounded:
    """A model whose rounding is passed straight through in its gradient; its values are unchanged.

    Args:
        model: Any callable to logits. Rounding outside of torch, and in compiled or scripted code, is not seen.
    """

    model: Model

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K). Cost: those of the model."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return logits_from(self.model, x)
        with _Through():
            return logits_from(self.model, x)
