"""Samples and labels as people have them: arrays, pictures, lists, a single sample; turned into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.precision import HALF, name_of_kind

Array = np.ndarray[Any, np.dtype[Any]]

SLACK = 1e-6
"""Largest round-off outside of [0, 1] that is clipped."""


def as_samples(x: Any, y: Any) -> tuple[Any, Any]:
    """Turn samples and labels into tensors; tensors are passed on as they are.

    A NumPy array becomes a tensor of its type; a Pillow image, or a sequence of them, (B, C, H, W) float32 in [0, 1];
    a whole number as label stands for one sample without a batch, which gets one. Anything else is passed on, for the
    checks that follow.

    Args:
        x: Inputs: a tensor, an array, an image, or a sequence of images.
        y: Labels: a tensor, an array, a sequence of whole numbers, or one number for one sample.

    Raises:
        BadInput: images of different sizes, or an array that holds no numbers.
    """
    if is_picture(x):
        x, y = [x], [y] if is_number(y) else y
    if isinstance(x, Sequence) and not isinstance(x, str) and x and all(map(is_picture, x)):
        x = _pictures(x)
    x = _tensor(x, "x")
    if is_number(y):
        y = torch.tensor([int(y)])
        x = x[None] if isinstance(x, Tensor) else x
    elif isinstance(y, Sequence) and not isinstance(y, str) and all(map(is_number, y)):
        y = torch.tensor([int(label) for label in y])
    y = _tensor(y, "y")
    if isinstance(y, Tensor) and not y.is_floating_point() and not y.is_complex() and y.dtype is not torch.bool:
        y = y.long()
    return x, y


def in_precision_of(model: Any, x: Any) -> tuple[Any, tuple[str, ...]]:
    """Turn samples in half precision into float32, and those in float64 for a model of float32 weights, and say so.

    Args:
        model: Any callable; one without `parameters` takes samples in float64 as they are.
        x: Samples; what is no tensor of float64, float16 or bfloat16 is passed on.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float64, *HALF):
        return x, ()
    weights = getattr(model, "parameters", None)
    kinds = {w.dtype for w in weights() if w.is_floating_point()} if callable(weights) else set()
    kind = name_of_kind(x.dtype)
    if kinds == {torch.float32}:
        return x.float(), (f"The samples are {kind} and the model has float32 weights; all was computed in float32.",)
    if x.dtype in HALF:
        return x.float(), (f"The samples are {kind}; points and distances were computed in float32.",)
    return x, ()


def is_number(value: Any) -> bool:
    """Return whether a label is one whole number: an int, a NumPy integer, or a 0-d tensor or array of integers."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, Tensor):
        return value.ndim == 0 and not value.is_floating_point() and value.dtype is not torch.bool
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and np.issubdtype(value.dtype, np.integer)
    return isinstance(value, (int, np.integer))


def is_picture(value: Any) -> bool:
    """Return whether a value is an image of Pillow, without importing it."""
    return type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "getbands")


def is_grey(image: Any) -> bool:
    """Return whether an image of Pillow is grey, transparent pixels aside, from its header alone."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return True
    return image.mode in ("1", "L", "LA", "La") and "transparency" not in image.info


def plain(image: Any, *, grey: bool = False) -> Any:
    """Return an image of Pillow in the mode "L", "RGB", or "F" for grey of more than 8 bits; see `values_of`.

    Args:
        image: Image of any mode; its palette is applied, and alpha is dropped.
        grey: True: convert colours to grey.
    """
    from PIL import Image

    if image.mode == "F":
        return image
    if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit grey, which Pillow would reduce to 8 bits
        return Image.fromarray(np.asarray(image, np.float32) / 65535)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if grey or image.mode in ("1", "L", "LA", "La") else "RGB")


def values_of(image: Any) -> Array:
    """Return the pixels of a `plain` image as float32 in [0, 1], (H, W) or (H, W, 3).

    Raises:
        ValueError: It has floating point pixels outside of [0, 1].
    """
    values = np.asarray(image, np.float32)
    if image.mode != "F":
        return values / np.float32(255)
    if values.min() < -SLACK or values.max() > 1 + SLACK:
        raise ValueError(f"its values lie in [{values.min():.4g}, {values.max():.4g}], not in [0, 1]")
    return values.clip(0, 1)


def _pictures(images: Sequence[Any]) -> Tensor:
    """Return images as (B, C, H, W) float32 in [0, 1]; where not all are grey, all become RGB."""
    grey = all(map(is_grey, images))
    arrays = [values_of(plain(image)) for image in images]
    shapes = sorted({array.shape[:2] for array in arrays})
    if len(shapes) > 1:
        raise BadInput(f"the images have {len(shapes)} sizes, such as {shapes[0]} and {shapes[1]}; resize them to one")
    if not grey:
        arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, 2) for array in arrays]
    stack = torch.from_numpy(np.stack(arrays))
    return stack[:, None] if grey else stack.movedim(-1, 1).contiguous()


def _tensor(value: Any, name: str) -> Any:
    """Turn a NumPy array into a tensor that shares no memory with read-only or byte-swapped data."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind not in "fiub":
        raise BadInput(f"{name} is an array of {value.dtype}; give numbers")
    if value.dtype == np.float16 or value.dtype.itemsize <= 8:
        native = value.dtype.newbyteorder("=")
        wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}.get(native.name)
        safe = np.ascontiguousarray(value, dtype=wider or native)
        return torch.from_numpy(safe if safe.flags.writeable else safe.copy())
    return torch.from_numpy(value.astype(np.float64))
