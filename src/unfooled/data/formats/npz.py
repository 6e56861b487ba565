"""NumPy archives: `x_train, y_train, x_test, y_test`, `train_images, train_labels, ...`, `x, y` and their like.

Pickled objects are not read. Only the arrays of the requested split are unpacked.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, canonical_split, no_splits, select_split
from unfooled.data.formats import arrays, packs
from unfooled.data.formats.stored import member

ROLES = {
    **dict.fromkeys(("x", "images", "image", "data", "features", "inputs"), "x"),
    **dict.fromkeys(("y", "labels", "label", "targets", "target"), "y"),
}
CLASSES = ("classes", "class_names", "label_names")


@contextmanager
def archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an archive; errors of damaged files are raised as `BadInput`.

    Raises:
        BadInput: The file is truncated or damaged, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} is a single array; save samples and labels in one archive, np.savez(x=, y=)")
            with opened:
                yield opened
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        what = "holds pickled objects" if "allow_pickle" in str(error) else "is cut off, damaged or no NumPy archive"
        raise BadInput(f"{path} {what}: {error}") from error


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
        y, names = arrays.labels(opened[y_key], f"{y_key} of {path}")
        key = next((key for key in CLASSES if key in opened.files), None)
        text = names is not None
        if names is None and key is not None:
            names = [str(name) for name in opened[key]]
            if len(y) and y.max() >= len(names):
                raise BadInput(f"{path} has labels up to {y.max()}, and {len(names)} names in {key}")

    def reader() -> Callable[[np.ndarray], np.ndarray]:
        with archive(path) as opened:
            x = member(path, opened, x_key)
        if len(x) != len(y):
            raise BadInput(f"{path} has {len(x)} samples in {x_key} and {len(y)} labels in {y_key}")
        images = not {"image", "images"}.isdisjoint(x_key.lower().split("_"))
        return arrays.reader(x, f"{x_key} of {path}", images=images)

    names = names or arrays.numbered(y)
    return Source(path.stem, wanted, y, names, arrays.late(reader), warnings, sorted=text)


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
