"""Image folders: `root/class/*.png`, or `root/train/class/*.png` and likewise `test` and `val`.

Classes are sorted by name, as text (folders `1, 10, 2` are in this order), over all splits together. Images are turned
as their EXIF orientation says, and alpha is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput, option
from unfooled.core.given import is_grey, plain, values_of
from unfooled.core.model.batching import check_fits
from unfooled.data.dataset import Source, canonical_split, no_splits, select_split
from unfooled.data.formats.pictures import SUFFIXES, opened, sides, size_of, upright

__all__ = ["SUFFIXES", "decode", "files_of", "folder", "images_below", "unlabelled_images"]

SYSTEM_FOLDERS = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "system volume information"}
)
"""Folder names, in lower case, that operating systems and archivers create; skipped like hidden folders."""


def is_ours(name: str) -> bool:
    """Return whether a folder or file is the user's: not hidden, and not created by the operating system."""
    return not name.startswith(".") and name.lower() not in SYSTEM_FOLDERS and name != "lost+found"


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without those that `is_ours` excludes."""
    return sorted(item for item in path.iterdir() if item.is_dir() and is_ours(item.name))


def images_below(path: Path) -> list[Path]:
    """Return the images below a folder, sorted by their path."""
    images = (item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES and item.is_file())
    return sorted(item for item in images if all(is_ours(part) for part in item.relative_to(path).parts))


def folder(root: Path, split: str, *, size: tuple[int, int] | None = None, channels: int | None = None) -> Source:
    """Open an image folder; images are decoded on demand.

    Args:
        root: Folder.
        split: Split to read, if there are several.
        size: Size (H, W) that every image is resized to, antialiased. None: not changed; all must have the same size.
        channels: Number of channels, 1 or 3. None: grey where all images read are grey, else colour.

    Raises:
        BadInput: There are no classes, no images, no such split.
    """
    wanted, top, classes = _split(root, split)
    warnings = [no_splits(split, root)] if wanted == "all" else []
    if not classes and not images_below(root):
        raise BadInput(
            f"{root} holds no images; with labels they are looked for as {root}/CLASS/*.png (or .npz or IDX files), to "
            f"be explained without labels as {root}/*.png"
        )
    if not classes:
        raise BadInput(f"{root} holds no folders; images are looked for as {root}/CLASS/*.png, or .npz or IDX files")
    images_of = {name: images_below(top / name) for name in classes}
    if not any(images_of.values()):
        raise BadInput(f"{top} holds {len(classes)} folders ({', '.join(classes[:3])}) without any images")
    if empty := [name for name in classes if not images_of[name]]:
        warnings.append(f"{len(empty)} classes have no images in {top}: {', '.join(empty[:3])}")
    if all(name.isdigit() for name in classes) and classes != sorted(classes, key=int):
        warnings.append(
            f"class folders are numbers in the order of text: {', '.join(classes[:4])}, ...; "
            "give the names in the model's order with labels"
        )
    files = [path for name in classes for path in images_of[name]]
    y = np.repeat(np.arange(len(classes)), [len(images_of[name]) for name in classes])

    decoder = Decoder(files, size, channels)
    return Source(
        root.resolve().name, wanted, y, classes, decoder, tuple(warnings), sorted=True, survey=decoder.survey
    )  # fmt: skip


@dataclass(frozen=True)
class Decoder:
    """Function that decodes the images of some rows.

    Attributes:
        files: File of each row: a path, or an open file with a name.
        size: Size that every image is resized to. None: not changed.
        channels: Number of channels. None: grey where all images read are grey, else colour.
    """

    files: Sequence[Path]
    size: tuple[int, int] | None
    channels: int | None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the images as (b, C, H, W) float32 in [0, 1]."""
        return decode([self.files[row] for row in rows.tolist()], self.size, self.channels)

    def survey(self, rows: np.ndarray) -> Decoder:
        """Read the headers of all images that will be decoded, and return a decoder with the same channels for all.

        Raises:
            BadInput: An image is damaged, or they have different sizes and `size` is None.
        """
        files = [self.files[row] for row in rows.tolist()]
        shapes, grey = zip(*map(size_and_grey, files), strict=True)
        if self.size is None:
            _one_size(shapes, files)
        return replace(self, channels=self.channels or (1 if all(grey) else 3))


def size_and_grey(path: Path) -> tuple[tuple[int, int], bool]:
    """Return an image's (height, width), and whether it is grey, from its header alone.

    Raises:
        BadInput: It is no image.
    """
    with opened(path) as image:
        return sides(image), is_grey(image)


def _one_size(sides: Sequence[tuple[int, int]], files: Sequence[Path]) -> None:
    """Raise if the images have different sizes."""
    sizes = {side: path for side, path in zip(reversed(sides), reversed(files), strict=True)}
    if len(sizes) > 1:
        examples = ", ".join(f"{w}x{h} ({path.name})" for (h, w), path in sorted(sizes.items())[:3])
        raise BadInput(
            f"the images have {len(sizes)} sizes, {examples}; give the {option('size')} that the model takes"
        )


def unlabelled_images(path: Path) -> list[Path]:
    """Return images without labels: the file itself, or the images of a folder without subfolders."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    if not path.is_dir() or _folders(path):
        return []
    return images_below(path)


def files_of(root: Path, split: str) -> list[Path]:
    """Return the files of a split in the order of the rows of `folder`. Errors as for `folder`."""
    _, top, classes = _split(root, split)
    return [path for name in classes for path in images_below(top / name)]


def _split(root: Path, split: str) -> tuple[str, Path, list[str]]:
    """Return the split that is read ("all" without splits), its folder, and the classes of all splits."""
    splits = {
        split_name: item for item in _folders(root) if (split_name := canonical_split(item.name)) and _folders(item)
    }
    wanted = select_split(split, list(splits), root) if splits else "all"
    classes = sorted({item.name for place in (splits.values() or [root]) for item in _folders(place)})
    return wanted, splits.get(wanted, root), classes


def _decoded(path: Path, size: tuple[int, int] | None, channels: int | None) -> Any:
    """Decode one image as (H, W) or (H, W, 3), float32 in [0, 1]."""
    from PIL import Image

    with opened(path) as file:
        image = plain(upright(file), grey=channels == 1)
        if size is not None and image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        return values_of(image)


def decode(files: list[Path], size: tuple[int, int] | None, channels: int | None) -> np.ndarray:
    """Decode images as (n, C, H, W) float32 in [0, 1].

    Raises:
        BadInput: An image is damaged, or they have different sizes and `size` is None.
    """
    if size is None:
        _one_size([size_of(path) for path in files], files)  # from the headers, before anything is decoded
    height, width = size or (size_of(files[0]) if files else (0, 0))
    check_fits(12 * height * width * len(files), f"{len(files)} images of {width} x {height}")
    images = [_decoded(path, size, channels) for path in files]
    if channels == 1 or (channels is None and all(image.ndim == 2 for image in images)):
        return np.stack(images)[:, None]
    colour = [np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image for image in images]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))
