"""CIFAR-10 and CIFAR-100 as published: `data_batch_1.bin`, ... (images are read on demand), or Python's
`data_batch_1`, ... (read whole)

A record of the binary version is one label (two for CIFAR-100, of which the second counts) and 3 x 32 x 32 bytes. The
Python version is pickled, and read without running code (`plain_pickles`).

References:
    Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, select_split
from unfooled.data.formats import arrays
from unfooled.data.formats.plain_pickles import read_plain
from unfooled.data.formats.stored import Part, Stacked, StoredArray

SHAPE = (3, 32, 32)
PIXELS = 3072
BATCHES = tuple(f"data_batch_{k}" for k in range(1, 6))
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10": {"train": BATCHES, "test": ("test_batch",)},
    "cifar100": {"train": ("train",), "test": ("test",)},
}
"""Data set -> split -> names of its files, without the suffix."""
CLASS_NAME_FILES = {"cifar10": ("batches.meta.txt", "batches.meta"), "cifar100": ("fine_label_names.txt", "meta")}
"""Data set -> files of class names: of the binary version, of Python's."""


def cifar_in(folder: Path) -> tuple[str, bool] | None:
    """Return the data set in a folder, and whether it is the binary version; None for another folder."""
    for name, splits in FILES.items():
        first = [files[0] for files in splits.values()]
        if any((folder / f"{file}.bin").is_file() for file in first):
            return name, True
        if (folder / CLASS_NAME_FILES[name][1]).is_file() and any((folder / file).is_file() for file in first):
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
    read = arrays.lazy_reader(lambda: arrays.reader(x, str(folder), images=True))
    return Source(folder.resolve().name, wanted, y, classes, read)


def _binary(path: Path, name: str) -> tuple[Part, np.ndarray]:
    """Return the images and the labels of a binary file."""
    extra = 1 if name == "cifar10" else 2
    size, record = path.stat().st_size, PIXELS + extra
    if not size or size % record:
        raise BadInput(f"{path} is cut off or no binary CIFAR file: {size} bytes are no multiple of {record}")
    kind, n = np.dtype(np.uint8), size // record
    labels = StoredArray(path, extra - 1, (n,), kind, record)
    return StoredArray(path, extra, (n, *SHAPE), kind, record), labels[np.arange(n)]


def _pickled(path: Path, name: str) -> tuple[Part, np.ndarray]:
    """Return the images and the labels of a pickled file."""
    content = read_plain(path)
    x, y = _entry(content, "data"), _entry(content, "labels" if name == "cifar10" else "fine_labels")
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.size % PIXELS or not isinstance(y, list):
        raise BadInput(f"{path} is no CIFAR batch: it lacks data or labels")
    if len(y) != x.size // PIXELS or not all(isinstance(label, int) for label in y):
        raise BadInput(f"{path} is no CIFAR batch: it has {x.size // PIXELS} images and {len(y)} labels")
    return x.reshape(-1, *SHAPE), np.array(y, np.int64)


def _classes(folder: Path, name: str, binary: bool) -> list[str]:
    """Return the class names; none where their file is missing."""
    path = folder / CLASS_NAME_FILES[name][0 if binary else 1]
    if not path.is_file():
        return []
    if binary:
        return [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    names = _entry(read_plain(path), "label_names" if name == "cifar10" else "fine_label_names")
    return [item.decode() if isinstance(item, bytes) else str(item) for item in names or []]


def _entry(content: Any, name: str) -> Any:
    """Return an entry of a dictionary whose keys are text or bytes."""
    return content.get(name.encode(), content.get(name)) if isinstance(content, dict) else None
