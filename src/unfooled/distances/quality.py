"""Image quality: similarities of images in [0, 1], larger is closer.

    psnr = 10 log10( 1 / mean_i (a_i - b_i)^2 )                                      in dB; inf for equal images
    ssim = mean over pixels of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

Means m, variances s^2 and covariance s_ab are taken in a Gaussian window around the pixel, 11 x 11, sigma 1.5, edges
reflected. On smaller images the window is the largest odd one that fits, with sigma in proportion (7 x 7 and .95 for
8 x 8); values of different windows are not comparable.

References:
    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
    Equal to torchmetrics' values, whose import takes longer than a small audit where transformers is installed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat
from unfooled.distances.norms import check_pair

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # constants of Wang et al. for a range of 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair for a range of 1, (B,), in dB.

    Args:
        a: Images in [0, 1], (B, *D).
        b: Images to compare with, like a.
    """
    check_pair(a, b)
    return -10 * flat(a - b).square().mean(1).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair for a range of 1, (B,), in [-1, 1]; 1 for equal images.

    Args:
        a: Images in [0, 1], (B, C, H, W) or (B, H, W).
        b: Images to compare with, like a.

    Raises:
        BadInput: The tensors are not images.
    """
    check_pair(a, b)
    if a.ndim == 3:
        a, b = a[:, None], b[:, None]
    if a.ndim != 4:
        raise BadInput(f"a has shape {tuple(a.shape)}; ssim compares images, (B, C, H, W) or (B, H, W)")
    side = min(_WINDOW, *a.shape[2:])
    window = side if side % 2 else side - 1
    similarity = _similarity(a, b, window // 2, _gaussian(window, _SIGMA * window / _WINDOW).to(a))
    return flat(similarity).mean(1).clamp(-1, 1)


def _similarity(a: Tensor, b: Tensor, reach: int, window: Tensor) -> Tensor:
    """Return the similarity around each pixel, (B, C, H, W), for windows of 2 reach + 1 weights a side."""
    channels = a.shape[1]
    a, b = (F.pad(image, (reach,) * 4, mode="reflect") for image in (a, b))
    products = torch.cat((a, b, a * a, b * b, a * b))
    for kernel in (window.view(1, 1, -1, 1), window.view(1, 1, 1, -1)):
        products = F.conv2d(products, kernel.expand(channels, -1, -1, -1), groups=channels)
    mean_a, mean_b, square_a, square_b, mixed = products.chunk(5)
    variances = (square_a - mean_a**2).clamp(min=0) + (square_b - mean_b**2).clamp(min=0)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return luminance * (2 * (mixed - mean_a * mean_b) + _C2) / (variances + _C2)


def _gaussian(window: int, sigma: float) -> Tensor:
    """Return the weights of a Gaussian at `window` whole steps around 0; their sum is 1."""
    at = torch.arange(window, dtype=torch.float64) - window // 2
    return torch.softmax(-(at**2) / (2 * sigma**2), 0)
