"""How far the place that a model looks at has moved."""

from __future__ import annotations

import torch
from torch import Tensor


def centroid(a: Tensor) -> Tensor:
    """Centre of mass of non-negative maps in units of their size: (B, H, W) -> (B, 2) in [0, 1]; NaN where all zero."""
    a = a.clamp_min(0)
    rows = (torch.arange(a.shape[1], device=a.device, dtype=a.dtype) + 0.5) / a.shape[1]
    columns = (torch.arange(a.shape[2], device=a.device, dtype=a.dtype) + 0.5) / a.shape[2]
    total = a.sum((1, 2))
    centre = torch.stack([(a.sum(2) * rows).sum(1), (a.sum(1) * columns).sum(1)], 1)
    return centre / torch.where(total > 0, total, torch.nan)[:, None]


def centroid_shift(a: Tensor, b: Tensor) -> Tensor:
    """Distance of the centres of mass as a share of the diagonal, (B,) in [0, 1]; NaN for an all-zero map."""
    return (centroid(a) - centroid(b)).norm(dim=1) / 2**0.5
