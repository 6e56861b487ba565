"""Images with boxes around the objects: CUB-200-2011, and folders of images with a CSV.

Boxes are (left, top, width, height) in pixels of the images as loaded; a box's mask is the share of each pixel inside
the box.

References:
    Wah et al., The Caltech-UCSD Birds-200-2011 dataset, 2011.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Dataset
from unfooled.data.formats.folders import files_of, images_below
from unfooled.data.formats.npz import archive
from unfooled.data.formats.pictures import size_of
from unfooled.data.known import FOLDER
from unfooled.data.load import load_dataset

COLUMNS = (("left", "top", "width", "height"), ("x", "y", "w", "h"), ("xmin", "ymin", "xmax", "ymax"))
"""Accepted column names of a CSV, besides `file`; xmax and ymax are the right and bottom edges."""


@dataclass(frozen=True, eq=False)
class Boxed:
    """Images with boxes and masks of their objects.

    Attributes:
        data: Samples.
        boxes: Left, top, width, height in pixels of `data.x`, (N, 4) float32, around all objects of an image; NaN
            for an image without a box.
        masks: Share of each pixel inside the box, (N, H, W) float32; for several boxes the largest, 0 for none.
    """

    data: Dataset
    boxes: Tensor
    masks: Tensor


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Make masks of boxes, (N, 4) left, top, width, height in pixels -> (N, H, W) float32 in [0, 1]; NaN gives 0."""

    def along(start: Tensor, length: Tensor, side: int) -> Tensor:
        edge = torch.arange(side + 1, dtype=boxes.dtype)
        return (torch.minimum(edge[1:], (start + length)[:, None]) - torch.maximum(edge[:-1], start[:, None])).clamp(
            0, 1
        )

    rows = along(boxes[:, 1], boxes[:, 3], size[0])
    columns = along(boxes[:, 0], boxes[:, 2], size[1])
    return (rows[:, :, None] * columns[:, None, :]).nan_to_num(0.0).float()


def load_cub(
    split: str = "test",
    n: int | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
) -> Boxed:
    """Load the birds of CUB-200-2011's first ten classes at 128x128, from the folder `cub200` in UNFOOLED_DATA.

    For the images without boxes use `load_dataset("cub")`.

    Args:
        split: "train" or "test".
        n: Number of samples, alternating between classes. None: all.
        size: Side, or (H, W), that images and boxes are resized to. None: not changed.
        labels: Class order, as in `load_dataset`.

    Raises:
        BadInput: The folder does not exist, or its files are damaged.
    """
    place = Path(os.environ.get(FOLDER, "../shared/data")) / "cub200"
    pack, meta = place / "cub10_images128_jpeg.npz", place / "cub_meta.npz"
    for path in (pack, meta):
        if not path.is_file():
            raise BadInput(f"CUB needs the file {path}, which is missing; set {FOLDER} to the folder above cub200")
    data = load_dataset("cub", split, n, size=size, labels=labels)
    with archive(pack) as images, archive(meta) as about:
        rows = np.flatnonzero(np.asarray(images["is_train"], bool) == (data.split == "train"))[data.index.numpy()]
        sides = images["orig_wh"][rows].astype(np.float32)
        boxes = about["bbox"][images["image_id"][rows] - 1].astype(np.float32)
    return _boxed(data, list(boxes[:, None]), sides)


