"""Purified images on disk: a set with labels, or PNG files under the names of the images that they were made from."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular, regular
from unfooled.data.dataset import Dataset
from unfooled.data.formats.feature_sets import FeatureSet, save_features, to_bytes
from unfooled.data.formats.folders import decode, unlabelled_images
from unfooled.purification import SemanticPurifier
from unfooled.runs.chunks import Progress
from unfooled.runs.files import write_whole
from unfooled.workflows.errors import BadOption
from unfooled.workflows.places import check_folder

MANIFEST = "purified.json"
"""File beside the images, which names them, so that the next run may replace them."""


def purified(purify: SemanticPurifier, x: Tensor, device: str, batch: int, progress: Progress) -> Tensor:
    """Return the images purified part by part, on the CPU."""
    parts = []
    progress("purified", 0, len(x))
    with torch.no_grad():
        for part in x.split(batch):
            parts.append(purify(part.to(device)).cpu())
            progress("purified", sum(map(len, parts)), len(x))
    return torch.cat(parts)


def store(out: Path, images: Dataset, made: Tensor, purifier: str) -> None:
    """Write purified images with their labels."""
    rows = torch.arange(len(made))
    change = (made - images.x).flatten(1).norm(dim=1) / images.x.flatten(1).norm(dim=1).clamp_min(1e-12)
    about = {"kind": "purified", "purifier": purifier, "from": {"data": images.name, "split": images.split}}
    save_features(out, FeatureSet(made, images.y, images.index, rows, change, list(images.classes)), about)


def flat_images(data: Any) -> list[Path]:
    """Return the images of a folder without class folders, or the image itself; empty for other data."""
    if not isinstance(data, (str, Path)) or not Path(data).exists():
        return []
    return unlabelled_images(regular(Path(data)))


def check_files(out: str | Path, files: Sequence[Path], *, labels: object) -> Path:
    """Check that purified images can be written to a folder under their names.

    Args:
        out: The folder.
        files: Images that are purified.
        labels: Class names that were given; there must be none.

    Raises:
        BadOption: It is no folder, holds other files, or is the folder of the images; two images have one name; or
            class names were given.
    """
    if labels is not None:
        raise BadOption("{labels} names classes, and {0} lies in no folder of a class; leave it out", files[0])
    if Path(out).suffix.lower() == ".npz":
        raise BadOption("{out} is {0}, and images without classes become PNG files; name a folder", out)
    folder = check_folder(out)
    if folder.resolve() == files[0].parent.resolve():
        raise BadOption("{out} is the folder of the images, {0}, which would be replaced; name another one", folder)
    names = names_of(files)
    here = {item.name for item in folder.iterdir()} if folder.is_dir() else set()
    if here - _written(folder):
        other = min(here - _written(folder))
        raise BadOption("{0} holds other files, such as {1}; choose another {out}", folder, other)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadOption("two images of {0} would be written as {1}; rename one of them", files[0].parent, twice)
    return folder


def names_of(files: Sequence[Path]) -> list[str]:
    """Return the names of the purified images: those of the images, with the ending of a PNG file."""
    return [file.name if file.suffix.lower() == ".png" else f"{file.stem}.png" for file in files]


def read_files(files: Sequence[Path], size: tuple[int, int] | None, channels: int | None) -> Dataset:
    """Return images as data without classes.

    Args:
        files: The images.
        size: (height, width) that they are resized to. None: unchanged.
        channels: Channels that they are converted to. None: unchanged.
    """
    x = torch.from_numpy(decode(list(files), size, channels))
    n = len(files)
    zeros = torch.zeros(n, dtype=torch.int64)
    return Dataset(x, zeros, ["image"], files[0].parent.name or ".", "all", torch.arange(n), ())


def write_files(folder: Path, files: Sequence[Path], x: Tensor, purifier: str) -> None:
    """Write purified images, in 8 bits, and a manifest that names them.

    Args:
        folder: The folder, made where it is missing.
        files: Images that they were made from.
        x: Purified images, (N, C, H, W) in [0, 1].
        purifier: Purifier, for the manifest.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error}; give another folder") from None
    names, before = names_of(files), _written(folder)
    about = {"kind": "purified", "purifier": purifier, "files": sorted({*names, *before} - {MANIFEST})}
    write_whole(folder / MANIFEST, json.dumps(about, indent=2).encode())
    for name, image in zip(names, to_bytes(x).cpu().numpy(), strict=True):
        content = io.BytesIO()
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(content, "PNG")
        write_whole(folder / name, content.getvalue())


def _written(folder: Path) -> set[str]:
    """Return the names of the files that an earlier run wrote to a folder, its manifest included."""
    try:
        known = json.loads(read_regular(folder / MANIFEST, most=1 << 26))
        return {MANIFEST, *map(str, known["files"])} if known["kind"] == "purified" else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
