"""Low-pass filters of images: Tikhonov's, and the lowest frequencies of the cosine transform.

    low_pass(s)   argmin_l  1/2 ||l - s||^2 + mu/2 (||G_row l||^2 + ||G_col l||^2)
                  L(u, v) = S(u, v) / (1 + mu (4 - 2 cos 2 pi u - 2 cos 2 pi v))
    low_dct(s)    the orthogonal projection onto the frequencies below a share of each side

S and L are Fourier transforms after replicate padding, G_row and G_col are differences of neighbours. Both filters are
linear and act on each channel by itself. The kernel of `low_pass` is positive and sums to 1, so that values stay
between the smallest and the largest one: ||low_pass(s)||_inf <= ||s||_inf.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.checks import check_count, check_number
from unfooled.core.errors import BadInput


def low_pass(x: Tensor, *, smooth: float, pad: int = 8) -> Tensor:
    """Return the low band of images.

    Args:
        x: Images, (B, C, H, W).
        smooth: Weight mu of the differences, at least 0; 0 returns x.
        pad: Pixels of replicate padding on each side, so that opposite edges do not mix.

    Returns:
        The low band, (B, C, H, W). Differentiable. Cost: two Fourier transforms.

    Raises:
        BadInput: x is not (B, C, H, W) floating point, smooth is negative or not finite, or pad is negative.
    """
    check_images(x)
    check_number("smooth", smooth, least=0)
    check_count("pad", pad, least=0)
    if not smooth or not x.numel():  # no Fourier transforms of empty batches either
        return x
    height, width = x.shape[-2:]
    padded = F.pad(x, (pad, pad, pad, pad), mode="replicate") if pad else x
    if x.dtype in (torch.float16, torch.bfloat16):  # no Fourier transforms of these
        padded = padded.float()
    gain = _gain(padded.shape[-2], padded.shape[-1], smooth, padded)
    low = torch.fft.irfft2(torch.fft.rfft2(padded) * gain, s=padded.shape[-2:])
    return low[..., pad : pad + height, pad : pad + width].to(x.dtype)


def _gain(height: int, width: int, smooth: float, like: Tensor) -> Tensor:
    """Return the gain at each frequency of `rfft2`, (height, width // 2 + 1)."""
    rows = 2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(height, dtype=torch.float64))
    columns = 2 - 2 * torch.cos(2 * math.pi * torch.fft.rfftfreq(width, dtype=torch.float64))
    return (1 / (1 + smooth * (rows[:, None] + columns[None, :]))).to(like.device, like.dtype)


def low_dct(x: Tensor, *, share: float = 0.25) -> Tensor:
    """Return the lowest frequencies of the cosine transform of images.

    Args:
        x: Images, (B, C, H, W).
        share: Part of the frequencies of each side, in (0, 1]; at least one frequency is left.

    Returns:
        The projection, (B, C, H, W); its Euclidean length is at most that of x. Differentiable.

    Raises:
        BadInput: x is not (B, C, H, W) floating point, or share lies outside (0, 1].
    """
    check_images(x)
    if not 0 < share <= 1:
        raise BadInput(f"share is {share}; it is a part of the frequencies, in (0, 1]")
    rows, columns = (_projector(side, share, x) for side in x.shape[-2:])
    return rows @ x @ columns


def _projector(side: int, share: float, like: Tensor) -> Tensor:
    """Return the projection onto the lowest cosines of one side, (side, side)."""
    basis = cosines(side)[: max(1, round(share * side))]
    return (basis.T @ basis).to(like.device, like.dtype)


def cosines(side: int) -> Tensor:
    """Return the orthonormal basis of the cosine transform, one frequency per row, (side, side) float64."""
    k, i = torch.arange(side, dtype=torch.float64)[:, None], torch.arange(side, dtype=torch.float64)[None, :]
    basis = torch.cos(math.pi * k * (2 * i + 1) / (2 * side)) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis


def check_images(x: Tensor) -> None:
    """Refuse what is not a batch of floating-point images, (B, C, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4 or not x.is_floating_point():
        given = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise BadInput(f"x is {given}; images are floating point, (B, C, H, W)")
