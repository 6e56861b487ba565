"""Morphological cleaning: bright strokes of a minimum thickness stay, the rest turns black.

    x <- x on the opening of { x > threshold } by a square,   0 elsewhere

The opening of a set by a square is the union of the squares that lie in it.

References:
    Serra, Image analysis and mathematical morphology, Academic Press 1982 (the opening).
    xziyue/robust_mnist_feature_py, 2019, whose data sets are cleaned in this way.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.features.corruptions import check_images


def open_mask(x: Tensor, *, threshold: float = 0.3, size: int = 2) -> Tensor:
    """Set pixels outside the morphological opening of the bright pixels to 0.

    Args:
        x: Images in the unit box, (B, C, H, W) or (B, H, W). Colours are judged by their brightest channel.
        threshold: Value above which a pixel is bright.
        size: Side of the square in pixels.

    Returns:
        Images of x's shape; the function is idempotent and never brightens.

    Raises:
        BadInput: x is not a batch of images in the unit box, or size is below 1.

    Example:
        >>> x = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.9]]])
        >>> open_mask(x)[0]
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 0.]])
    """
    check_images(x)
    if size < 1:
        raise BadInput(f"size is {size}; it must be at least 1")
    bright = (x[:, None] if x.ndim == 3 else x.amax(1, keepdim=True)) > threshold
    # Padded, so that a block is counted at its last pixel; pixels outside of the image are not bright.
    blocks = -F.max_pool2d(-F.pad(bright.to(x.dtype), [size - 1, 0, size - 1, 0]), size, 1)
    opened = F.max_pool2d(F.pad(blocks, [0, size - 1, 0, size - 1]), size, 1) > 0
    return x * (opened[:, 0] if x.ndim == 3 else opened)
