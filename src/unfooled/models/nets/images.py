"""Check of the input shape that all reference networks share."""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.core.errors import BadInput


def image_shape(name: str, input_shape: Sequence[int], least: int) -> tuple[int, ...]:
    """Return the shape of one sample, if it is that of an image.

    Args:
        name: Name of the network, for the error.
        input_shape: Shape of one sample.
        least: Smallest height and width that the network takes.

    Raises:
        BadInput: The shape is not (C, H, W), or the image is too small.
    """
    shape = tuple(input_shape)
    if len(shape) != 3 or min(shape[1:]) < least:
        raise BadInput(f"{name} takes images (C, H, W) of at least {least}x{least} pixels, not {shape}")
    return shape
