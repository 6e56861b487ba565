"""Images with a box around the object: CUB-200-2011, and folders of images with a CSV.

Boxes are (left, top, width, height) in pixels of the images as loaded; a box's mask is the share of each pixel that the
box takes.

References:
    Wah et al., The Caltech-UCSD Birds-200-2011 dataset, 2011.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfooled.core.checks import BadInput
from unfooled.data.dataset import Dataset
from unfooled.data.folders import files_of
from unfooled.data.load import load_dataset
from unfooled.data.npz import archive
from unfooled.data.sources import FOLDER

COLUMNS = (("left", "top", "width", "height"), ("x", "y", "w", "h"), ("xmin", "ymin", "xmax", "ymax"))
"""Names that a CSV's columns may have, beside `file`; the last are corners."""


@dataclass(frozen=True, eq=False)
class Boxed:
    """Images and where their objects are.

    Attributes:
        data: the samples.
        boxes: (N, 4) float32, left, top, width, height in pixels of `data.x`; NaN where an image has none.
        masks: (N, H, W) float32, the share of each pixel that the box takes; 0 without a box.
    """

    data: Dataset
    boxes: Tensor
    masks: Tensor


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes, (N, 4) left, top, width, height in pixels -> (N, H, W) float32 in [0, 1]; NaN gives 0."""

    def along(start: Tensor, length: Tensor, side: int) -> Tensor:
        edge = torch.arange(side + 1, dtype=boxes.dtype)
        return (torch.minimum(edge[1:], (start + length)[:, None]) - torch.maximum(edge[:-1], start[:, None])).clamp(
            0, 1
        )

    rows = along(boxes[:, 1], boxes[:, 3], size[0])
    columns = along(boxes[:, 0], boxes[:, 2], size[1])
    return (rows[:, :, None] * columns[:, None, :]).nan_to_num(0.0).float()


def load_cub(split: str = "test", n: int | None = None, *, size: int | tuple[int, int] | None = None) -> Boxed:
    """The birds of CUB-200-2011's first ten classes at 128x128, from the folder `cub200` in UNFOOLED_DATA.

    Args:
        split: "train" or "test", the data set's own.
        n: how many, classes in turn; None for all.
        size: side, or (H, W), that images are resized to.

    Raises:
        BadInput: the folder is not there, or its files are damaged.
    """
    place = Path(os.environ.get(FOLDER, "../shared/data")) / "cub200"
    pack, meta = place / "cub10_images128_jpeg.npz", place / "cub_meta.npz"
    for path in (pack, meta):
        if not path.is_file():
            raise BadInput(f"CUB is looked for as {path}, and is not there; set {FOLDER} to the folder above cub200")
    data = load_dataset(pack, split, n, size=size)
    with archive(pack) as held, archive(meta) as about:
        rows = np.flatnonzero(np.asarray(held["is_train"], bool) == (data.split == "train"))[data.index.numpy()]
        whole = held["orig_wh"][rows].astype(np.float32)
        boxes = about["bbox"][held["image_id"][rows] - 1].astype(np.float32)
    return _boxed(data, boxes, whole)


def load_boxed(
    root: str | Path,
    boxes: str | Path,
    split: str = "test",
    n: int | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Boxed:
    """A folder of images, read as `load_dataset` reads it, with the boxes of a CSV.

    Args:
        root: the folder, one folder a class, perhaps under train, test, val.
        boxes: a CSV with the columns `file`, the path below `root`, and `left,top,width,height` (or `x,y,w,h`, or
            `xmin,ymin,xmax,ymax`) in pixels of the file. Images that it leaves out have no box.
        split: as in `load_dataset`.
        n: how many, classes in turn; None for all.
        size: side, or (H, W), that images are resized to; boxes with them.
        channels: 1 or 3.

    Raises:
        BadInput: the CSV lacks a column, holds what is no number, or names no image of the folder.
    """
    root, path = Path(root), Path(boxes)
    if not root.is_dir():
        raise BadInput(f"there is no folder {root}; give the one that holds a folder a class")
    found = _read(path)
    data = load_dataset(root, split, n, size=size, channels=channels)
    files = files_of(root, split)
    names = [files[k].relative_to(root).as_posix() for k in data.index.tolist()]
    if not set(names) & set(found):
        raise BadInput(
            f"{path} names none of the images read from {root}, such as {names[0]}; file is the path below it"
        )
    nothing = np.full(4, np.nan, np.float32)
    from PIL import Image

    whole = []
    for k in data.index.tolist():
        with Image.open(files[k]) as image:  # reads the header alone
            whole.append(image.size)
    return _boxed(data, np.stack([found.get(name, nothing) for name in names]), np.array(whole, np.float32))


def _boxed(data: Dataset, boxes: np.ndarray, whole: np.ndarray) -> Boxed:
    """Bring boxes from the files' pixels, `whole` (N, 2) width and height, to those of the images as loaded."""
    h, w = data.x.shape[2:]
    scale = np.array([w, h], np.float32) / whole
    scaled = torch.from_numpy(boxes * np.concatenate([scale, scale], 1))
    return Boxed(data, scaled, box_masks(scaled, (h, w)))


def _read(path: Path) -> dict[str, np.ndarray]:
    """File -> left, top, width, height."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a CSV with the columns file, left, top, width, height")
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        there = table.fieldnames or []
        names = next((names for names in COLUMNS if set(names) <= set(there)), None)
        if names is None or "file" not in there:
            raise BadInput(
                f"{path} has the columns {', '.join(there) or 'none'}; it needs file, left, top, width, height"
            )
        found = {}
        for line in table:
            try:
                a, b, c, d = (float(line[name]) for name in names)
            except (TypeError, ValueError):
                raise BadInput(f"line {table.line_num} of {path} holds what is no number: {line}") from None
            box = (a, b, c - a, d - b) if names[2] == "xmax" else (a, b, c, d)
            if min(box[2:]) <= 0:
                raise BadInput(f"line {table.line_num} of {path} is an empty box: {line}")
            found[Path(line["file"]).as_posix()] = np.array(box, np.float32)
    return found
