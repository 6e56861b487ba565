"""Image files, opened by an explicit list of formats, their size checked before they are decoded.

Pillow would otherwise go by the content alone, whatever the name: PostScript in `1.png` starts Ghostscript. An image is
turned as its EXIF orientation says, as viewers show it; files of several frames, such as animations, are refused.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import limits_now, regular

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""Formats by their names in Pillow."""

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})

ORIENTATION, LYING = 0x0112, range(5, 9)
"""EXIF tag of the orientation, and its values with height and width exchanged."""


@contextmanager
def opened(source: Path | bytes | io.BytesIO, name: str = "") -> Iterator[Any]:
    """Open an image; only its header is read before the caller asks for more.

    Args:
        source: Path, or content, of a file; or a file in memory whose `str()` is its name.
        name: Name of the image in errors; empty: the path.

    Raises:
        BadInput: It is in none of `FORMATS`, is damaged, has several frames, or more pixels than is allowed.
    """
    from PIL import Image, UnidentifiedImageError

    name = name or str("the image" if isinstance(source, bytes) else source)
    most = limits_now().max_pixels
    file: Any = (
        regular(source) if isinstance(source, Path) else io.BytesIO(source) if isinstance(source, bytes) else source
    )
    before = Image.MAX_IMAGE_PIXELS
    try:
        Image.MAX_IMAGE_PIXELS = None  # the limit below is the one that counts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata; damaged pixels raise an error
            with Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > most:
                    raise BadInput(
                        f"{name} is an image of {width} x {height} pixels, more than {most:,}; make it smaller, or "
                        f"raise {option('max_pixels')}"
                    )
                if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: photos with a preview
                    raise BadInput(
                        f"{name} holds several frames, an animation or pages; save the one that is meant as an image "
                        "of its own"
                    )
                yield image
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        kinds = ", ".join(FORMATS)
        raise BadInput(
            f"{name} cannot be read as an image: it is cut off, or none of {kinds}; remove or replace it"
        ) from error
    except MemoryError:
        raise BadInput(f"{name} does not fit into memory; make it smaller") from None
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        raise BadInput(f"{name} cannot be read as an image: {error}; remove or replace it") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def upright(image: Any) -> Any:
    """Return an image turned as its EXIF orientation says, as viewers show it."""
    from PIL.Image import Transpose

    ways = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE,
        Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    orientation = _orientation(image)
    return image.transpose(ways[orientation - 2]) if orientation in range(2, 9) else image


def sides(image: Any) -> tuple[int, int]:
    """Return the height and width that an opened image has once it is `upright`, from its header alone."""
    width, height = image.size
    return (width, height) if _orientation(image) in LYING else (height, width)


def size_of(path: Path) -> tuple[int, int]:
    """Return the height and width of an image, from its header. Errors as for `opened`."""
    with opened(path) as image:
        return sides(image)


def _orientation(image: Any) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 where it states none, or none that can be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged metadata raise nearly anything, and the pixels are whole
        return 1
