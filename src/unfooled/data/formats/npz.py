"""NumPy archives: `x_train, y_train, x_test, y_test`, `train_images, train_labels, ...`, `x, y` and their like.

No pickle is read. Only the arrays of the split that is asked for are unpacked.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, chosen, split_named, unsplit
from unfooled.data.formats import arrays, packs

ROLES = {
    **dict.fromkeys(("x", "images", "image", "data", "features", "inputs"), "x"),
    **dict.fromkeys(("y", "labels", "label", "targets", "target"), "y"),
}
CLASSES = ("classes", "class_names", "label_names")


@contextmanager
def archive(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an archive; what its damage raises becomes one sentence.

    Raises:
        BadInput: it is cut off or damaged, or holds pickled objects.
    """
    try:
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            if not isinstance(held, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} is a single array; save samples and labels in one archive, np.savez(x=, y=)")
            with held:
                yield held
    except BadInput:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        what = "holds pickled objects" if "allow_pickle" in str(error) else "is cut off, damaged or no NumPy archive"
        raise BadInput(f"{path} {what}: {error}") from error


def npz(path: Path, split: str) -> Source:
    """The samples and labels of one split.

    Raises:
        BadInput: no arrays with known names, no such split, or lengths that differ.
    """
    with archive(path) as held:
        if "jpeg_header" in held.files:
            return packs.headed(path, held, split)
        if {"jpeg", "length", "y"} <= set(held.files):
            return packs.whole(path, held, split)
        found = _pairs(held.files)
        if not found:
            raise BadInput(
                f"{path} holds {', '.join(held.files[:8]) or 'nothing'}; samples and labels are looked for as x_test "
                "and y_test, test_images and test_labels, x and y, images and labels, data and targets"
            )
        whole = "all" in found
        wanted = "all" if whole else chosen(split, list(found), path)
        warnings = (unsplit(split, path.name),) if whole else ()
        x_key, y_key = found[wanted]
        y, names = arrays.labels(held[y_key], f"{y_key} of {path}")
        key = next((key for key in CLASSES if key in held.files), None)
        if names is None and key is not None:
            names = [str(name) for name in held[key]]
            if len(y) and y.max() >= len(names):
                raise BadInput(f"{path} has labels up to {y.max()}, and {len(names)} names in {key}")

    def read(rows: np.ndarray) -> np.ndarray:
        with archive(path) as held:
            x = held[x_key]
        if len(x) != len(y):
            raise BadInput(f"{path} has {len(x)} samples in {x_key} and {len(y)} labels in {y_key}")
        return arrays.samples(x, rows, f"{x_key} of {path}")

    return Source(path.stem, wanted, y, names or arrays.numbered(y), read, warnings)


def _pairs(keys: list[str]) -> dict[str, tuple[str, str]]:
    """Split -> its samples' and labels' keys; "all" for a pair without a split."""
    held: dict[tuple[str, str], str] = {}
    for key in keys:
        parts = key.lower().split("_")
        role = next((ROLES[part] for part in parts if part in ROLES), None)
        named = [split for part in parts if (split := split_named(part))]
        if role and len(parts) == 1 + len(named) and len(named) <= 1:
            held.setdefault((named[0] if named else "all", role), key)
    splits = dict.fromkeys(split for split, _ in held)
    return {s: (held[s, "x"], held[s, "y"]) for s in splits if (s, "x") in held and (s, "y") in held}
