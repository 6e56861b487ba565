"""Distances by norms of the difference: (a, b) -> (B,).

linf  max_i |a_i - b_i|        l2  (sum_i (a_i - b_i)^2)^(1/2)        l1  sum_i |a_i - b_i|        l0  #{i: a_i != b_i}
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat


def linf(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest absolute difference of an entry, (B,), in units of the input."""
    check_pair(a, b)
    return flat(a - b).abs().amax(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Return the Euclidean length of the difference, (B,), in units of the input."""
    check_pair(a, b)
    return torch.linalg.vector_norm(flat(a - b), dim=1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of absolute differences, (B,), in units of the input."""
    check_pair(a, b)
    return flat(a - b).abs().sum(1)


def l0(a: Tensor, b: Tensor) -> Tensor:
    """Return the number of tensor entries that differ, (B,); a changed RGB pixel may count three times."""
    check_pair(a, b)
    return (flat(a) != flat(b)).sum(1).to(a.dtype)


def check_pair(a: Tensor, b: Tensor) -> None:
    """Refuse pairs that are not two floating point batches of one shape, (B, *D), with D not empty.

    Raises:
        BadInput: The pair is refused; the message names its shapes or dtypes.
    """
    for name, t in (("a", a), ("b", b)):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            given = t.dtype if isinstance(t, Tensor) else type(t).__name__
            raise BadInput(f"{name} is {given}; distances compare floating point tensors, try .float()")
    if a.shape != b.shape:
        raise BadInput(f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}; they must have one shape")
    if a.ndim < 2 or a.shape[1:].numel() == 0:
        raise BadInput(f"a and b have shape {tuple(a.shape)}; batches are (B, *D) with values in them; try a[None]")
