"""Per-sample arithmetic on tensors of any shape."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.errors import BadInput


def per_sample(value: float | Tensor, like: Tensor) -> Tensor:
    """Reshape a float or a (B,) tensor so that it broadcasts against `like`, (B, *D)."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


def flat(x: Tensor) -> Tensor:
    """View (B, *D) as (B, prod D); (B,) becomes (B, 1)."""
    return x.reshape(len(x), -1)


def where_rows(mask: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Select whole samples: `a[i]` where `mask[i]`, else `b[i]`."""
    return torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def top_cells(p: Tensor, count: int | Tensor) -> Tensor:
    """Mark the `count` largest cells of each map, ties to the lower flat index.

    Args:
        p: Maps, (B, h, w).
        count: Number of cells, an int or (B,).

    Returns:
        (B, h, w) bool.
    """
    rank = flat(p.detach()).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    count = torch.as_tensor(count, device=p.device).reshape(-1, 1)
    return (rank < count).reshape(p.shape)


def top_share(p: Tensor, q: float) -> Tensor:
    """Mark the largest cells, a share q of all and at least one, (B, h, w) bool."""
    if not 0 < q <= 1:
        raise BadInput(f"q is {q}; it is a share of the cells, in (0, 1]")
    return top_cells(p, max(1, round(q * p[0].numel())))
