"""Kinds of data source, recognised by name or path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput
from unfooled.core.limits import regular
from unfooled.data.dataset import Source, select_split
from unfooled.data.formats.arrow import arrow, arrow_in
from unfooled.data.formats.cifar import cifar, cifar_in
from unfooled.data.formats.factory import from_arrays, from_callable, from_factory
from unfooled.data.formats.folders import folder
from unfooled.data.formats.idx import IMAGES, idx_file, idx_folder, images_in
from unfooled.data.formats.imagenet import flat_val, imagenet
from unfooled.data.formats.labelled_images import labelled_images
from unfooled.data.formats.npz import npz
from unfooled.data.known import GENERATED, NAMED, named_file, unknown
from unfooled.data.made.canvas import digits_canvas
from unfooled.data.made.digits import digits
from unfooled.data.made.shapes import shapes


def open_source(source: Any, split: str, size: tuple[int, int] | None, channels: int | None) -> Source:
    """Open a source of any kind (see `load_dataset`); samples are not read yet.

    Raises:
        BadInput: The source is unknown (the message suggests similar names), damaged, or lacks the split.
    """
    if isinstance(source, (tuple, list)):
        return from_arrays(source, "the data")
    if callable(source):
        return from_callable(source, split, getattr(source, "__name__", "the function"))
    if not isinstance(source, (str, Path)):
        raise BadInput(f"the data are a {type(source).__name__}; give a name, a path, a function or (x, y)")
    name, path = str(source), regular(Path(source))
    if name.partition(":")[0] in GENERATED:
        return _open_generated(name, split)
    if name in NAMED:
        return _open_named(name, split)
    if path.is_dir():
        return _folder(path, split, size, channels)
    if path.is_file():
        if path.suffix == ".npz":
            return npz(path, split)
        if path.suffix.lower() == ".csv":
            return labelled_images(path, split, size=size, channels=channels)
        if IMAGES.fullmatch(path.name) or "idx" in path.name:
            opened = idx_file(path)
            return opened if opened.split == "all" else replace(opened, split=select_split(split, [opened.split], path))
        raise BadInput(
            f"{path} is no data file; known are .npz, .csv of images and their labels, IDX (train-images-idx3-ubyte), "
            "and folders of images"
        )
    if ":" in name:
        return from_factory(name, split)
    raise unknown(name, path)


def _folder(path: Path, split: str, size: tuple[int, int] | None, channels: int | None) -> Source:
    """Open a folder of any kind."""
    if images_in(path):
        return idx_folder(path, split)
    if cifar_in(path) is not None:
        return cifar(path, split)
    if arrow_in(path):
        return arrow(path, split, size=size, channels=channels)
    if flat_val(path, split) is not None:
        return imagenet(path, split, size=size, channels=channels)
    return folder(path, split, size=size, channels=channels)


def _open_generated(name: str, split: str) -> Source:
    """Open a generated data set; "shapes:0.9" means `shapes` with rho=0.9."""
    kind, colon, rho = name.partition(":")
    if kind != "shapes":
        if colon:
            raise BadInput(f"the data are {name!r}; {kind} takes no options")
        return digits(split) if kind == "digits" else digits_canvas(split)
    try:
        return shapes(split, rho=float(rho) if colon else 0.25)
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"the data are {name!r}; write shapes, or shapes:0.9 for a background that goes with the label"
        ) from None


def _open_named(name: str, split: str) -> Source:
    """Open a data set by its short name."""
    file, classes = named_file(name), NAMED[name][1]
    opened = npz(file, split)
    return replace(opened, name=name, classes=[item.replace("_", " ") for item in classes.split()] or opened.classes)
