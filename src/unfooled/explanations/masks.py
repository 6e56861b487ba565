"""Masks from attention maps, and replacements of masked pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.core.shapes import top_share


def soft_mask(p: Tensor, size: tuple[int, int], *, s: float = 0.1) -> Tensor:
    """Return the soft mask sigmoid((h w P - 1) / s), upsampled (bilinear, half-pixel).

    Args:
        p: Attention maps, (B, h, w).
        size: Height and width of the mask.
        s: Width of the sigmoid.

    Returns:
        Masks, (B, 1, H, W) in [0, 1].
    """
    return _enlarged(((p[0].numel() * p - 1) / s).sigmoid(), size)


def top_mask(p: Tensor, size: tuple[int, int], *, share: float = 0.25, s: float = 0.1) -> Tensor:
    """Return the mask of the top `share` of the cells, with the gradient of the soft mask (straight through).

    Args:
        p: Attention maps, (B, h, w).
        size: Height and width of the mask.
        share: Share of the cells in the mask, in (0, 1].
        s: Width of the soft mask's sigmoid.

    Returns:
        Masks, (B, 1, H, W).
    """
    soft = ((p[0].numel() * p - 1) / s).sigmoid()
    return _enlarged(top_share(p, share).to(p.dtype) + soft - soft.detach(), size)


def fill_mean(x: Tensor) -> Tensor:
    """Fill with the mean colour of each image."""
    return x.mean((2, 3), keepdim=True).expand_as(x)


def fill_blur(x: Tensor) -> Tensor:
    """Fill with the image averaged over windows of half its side, first along rows, then along columns."""
    side = (min(x.shape[2:]) // 4) * 2 + 1
    rows = F.avg_pool2d(x, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
    return F.avg_pool2d(rows, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)


def fill_noise(x: Tensor) -> Tensor:
    """Fill with uniform noise that depends on the sample and is new at every call."""
    return rng.uniform(rng.seeds(x, int(torch.randint(1 << 62, ()))), tuple(x.shape[1:]), dtype=x.dtype)


def fill_mixed(x: Tensor) -> Tensor:
    """Fill by a method drawn at every call, so that a network cannot learn to recognise the filled region."""
    return (fill_mean, fill_blur, fill_noise)[int(torch.randint(3, ()))](x)


def _enlarged(m: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsample maps, (B, h, w) -> (B, 1, H, W)."""
    return F.interpolate(m[:, None], size, mode="bilinear", align_corners=False)
