"""Names of data sets, and the refusal of data that do not exist, which needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from unfooled.core.errors import BadInput, missing_file, nearest
from unfooled.core.limits import regular

FOLDER = "UNFOOLED_DATA"
"""Environment variable that names the folder of the data sets below; `../shared/data` by default."""

GENERATED = ("digits", "digits-canvas", "shapes")
"""Data sets that are generated."""

NAMED: dict[str, tuple[str, str]] = {
    "mnist": ("mnist.npz", "0 1 2 3 4 5 6 7 8 9"),
    "fashion-mnist": (
        "fashion_mnist.npz",
        "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle_boot",
    ),
    "gtsrb": ("gtsrb_subset.npz", ""),
    "cifar10": ("cifar10_jpeg.npz", "airplane automobile bird cat deer dog frog horse ship truck"),
    "cub": ("cub200/cub10_images128_jpeg.npz", ""),
}
"""Short name -> file in that folder, and class names, separated by spaces; empty: the file has them."""

MAP_SUFFIXES = (".npy", ".npz", ".safetensors")
"""Suffixes of files of attribution maps."""


def named_file(name: str) -> Path:
    """Return the file of a data set with a short name.

    Raises:
        BadInput: It is missing.
    """
    file, place = NAMED[name][0], Path(os.environ.get(FOLDER, "../shared/data"))
    if not (place / file).is_file():
        raise BadInput(f"{name} needs the file {file} in {place}, which is missing; set {FOLDER} to its folder")
    return place / file


def unknown(name: str, path: Path) -> BadInput:
    """Return the error for a name that is no data, with the most similar ones."""
    beside = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    return BadInput(
        f"there is no data {name!r}{nearest(path.name, [*GENERATED, *NAMED, *beside])}; give "
        f"{', '.join((*GENERATED, *NAMED))}, a path, or package.module:factory"
    )


def check_there(source: str) -> None:
    """Refuse the name of data that do not exist, as loading them would.

    Raises:
        BadInput: There are none.
    """
    path = regular(Path(source))
    if source in NAMED:
        named_file(source)
    elif source.strip() and ":" not in source and source not in GENERATED and not path.exists():
        raise unknown(source, path)


def existing_maps(source: str) -> tuple[Path, str | None]:
    """Split the source of attribution maps, `file.npz:name`, into the path of a file and the name of an array.

    Raises:
        BadInput: There is no such file.
    """
    head, colon, name = source.rpartition(":")
    named = colon and name and Path(head).suffix in MAP_SUFFIXES and not Path(source).exists()
    path = Path(head if named else source)
    if not regular(path).is_file():
        raise missing_file(path, MAP_SUFFIXES)
    return path, name if named else None
