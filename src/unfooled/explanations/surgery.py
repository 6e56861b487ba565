"""Smooth replacements of ReLU, so that second derivatives exist.

    relu(t) = max(t, 0)   ->   softplus(beta t) / beta,    at most log(2) / beta above it

A ReLU network has zero curvature almost everywhere, so an attack on its saliency map gets no gradient. The
smoothed network has one, and the result is evaluated on the true model. Weights are shared. Calls inside the model's
forward pass are replaced, of modules and of functions: `relu`, `relu_`, `clamp_min(0)`, `clamp(min=0)`.

`pools` also smooths two-dimensional max-pooling, whose switches hide changes of a map as ReLU does:

    max_{i <= n} t_i   ->   log(1/n sum_i exp(beta t_i)) / beta,    at most log(n) / beta below it

Nothing else is replaced: other pooling, leaky ReLU, ReLU6 and GELU are kept, and calls in compiled or scripted code
cannot be intercepted.

References:
    Dombrowski et al., Explanations can be manipulated and geometry is to blame, NeurIPS 2019, arXiv:1906.07983.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.types import Model

_RELU = {torch.relu, torch.relu_, F.relu, F.relu_, Tensor.relu, Tensor.relu_}
_CLAMP = {torch.clamp, torch.clamp_, torch.clip, torch.clip_, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_}
_CLAMP_MIN = {torch.clamp_min, torch.clamp_min_, Tensor.clamp_min, Tensor.clamp_min_}


_POOL = {F.max_pool2d, torch.max_pool2d}


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A model with softplus in place of ReLU; `model` itself is not changed.

    Args:
        model: Any callable to logits.
        beta: Sharpness, above 0; the larger, the closer to ReLU.
        pools: True: smooth max-pooling too.
    """

    model: Model
    beta: float
    pools: bool = False
    transparent: ClassVar[bool] = True  # it takes and returns what the model does: see `calls.bare`

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise BadInput(f"beta is {self.beta}; it must be above 0")

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of the smoothed model."""
        with _Softplus(self.beta, self.pools):
            return self.model(x)


@contextmanager
def smooth_relu(model: Model, beta: float) -> Iterator[Smoothed]:
    """Smooth `model` itself until the context ends, and yield the smoothed model.

    The modules behind `model` run with softplus inside the context and with ReLU again afterwards, also after an
    exception. In nested contexts the innermost applies. A plain function without modules cannot be changed from
    outside; the yielded model works for any model. To use the true and the smoothed model side by side, take
    `Smoothed(model, beta)` without a context.

    Args:
        model: Any callable to logits.
        beta: Sharpness, above 0; the larger, the closer to ReLU.
    """
    smoothed = Smoothed(model, beta)
    before: list[tuple[nn.Module, Any]] = []
    try:
        for root in modules_of(model):
            old = root.__dict__.get("forward")
            before.append((root, old))
            plain = old.plain if isinstance(old, _SmoothForward) else root.forward
            root.forward = _SmoothForward(plain, beta)
        yield smoothed
    finally:
        for root, old in reversed(before):
            if old is None:
                del root.forward
            else:
                root.forward = old


@dataclass(frozen=True, eq=False)
class _SmoothForward:
    """A module's forward pass, with softplus in place of ReLU."""

    plain: Callable[..., Any]
    beta: float

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Softplus(self.beta):
            return self.plain(*args, **kwargs)


class _Softplus(TorchFunctionMode):
    """A mode in which calls of ReLU compute softplus and, with `pools`, max-pooling a mean of exponentials."""

    def __init__(self, beta: float, pools: bool = False) -> None:
        super().__init__()
        self.beta, self.pools = beta, pools

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.pools and func in _POOL:
            return _soft_pool(func, self.beta, *args, **kwargs)
        if not _is_relu(func, args, kwargs):
            return func(*args, **kwargs)
        t = args[0] if args else kwargs["input"]
        inplace = kwargs.get("inplace", False) or func.__name__.endswith("_")
        # Softplus keeps its input for the backward pass, so an in-place one works on a copy.
        value = F.softplus(t.clone() if inplace else t, beta=self.beta, threshold=40.0)
        return t.copy_(value) if inplace else value


def _is_relu(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call computes max(t, 0) of floating point numbers."""
    if func in _RELU:
        return True
    if func not in _CLAMP and func not in _CLAMP_MIN:
        return False
    low = args[1] if len(args) > 1 else kwargs.get("min")
    high = args[2] if len(args) > 2 else kwargs.get("max")
    t = args[0] if args else kwargs["input"]
    return high is None and not isinstance(low, Tensor) and low == 0 and t.is_floating_point()


def _soft_pool(
    func: Any,
    beta: float,
    input: Tensor,  # noqa: A002  (torch's name)
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return max-pooling by exponentials, or true max-pooling with `return_indices` or `ceil_mode`."""
    size, step, pad, spread = (_pair(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    if ceil_mode or return_indices:
        return func(input, size, step, pad, spread, ceil_mode=ceil_mode, return_indices=return_indices)
    t = F.pad(input, (pad[1], pad[1], pad[0], pad[0]), value=-torch.inf) if any(pad) else input
    height, width = ((t.shape[d - 2] - spread[d] * (size[d] - 1) - 1) // step[d] + 1 for d in (0, 1))
    windows = [
        t[..., i : i + step[0] * (height - 1) + 1 : step[0], j : j + step[1] * (width - 1) + 1 : step[1]]
        for i in range(0, spread[0] * size[0], spread[0])
        for j in range(0, spread[1] * size[1], spread[1])
    ]
    return ((beta * torch.stack(windows)).logsumexp(0) - math.log(len(windows))) / beta


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
