"""Image quality: similarities of images in [0, 1], larger is closer.

    psnr = 10 log10( 1 / mean_i (a_i - b_i)^2 )                                      in dB; inf for equal images
    ssim = mean over pixels of (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))

Means m, variances s^2 and covariance s_ab are taken in a Gaussian window around the pixel, 11 x 11, sigma 1.5, edges
reflected. On smaller images the window is the largest odd one that fits, with sigma in proportion (7 x 7 and .95 for
8 x 8); values of different windows are not comparable.

References:
    Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 2004.
    Computed by torchmetrics.
"""

from __future__ import annotations

from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.distances.norms import check_pair

_WINDOW, _SIGMA = 11, 1.5


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair for a range of 1, (B,), in dB.

    Args:
        a: Images in [0, 1], (B, *D).
        b: Images to compare with, like a.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    check_pair(a, b)
    return peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=tuple(range(1, a.ndim)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each pair for a range of 1, (B,), in [-1, 1]; 1 for equal images.

    Args:
        a: Images in [0, 1], (B, C, H, W) or (B, H, W).
        b: Images to compare with, like a.

    Raises:
        BadInput: The tensors are not images.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    check_pair(a, b)
    if a.ndim == 3:
        a, b = a[:, None], b[:, None]
    if a.ndim != 4:
        raise BadInput(f"a has shape {tuple(a.shape)}; ssim compares images, (B, C, H, W) or (B, H, W)")
    side = min(_WINDOW, *a.shape[2:])
    window = side if side % 2 else side - 1
    value = structural_similarity_index_measure(
        a, b, sigma=_SIGMA * window / _WINDOW, kernel_size=window, reduction="none", data_range=1.0
    )
    assert isinstance(value, Tensor)  # it is a pair only if the contrast or the full image is requested too
    return value.reshape(len(a)).clamp(-1, 1)