def load_boxed(
    root: str | Path,
    boxes: str | Path,
    split: str = "test",
    n: int | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    channels: int | None = None,
) -> Boxed:
    """Load a folder of images, as `load_dataset` does, with the boxes of a CSV.

    Args:
        root: Folder with one folder per class, optionally under train, test, val.
        boxes: CSV with the columns `file`, the path below `root`, and `left,top,width,height` (or `x,y,w,h`, or
            `xmin,ymin,xmax,ymax`) in pixels of the file; boxes are clipped to the image. Images without
            a row have no box; an image with several rows has several objects, and its mask is their union.
        split: Split, as in `load_dataset`; rows may also be of other splits.
        n: Number of samples, alternating between classes. None: all.
        size: Side, or (H, W), that images and boxes are resized to. None: not changed.
        labels: Class order, as in `load_dataset`.
        channels: Number of channels, 1 or 3. None: not changed.

    Raises:
        BadInput: The CSV lacks a column, holds a value that is not a finite number, an empty box, a box entirely
            outside its image or a missing file, or names none of the images read.
    """
    root, path = Path(root), Path(boxes)
    if not root.is_dir():
        raise BadInput(f"there is no folder {root}; give the one that holds one folder per class")
    try:
        boxes_of = _read(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no CSV: {error}") from error
    present = {file.relative_to(root).as_posix() for file in images_below(root)}
    if lost := [name for name in boxes_of if name not in present]:
        raise BadInput(
            f"{len(lost)} of the {len(boxes_of)} files in {path} are no images below {root}, the first is {lost[0]!r}; "
            "file is the path below that folder"
        )
    data = load_dataset(root, split, n, size=size, labels=labels, channels=channels)
    files = files_of(root, split)
    names = [files[k].relative_to(root).as_posix() for k in data.index.tolist()]
    if not set(names) & set(boxes_of):
        raise BadInput(
            f"{path} names none of the images read from {root}, such as {names[0]}; file is the path below it"
        )
    sides = []
    for k, name in zip(data.index.tolist(), names, strict=True):
        h, w = size_of(files[k])
        for left, top, width, height in boxes_of.get(name, ()):
            if left >= w or top >= h or left + width <= 0 or top + height <= 0:
                raise BadInput(
                    f"the box of {name} in {path}, left {left:g}, top {top:g}, {width:g} x {height:g}, lies outside of "
                    f"the image, {w} x {h}; boxes are in pixels of the file"
                )
        sides.append((w, h))
    nothing = np.full((1, 4), np.nan, np.float32)
    arrays = [np.array(boxes_of[name], np.float32) if name in boxes_of else nothing for name in names]
    return _boxed(data, arrays, np.array(sides, np.float32))


def _boxed(data: Dataset, boxes: Sequence[np.ndarray], sides: np.ndarray) -> Boxed:
    """Scale boxes from pixels of the files to pixels of the loaded images.

    Args:
        data: Images.
        boxes: Boxes of each image, (k, 4) with k at least 1; NaN for no box.
        sides: Width and height of the files, (N, 2).
    """
    h, w = data.x.shape[2:]
    around, masks = [], []
    for image_boxes, side in zip(boxes, sides, strict=True):
        scaled = torch.from_numpy(image_boxes * np.tile(np.array([w, h], np.float32) / side, 2))
        start, end = scaled[:, :2].amin(0), (scaled[:, :2] + scaled[:, 2:]).amax(0)
        around.append(torch.cat([start, end - start]) if len(image_boxes) > 1 else scaled[0])
        masks.append(box_masks(scaled, (h, w)).amax(0))
    return Boxed(data, torch.stack(around), torch.stack(masks))


def _read(path: Path) -> dict[str, list[tuple[float, float, float, float]]]:
    """Read a CSV: file -> left, top, width, height of each of its boxes."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give a CSV with the columns file, left, top, width, height")
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        columns = table.fieldnames or []
        names = next((names for names in COLUMNS if set(names) <= set(columns)), None)
        if names is None or "file" not in columns:
            raise BadInput(
                f"{path} has the columns {', '.join(columns) or 'none'}; it needs file, left, top, width, height"
            )
        boxes_of: dict[str, list[tuple[float, float, float, float]]] = {}
        for line in table:
            try:
                a, b, c, d = (float(line[name]) for name in names)
            except (TypeError, ValueError):
                raise BadInput(f"line {table.line_num} of {path} holds a value that is not a number: {line}") from None
            if not all(map(math.isfinite, (a, b, c, d))):
                raise BadInput(
                    f"line {table.line_num} of {path} holds NaN or infinity: {line}; leave images without a box out"
                )
            box = (a, b, c - a, d - b) if names[2] == "xmax" else (a, b, c, d)
            if min(box[2:]) <= 0:
                raise BadInput(f"line {table.line_num} of {path} is an empty box: {line}")
            if not line["file"]:
                raise BadInput(f"line {table.line_num} of {path} names no file: {line}")
            boxes_of.setdefault(Path(line["file"]).as_posix(), []).append(box)
    return boxes_of
