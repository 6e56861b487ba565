"""CIFAR-10 and CIFAR-100 as published: `data_batch_1.bin`, ... (read from the file), or Python's `data_batch_1`, ...

A record of the binary version is one label (two for CIFAR-100, of which the second counts) and 3 x 32 x 32 bytes. The
Python version is pickled; it is read by an unpickler that knows arrays, bytes, text and numbers, and runs no code.

References:
    Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

import pickle  # noqa: TID251  (an unpickler of its own, which finds no classes)
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, select_split
from unfooled.data.formats import arrays
from unfooled.data.formats.stored import AnyArray, Stacked, StoredArray

SHAPE = (3, 32, 32)
PIXELS = 3072
BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": {"train": BATCHES, "test": ("test_batch",)},
    "cifar100": {"train": ("train",), "test": ("test",)},
}
"""Data set -> split -> names of its files, without the suffix."""
NAMES = {"cifar10": ("batches.meta.txt", "batches.meta"), "cifar100": ("fine_label_names.txt", "meta")}
"""Data set -> files of class names: of the binary version, of Python's."""
LARGEST = 400_000_000
"""Bytes of a pickled batch, at most; CIFAR-100's training set has 155 million."""


def cifar_in(folder: Path) -> tuple[str, bool] | None:
    """Return the data set in a folder, and whether it is the binary version; None for another folder."""
    for name, splits in FILES.items():
        first = [files[0] for files in splits.values()]
        if any((folder / f"{file}.bin").is_file() for file in first):
            return name, True
        if (folder / NAMES[name][1]).is_file() and any((folder / file).is_file() for file in first):
            return name, False
    return None


def cifar(folder: Path, split: str) -> Source:
    """Open a folder of CIFAR-10 or CIFAR-100.

    Raises:
        BadInput: A file is missing, cut off or something else, or there is no such split.
    """
    known = cifar_in(folder)
    assert known is not None
    name, binary = known
    end = ".bin" if binary else ""
    splits = {key: [folder / f"{file}{end}" for file in files] for key, files in FILES[name].items()}
    wanted = select_split(split, [key for key, files in splits.items() if files[0].is_file()], folder)
    missing = [path.name for path in splits[wanted] if not path.is_file()]
    if missing:
        raise BadInput(
            f"{folder} has no {missing[0]}; all {len(splits[wanted])} files of the split {wanted} are needed"
        )
    pairs = [_binary(path, name) if binary else _pickled(path, name) for path in splits[wanted]]
    x = Stacked([images for images, _ in pairs])
    y, _ = arrays.labels(np.concatenate([labels for _, labels in pairs]), f"the labels of {folder}")
    classes = _classes(folder, name, binary) or arrays.numbered(y)
    if len(y) and y.max() >= len(classes):
        raise BadInput(f"{folder} has labels up to {y.max()}, and {len(classes)} class names")
    read = arrays.late(lambda: arrays.reader(x, str(folder), images=True))
    return Source(folder.resolve().name, wanted, y, classes, read)


def _binary(path: Path, name: str) -> tuple[AnyArray, np.ndarray]:
    """Return the images and the labels of a binary file."""
    extra = 1 if name == "cifar10" else 2
    size, record = path.stat().st_size, PIXELS + extra
    if not size or size % record:
        raise BadInput(f"{path} is cut off or no binary CIFAR file: {size} bytes are no multiple of {record}")
    kind, n = np.dtype(np.uint8), size // record
    labels = StoredArray(path, extra - 1, (n,), kind, record)
    return StoredArray(path, extra, (n, *SHAPE), kind, record), labels[np.arange(n)]


def _pickled(path: Path, name: str) -> tuple[AnyArray, np.ndarray]:
    """Return the images and the labels of a pickled file."""
    content = unpickled(path)
    x, y = _entry(content, "data"), _entry(content, "labels" if name == "cifar10" else "fine_labels")
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.size % PIXELS or not isinstance(y, list):
        raise BadInput(f"{path} is no CIFAR batch: it lacks data or labels")
    if len(y) != x.size // PIXELS or not all(isinstance(label, int) for label in y):
        raise BadInput(f"{path} is no CIFAR batch: it has {x.size // PIXELS} images and {len(y)} labels")
    return x.reshape(-1, *SHAPE), np.array(y, np.int64)


def _classes(folder: Path, name: str, binary: bool) -> list[str]:
    """Return the class names; none where their file is missing."""
    path = folder / NAMES[name][0 if binary else 1]
    if not path.is_file():
        return []
    if binary:
        return [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    names = _entry(unpickled(path), "label_names" if name == "cifar10" else "fine_label_names")
    return [item.decode() if isinstance(item, bytes) else str(item) for item in names or []]


def _entry(content: Any, name: str) -> Any:
    """Return an entry of a dictionary whose keys are text or bytes."""
    return content.get(name.encode(), content.get(name)) if isinstance(content, dict) else None


def unpickled(path: Path) -> Any:
    """Return the content of a pickle of arrays, bytes, text and numbers, without running code.

    Raises:
        BadInput: The file is too large, damaged, or asks for anything else.
    """
    if path.stat().st_size > LARGEST:
        raise BadInput(f"{path} has {path.stat().st_size} bytes, more than any CIFAR batch")
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle makes the reader raise nearly anything
        raise BadInput(f"{path} is damaged or no CIFAR batch: {error}") from error


class _Unpickler(pickle.Unpickler):
    """An unpickler of arrays of bytes; every other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for."""
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain arrays are read")


def _empty(kind: Any, shape: Sequence[int], code: Any) -> np.ndarray:
    """Return the empty array that a pickled one starts as."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array starts as something else")
    return np.ndarray((0,), np.uint8)


def _latin(text: str, encoding: str) -> bytes:
    """Return bytes that were written as text."""
    return text.encode("latin1")
