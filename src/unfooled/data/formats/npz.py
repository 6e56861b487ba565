"""NumPy archives: `x_train, y_train, x_test, y_test`, `train_images, train_labels, ...`, `x, y` and similar names.

Pickled objects are not read. Only the arrays of the requested split are unpacked.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.core.limits import check_classes, regular
from unfooled.data.dataset import Source, canonical_split, no_splits, select_split
from unfooled.data.formats import arrays, packs
from unfooled.data.formats.npy import check_header
from unfooled.data.formats.stored import member

ROLES = {
    **dict.fromkeys(("x", "images", "image", "data", "features", "inputs"), "x"),
    **dict.fromkeys(("y", "labels", "label", "targets", "target"), "y"),
}
CLASSES = ("classes", "class_names", "label_names")


DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""Errors of files that are cut off or damaged."""


class Archive(Mapping[str, np.ndarray]):
    """An open archive; the header of an array is checked before the array is unpacked.

    Args:
        opened: The archive.
        path: Its path.

    Attributes:
        files: Names of the arrays.
        content: The archive as a zip file.
    """

    def __init__(self, opened: np.lib.npyio.NpzFile, path: Path) -> None:
        assert opened.zip is not None
        self._opened, self._path, self.content = opened, path, opened.zip
        self.files: list[str] = list(opened.files)

    def __getitem__(self, name: str) -> np.ndarray:
        """Unpack an array."""
        content = self.content
        entry = next(item for item in (name, f"{name}.npy") if item in content.NameToInfo)
        with content.open(entry) as file:
            check_header(file, content.getinfo(entry).file_size, self._path, name)
        array = self._opened[name]
        assert isinstance(array, np.ndarray)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@contextmanager
def archive(path: Path, *, advice: str = "save np.savez(FILE, x=..., y=...)") -> Iterator[Archive]:
    """Open an archive; errors of damaged files are raised as `BadInput`.

    Args:
        path: The file.
        advice: What to do where it is no archive.

    Raises:
        BadInput: The file is truncated or damaged, holds pickled objects, or would be unpacked to too many bytes.
    """
    try:
        with regular(path).open("rb") as file:
            if not file.read(4).startswith(b"PK"):
                single = "is a single array" if path.stat().st_size > 6 and _starts(file, b"\x93NUMPY") else ""
                what = f"{single or 'is cut off, damaged or no NumPy archive'}; {advice}"
                raise BadInput(f"{path} {what}")
            file.seek(0)
            opened = np.load(file, allow_pickle=False)
            assert isinstance(opened, np.lib.npyio.NpzFile)
            with opened:
                yield Archive(opened, path)
    except BadInput:
        raise
    except MemoryError:
        raise BadInput(f"the arrays of {path} do not fit into memory; save fewer samples in it") from None
    except DAMAGED as error:
        raise BadInput(f"{path} is cut off, damaged or no NumPy archive: {error}") from error


def _starts(file: IO[bytes], magic: bytes) -> bool:
    """Return whether a file starts with these bytes."""
    file.seek(0)
    return file.read(len(magic)) == magic


def npz(path: Path, split: str) -> Source:
    """Open the samples and labels of one split.

    Raises:
        BadInput: There are no arrays with known names, no such split, or lengths differ.
    """
    with archive(path) as opened:
        if "jpeg_header" in opened.files:
            return packs.headed(path, opened, split)
        if {"jpeg", "length", "y"} <= set(opened.files):
            return packs.whole(path, opened, split)
        pairs = _pairs(opened.files)
        if not pairs:
            raise BadInput(
                f"{path} holds {', '.join(opened.files[:8]) or 'nothing'}; samples and labels are looked for as x_test "
                "and y_test, test_images and test_labels, x and y, images and labels, data and targets"
            )
        whole = "all" in pairs
        wanted = "all" if whole else select_split(split, list(pairs), path)
        warnings = (no_splits(split, path.name),) if whole else ()
        x_key, y_key = pairs[wanted]
        y, names = arrays.targets(opened[y_key], f"{y_key} of {path}")
        key = next((key for key in CLASSES if key in opened.files), None)
        text = names is not None
        if names is None and key is not None:
            names = [str(name) for name in opened[key].ravel()]
            check_classes(len(names), f"{key} of {path}")
            arrays.check_named(y, names, str(path), f"names in {key}")

    def reader() -> Callable[[np.ndarray], np.ndarray]:
        with archive(path) as opened:
            x = member(path, opened, x_key)
        if x.ndim and len(x) != len(y):
            raise BadInput(f"{path} has {len(x)} samples in {x_key} and {len(y)} labels in {y_key}")
        images = not {"image", "images"}.isdisjoint(x_key.lower().split("_"))
        return arrays.reader(x, f"{x_key} of {path}", images=images)

    names = names or arrays.numbered(y)
    return Source(path.stem, wanted, y, names, arrays.lazy_reader(reader), warnings, sorted=text)


def _pairs(keys: list[str]) -> dict[str, tuple[str, str]]:
    """Return split -> keys of its samples and labels; "all" for a pair without a split."""
    key_of: dict[tuple[str, str], str] = {}
    for key in keys:
        parts = key.lower().split("_")
        role = next((ROLES[part] for part in parts if part in ROLES), None)
        named_splits = [split for part in parts if (split := canonical_split(part))]
        if role and len(parts) == 1 + len(named_splits) and len(named_splits) <= 1:
            key_of.setdefault((named_splits[0] if named_splits else "all", role), key)
    splits = dict.fromkeys(split for split, _ in key_of)
    return {
        split: (key_of[split, "x"], key_of[split, "y"])
        for split in splits
        if (split, "x") in key_of and (split, "y") in key_of
    }
