"""Conversion of saved arrays into samples in [0, 1], and of saved labels into class indices.

Arrays are read by their dimensions: (N, D) are vectors and (N, C, D, H, W) volumes, which stay as they are. Four
dimensions are images, channels first or last. Three dimensions are grey images, which become (N, 1, H, W), if they are
bytes or bool, if their name in the file says so, or if a size or channels are requested. Otherwise they are sequences,
(N, T, F) or (N, C, L), which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from unfooled.core.errors import BadInput, option
from unfooled.core.given import SLACK, as_samples, is_picture
from unfooled.core.limits import check_classes
from unfooled.core.model.batching import check_fits
from unfooled.core.model.precision import widened
from unfooled.data.formats.stored import AnyArray, parts

CHANNELS = (1, 3, 4)  # grey, colour, colour and alpha
GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601, which Pillow uses too


def samples(x: np.ndarray, rows: np.ndarray, name: str, *, images: bool = False) -> np.ndarray:
    """Return some rows of an array as float32 in the unit box, channels first; see `reader`."""
    return reader(x, name, images=images)(rows)


def reader(x: AnyArray, name: str, *, images: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """Check an array, and return a function that reads rows of it as float32 in the unit box, channels first.

    Bytes are divided by 255. Floating point numbers stay as they are; all of them, not only those of the rows, must lie
    in [0, 1]; round-off of 1e-6 is clipped.

    Args:
        x: The array, in one of the shapes above.
        name: Name of the array, for errors.
        images: True if the array is known to hold images, so that three dimensions are (N, H, W).

    Raises:
        BadInput: The values lie outside of [0, 1], are not finite or of another type, or the shape is none of these.
    """
    if x.ndim < 2 or x.ndim > 5 or 0 in x.shape[1:]:
        raise BadInput(
            f"{name} has shape {x.shape}; samples are (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C), sequences "
            "(N, T, F) or volumes (N, C, D, H, W)"
        )
    low, high, finite = _range(x)
    if x.dtype == np.uint8:
        if x.size and high == 1:
            raise BadInput(f"{name} holds only the bytes 0 and 1, while bytes run to 255; save it as bool or float")
        scale = np.float32(255)
    elif x.dtype == np.bool_:
        scale = np.float32(1)
    elif x.dtype.kind == "f":
        if not finite:
            raise BadInput(f"{name} holds NaN or infinite values")
        off = max(0.0, -float(low), float(high) - 1) if x.size else 0.0
        if off > SLACK:
            raise BadInput(
                f"{name} lies in [{low:.4g}, {high:.4g}], outside of [0, 1] by {off:.2g}; scale it to [0, 1] "
                "(bytes: divide by 255 or save uint8); if it was normalised, undo that and tell the model instead: "
                f"{option('mean')} and {option('std')}, or Classifier(module, mean=..., std=...)"
            )
        scale = np.float32(1)
    else:
        span = f" in [{low}, {high}]" if x.dtype.kind in "iu" and x.size else ""
        raise BadInput(f"{name} holds {x.dtype}{span}; save bytes (uint8, 0 to 255) or fractions (float, 0 to 1)")
    grey = x.ndim == 3 and (images or x.dtype.kind != "f")
    last = x.ndim == 4 and channels_last(x.shape, name)

    def read(rows: np.ndarray) -> np.ndarray:
        part = x[rows]
        part = part[:, None] if grey else part.transpose(0, 3, 1, 2) if last else part
        return np.ascontiguousarray((part.astype(np.float32) / scale).clip(0, 1))

    return read


def lazy_reader(make: Callable[[], Callable[[np.ndarray], np.ndarray]]) -> Callable[[np.ndarray], np.ndarray]:
    """Return a lazy reader: `make` is called at the first read, and the reader that it returns is used from then on."""
    made = cache(make)

    def read(rows: np.ndarray) -> np.ndarray:
        return made()(rows)

    return read


def _range(x: AnyArray) -> tuple[Any, Any, bool]:
    """Return the smallest and the largest value, and whether all are finite; 0 and 0 where there are no numbers."""
    if not x.size or x.dtype.kind not in "fiub":
        return 0, 0, True
    ranges = [(part.min(), part.max(), bool(np.isfinite(part).all())) for part in parts(x)]
    lows, highs, finite = zip(*ranges, strict=True)
    return min(lows), max(highs), all(finite)


def channels_last(shape: tuple[int, ...], name: str) -> bool:
    """Return whether images are (N, H, W, C): the channel axis has 1, 3 or 4 entries, or is the shorter one.

    Raises:
        BadInput: Either axis could be the channels.
    """
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        first, last = shape[1] < shape[3], shape[3] < shape[1]
    if first == last:
        raise BadInput(f"{name} has shape {shape}: either end could be the channels; save it as (N, C, H, W), C first")
    return last


def labels(y: np.ndarray, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Return labels as (N,) int64, with sorted class names for labels that are text.

    Raises:
        BadInput: The labels are one-hot rows, fractions or negative.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        hint = "; they look one-hot, save y.argmax(1)" if y.ndim == 2 else ""
        raise BadInput(f"{name} has shape {y.shape}; labels are one number per sample, (N,){hint}")
    if y.dtype.kind in "US":
        names, inverse = np.unique(y.astype(str), return_inverse=True)
        check_classes(len(names), name)
        return inverse.astype(np.int64), names.tolist()
    if y.dtype.kind not in "iufb" or not np.array_equal(y, np.floor(y)):
        raise BadInput(f"{name} holds {y.dtype} that are no whole numbers; labels are 0, 1, 2, ...")
    if y.size and y.min() < 0:
        raise BadInput(f"{name} holds the label {int(y.min())}; labels are 0, 1, 2, ...")
    if y.size:
        check_classes(float(y.max()) + 1, name)
    return y.astype(np.int64), None


def targets(y: np.ndarray, name: str) -> tuple[np.ndarray, list[str] | None]:
    """Return labels as `labels` does, or several labels per sample as (N, L) int64 of 0 and 1.

    Raises:
        BadInput: As for `labels`; of two dimensions, other values than 0 and 1.
    """
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "iufb" and bool(((y == 0) | (y == 1)).all()):
        check_classes(y.shape[1], name)
        return y.astype(np.int64), None
    return labels(y, name)


def one_hot(y: np.ndarray | torch.Tensor) -> bool:
    """Return whether exactly one of several labels is set in every row."""
    return y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all())


def numbered(y: np.ndarray) -> list[str]:
    """Return class names for a source without them: the label numbers."""
    if y.ndim == 2:
        return [str(k) for k in range(y.shape[1])]
    return [str(k) for k in range(int(y.max()) + 1)] if len(y) else []


def check_named(y: np.ndarray, names: Sequence[str], what: str, where: str) -> None:
    """Raise where labels have no names.

    Args:
        y: Labels, (N,), or several per sample, (N, L).
        names: Names of the classes, or of the labels.
        what: Source of the labels, for the error.
        where: Source of the names, such as "names in classes".

    Raises:
        BadInput: There are fewer names than classes, or another number than labels per sample.
    """
    if y.ndim == 2 and y.shape[1] != len(names):
        raise BadInput(f"{what} has {y.shape[1]} labels per sample, and {len(names)} {where}")
    if y.ndim == 1 and len(y) and y.max() >= len(names):
        raise BadInput(f"{what} has labels up to {y.max()}, and {len(names)} {where}")


def shaped(x: np.ndarray, size: tuple[int, int] | None, channels: int | None, name: str) -> np.ndarray:
    """Resize images (bilinear, antialiased), and convert them to the requested number of channels (1 or 3).

    Raises:
        BadInput: The samples are not images, or have channels that are neither grey nor colour.
    """
    if (size is not None or channels is not None) and x.ndim == 3:
        x = x[:, None]
    if (size is not None or channels is not None) and x.ndim != 4:
        raise BadInput(f"{name} holds samples of shape {x.shape[1:]}; size and channels are for images")
    if channels is not None and x.shape[1] != channels:
        given = x.shape[1]
        if channels == 1 and given in (3, 4):
            x = np.tensordot(np.asarray(GREY, np.float32), x[:, :3], axes=(0, 1))[:, None]
        elif channels == 3 and given in (1, 4):
            x = np.repeat(x, 3, axis=1) if given == 1 else x[:, :3]
        else:
            raise BadInput(f"{name} has {given} channels, which cannot become {channels}; channels is 1 or 3")
    if size is not None and x.shape[2:] != size:
        check_fits(8 * len(x) * x.shape[1] * size[0] * size[1], f"{len(x)} samples of {size[1]} x {size[0]}")
        z = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode="bilinear", antialias=True)
        x = z.clamp(0, 1).numpy()
    return np.ascontiguousarray(x, dtype=np.float32)


def single(x: Any) -> torch.Tensor:
    """Return one sample as a floating point tensor: bytes and pictures are divided by 255, channels come first.

    Raises:
        BadInput: The values are neither floating point nor uint8.
    """
    if isinstance(x, torch.Tensor) and x.is_floating_point():
        return widened(x.detach())
    if is_picture(x):
        return as_samples(x, 0)[0][0]
    values = np.asarray(x)
    if values.dtype.kind == "f":
        return torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if values.dtype != np.uint8:
        raise BadInput(f"the samples hold {values.dtype}; they must be fractions in [0, 1] or bytes")
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and channels_last((1, *values.shape), "a sample"):
        values = values.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(values, np.float32) / np.float32(255))


def array(value: Any) -> np.ndarray:
    """Return a tensor, list or array as a NumPy array; float formats that NumPy lacks become float32.

    Raises:
        BadInput: Lists of unequal lengths.
    """
    if not isinstance(value, torch.Tensor):
        try:
            return np.asarray(value)
        except ValueError as error:
            raise BadInput(f"the lists cannot be stacked to an array: {error}") from error
    value = value.detach().cpu()
    value = value.dequantize() if value.is_quantized else value.to_dense() if value.layout != torch.strided else value
    known = not value.is_floating_point() or value.dtype in (torch.float16, torch.float32, torch.float64)
    return (value if known else value.float()).resolve_conj().resolve_neg().numpy()
