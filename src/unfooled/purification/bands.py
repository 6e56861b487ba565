"""Low and high band of an image.

    low = argmin_l  1/2 ||l - s||^2 + mu/2 (||G_row l||^2 + ||G_col l||^2),     high = s - low

Exact in the Fourier domain after replicate padding: see `core.low_pass`. On an axis of the frequency plane the gain of
the low band at the Nyquist frequency is 1 / (1 + 4 mu): .200 for mu = 1, .048 for mu = 5.

References:
    Silva, Das, Scarff, Najafirad, Adaptive clustering of robust semantic representations for adversarial image
    purification, 2021, arXiv:2104.02155 (the split; the weight and the padding are ours).
"""

from __future__ import annotations

from torch import Tensor

from unfooled.core.low_pass import low_pass


def split(x: Tensor, *, smooth: float, pad: int = 8) -> tuple[Tensor, Tensor]:
    """Split images into a low and a high band that add up to them.

    Args:
        x: Images, (B, C, H, W).
        smooth: Weight mu of the differences, at least 0; the larger, the more goes into the high band. 0: the high
            band is 0.
        pad: Pixels of replicate padding on each side.

    Returns:
        Low and high band, (B, C, H, W) each. Linear and differentiable, each channel by itself.

    Raises:
        BadInput: x is not (B, C, H, W) floating point, smooth is negative, or pad is negative.

    Example:
        >>> low, high = split(torch.full((1, 1, 8, 8), 0.5), smooth=5.0)
        >>> bool((high.abs() < 1e-6).all())
        True
    """
    low = low_pass(x, smooth=smooth, pad=pad)
    return low, x - low
