"""Loading of labelled data from common formats, as tensors in the unit box [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import Limits, allowing, limits_now
from unfooled.core.memory import max_bytes_in_memory
from unfooled.core.samples import Streamed
from unfooled.data.classes import check_names, in_order
from unfooled.data.dataset import Dataset, Source
from unfooled.data.formats import arrays
from unfooled.data.sources import open_source


def load_data(
    source: str | Path | Callable[..., Any] | tuple[Any, ...] = "digits",
    split: str = "test",
    n: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    *,
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    channels: int | None = None,
    limits: Limits | None = None,
    several: bool | None = False,
) -> tuple[Tensor, Tensor]:
    """Load samples and labels; arguments and errors as for `load_dataset`.

    Returns:
        Samples x, (N, C, H, W), (N, D), (N, T, F) or (N, C, D, H, W) float32 in [0, 1], and labels y, (N,)
        int64, or (N, L) of 0 and 1 with `several`.

    Example:
        >>> x, y = load_data("digits", n=20)
        >>> x.shape, y[:5].tolist()
        (torch.Size([20, 1, 8, 8]), [0, 2, 4, 6, 8])
    """
    data = load_dataset(
        source, split, n, shuffle, seed, size=size, labels=labels, channels=channels, limits=limits, several=several
    )  # fmt: skip
    return data.x, data.y


def load_dataset(
    source: str | Path | Callable[..., Any] | tuple[Any, ...] = "digits",
    split: str = "test",
    n: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    *,
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    channels: int | None = None,
    limits: Limits | None = None,
    stream: bool = False,
    several: bool | None = False,
) -> Dataset:
    """Load labelled samples with their classes and origin.

    Args:
        source: Source of the data, one of
            "digits", scikit-learn's, inside the package; "digits-canvas", the same on textured canvases;
            "shapes", rendered, or "shapes:0.9" for another rho (see `load_shapes`);
            "mnist", "fashion-mnist", "gtsrb", "cifar10", "cub", from the folder that UNFOOLED_DATA names;
            a `.npz` archive (x_test and y_test, x and y, ...), or a pack of JPEG images in one; arrays of three
                dimensions are grey images (N, H, W) as bytes, bool or under a name such as `test_images`, and
                sequences (N, T, F) otherwise, of five they are volumes;
            a folder of IDX files, or an IDX images file with its labels beside it;
            a folder of images, one folder per class, optionally under train, test, val;
            a `.csv` file of images and their labels: image,label, or for several labels image,cat,dog,... (0, 1);
            `package.module:factory` or `file.py:factory`, returning (x, y), called with `split=` if it takes it;
            such a function, or (x, y) itself.
        split: Split: "train", "test" or "val". A source without splits is read whole, with a warning.
        n: Number of samples, the first ones. None: all. A source sorted by class is first reordered to
            alternate between classes (for any n), so that the first n are balanced.
        shuffle: True: permute all samples first.
        seed: Random seed of that permutation.
        size: Side, or (H, W), that images are resized to (antialiased bilinear; not cropped). None: not changed.
        labels: Class order that the model expects: names, or a file with one per line, a JSON list or a JSON object
            `{index: name}`. Classes are matched by name. None: the source's own order.
        channels: Number of channels to convert images to, 1 (grey) or 3 (colour). None: not changed.
        limits: Sizes beyond which a file is refused: pixels, unpacked bytes, classes. None: those in force.
        stream: True: samples that take much memory are not read now, but in parts, whenever x is indexed by rows.
        several: True: samples may have several labels, and y be (N, L) of 0 and 1. None: they may, unless exactly one
            is set in each row, as in one-hot rows. False: they may not.

    Raises:
        BadInput: The source is unknown (the message suggests similar names), the split does not exist, n is below 1,
            files are damaged or empty, values lie outside [0, 1], or images have different sizes and `size` is not
            given.
    """
    if limits is not None:
        with allowing(limits):
            return load_dataset(
                source, split, n, shuffle, seed,
                size=size, labels=labels, channels=channels, stream=stream, several=several,
            )  # fmt: skip
    if n is not None and n < 1:
        raise BadInput(f"{option('n')} is {n}; it must be at least 1, or None for all")
    if channels not in (None, 1, 3):
        raise BadInput(f"{option('channels')} is {channels}; it must be 1 (grey) or 3 (colour)")
    sides = (size, size) if isinstance(size, int) else tuple(size) if size is not None else None
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise BadInput(f"{option('size')} is {size}; it must be a side or (H, W), at least 1")
    opened = open_source(source, split, sides, channels)
    if not len(opened.y):
        raise BadInput(f"{opened.name} ({opened.split}) is empty")
    _check_labels(opened, several)
    check_names(opened.classes, opened.name)
    stored = opened.y
    if labels is not None:
        opened = in_order(opened, labels)
    if n is not None and n > len(opened.y):
        opened = opened.warned(f"{n} samples were asked for; {opened.name} ({opened.split}) has {len(opened.y)}")
    rows = np.random.default_rng(seed).permutation(len(opened.y)) if shuffle else _order(stored)
    rows = rows[:n]
    x = _samples(opened, rows, sides, channels, stream=stream)
    y = torch.from_numpy(opened.y[rows])
    return Dataset(
        x, y, opened.classes, opened.name, opened.split, torch.from_numpy(rows), opened.warnings, opened.sorted
    )  # fmt: skip


def _samples(
    opened: Source, rows: np.ndarray, size: tuple[int, int] | None, channels: int | None, *, stream: bool
) -> Tensor:
    """Read the rows of a source, or return them as streamed samples where they take much memory."""
    first = arrays.shaped(opened.read(rows[:1]), size, channels, opened.name) if stream else None
    if first is None or len(rows) * first.nbytes <= max_bytes_in_memory():
        return torch.from_numpy(arrays.shaped(opened.read(rows), size, channels, opened.name))
    source = opened.read if opened.survey is None else opened.survey(rows)
    first = arrays.shaped(source(rows[:1]), size, channels, opened.name)

    limits = limits_now()  # those of the load hold for later readings

    def read(at: Tensor) -> Tensor:
        with allowing(limits):
            return torch.from_numpy(arrays.shaped(source(rows[at.numpy()]), size, channels, opened.name))

    return Streamed(read, (len(rows), *first.shape[1:]))


def _check_labels(source: Source, several: bool | None) -> None:
    """Refuse several labels per sample where they are not asked for, and one-hot rows unless they are stated."""
    if source.y.ndim == 1 or several:
        return
    what = f"{source.name} has labels of shape {source.y.shape}; labels are one number per sample, (N,)"
    if not arrays.one_hot(source.y):
        if several is None:
            return
        raise BadInput(f"{what}; several labels per sample are for the audit of a model, not for this")
    stated = f", or state that there are several labels, {option('label', 'any')}" if several is None else ""
    raise BadInput(f"{what}; they look one-hot, save y.argmax(1){stated}")


def _order(y: np.ndarray) -> np.ndarray:
    """Return the order of the source; if it is sorted by class, alternate between classes."""
    if y.ndim == 2:
        return np.arange(len(y))
    step = np.diff(y)
    if not ((step >= 0).all() or (step <= 0).all()):
        return np.arange(len(y))
    classes, first = np.unique(y, return_index=True)
    first = first[np.searchsorted(classes, y)]
    return np.lexsort((first, np.arange(len(y)) - first))
