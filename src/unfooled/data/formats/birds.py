"""Birds with attributes: CUB-200-2011's own folder, and its class table alone.

    images.txt                                  id path              train_test_split.txt   id 0|1
    image_class_labels.txt, classes.txt         id class             attributes.txt         id group::value
    attributes/image_attribute_labels.txt       image attribute present certainty ...       the first four fields
    attributes/class_attribute_labels_continuous.txt                 percentages, a row per class
    parts/parts.txt, parts/part_locs.txt        image part x y visible

Certainties are 1 not visible, 2 guessing, 3 probably, 4 definitely. Soft labels: present 0, .5, .75, 1; absent 0, .5,
.25, 0. Denoised labels: votes of the training images of a class, without those that say absent and not visible. Their
majority holds for every image of the class (present where there is a tie or no vote), and attributes that are present
in at least ten classes remain (112 of the 312 for the official folder).

References:
    Wah et al., The Caltech-UCSD Birds-200-2011 dataset, 2011.
    Koh et al., Concept bottleneck models, ICML 2020, arXiv:2007.04612; yewsiang/ConceptBottleneck (soft and denoised).
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular, regular
from unfooled.data.formats.folders import decode
from unfooled.data.formats.npz import archive
from unfooled.data.known import FOLDER

VOTES = "attributes/image_attribute_labels.txt"
TABLE = "attributes/class_attribute_labels_continuous.txt"
SOFT = np.array([[0.0, 0.5, 0.25, 0.0], [0.0, 0.5, 0.75, 1.0]], np.float32)
"""Soft labels, `SOFT[present, certainty - 1]`."""
MIN_CLASSES = 10
"""Least number of classes in which a denoised attribute is present."""
NOT_VISIBLE = 1
"""Certainty of a vote on a part that is not visible."""


@dataclass(frozen=True, eq=False)
class BirdAttributes:
    """Images of birds by path, with their attributes.

    Attributes:
        paths: Files of the images, in the order of images.txt.
        y: Classes, (N,) int64.
        train: True for training images, (N,) bool.
        attributes: Values in [0, 1], (N, n) float32; NaN where there is no vote.
        names: Names of the attributes, "group::value".
        classes: Names of the classes.
        parts: Column, row in pixels of the file, and visibility of each part, (N, P, 3); NaN where there is no entry.
        part_names: Names of the parts.
    """

    paths: tuple[Path, ...]
    y: Tensor
    train: Tensor
    attributes: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]
    parts: Tensor
    part_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def groups(self) -> dict[str, list[int]]:
        """Columns of each group of attributes, the name before `::`; its members are not always exclusive."""
        return groups_of(self.names)

    def images(self, rows: Tensor, size: int | tuple[int, int]) -> Tensor:
        """Read images, (b, 3, H, W) float32 in [0, 1], resized to `size`."""
        sides = (size, size) if isinstance(size, int) else size
        return torch.from_numpy(decode([self.paths[row] for row in rows.tolist()], sides, 3))


@dataclass(frozen=True, eq=False)
class ClassTable:
    """Attributes of classes, without images.

    Attributes:
        percent: Percentages of presence in [0, 100], (K, n) float32.
        names: Names of the attributes.
        classes: Names of the classes.
        y: Classes of all images, (N,) int64.
        train: True for training images, (N,) bool.
    """

    percent: Tensor
    names: tuple[str, ...]
    classes: tuple[str, ...]
    y: Tensor
    train: Tensor

    def present(self, least: float = 50.0) -> Tensor:
        """Return whether an attribute reaches a percentage in each class, (K, n) bool."""
        return self.percent >= least

    @property
    def groups(self) -> dict[str, list[int]]:
        """Columns of each group of attributes, the name before `::`."""
        return groups_of(self.names)


def groups_of(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the columns of each group, the part of a name before `::`."""
    groups: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        groups.setdefault(name.split("::")[0], []).append(column)
    return groups


def load_birds(
    root: str | Path, *, denoised: bool = False, class_level: bool = False, soft: bool = False
) -> BirdAttributes:
    """Read the attributes, parts, classes and split of CUB-200-2011's own folder; images are read on demand.

    Args:
        root: Folder that holds images.txt.
        denoised: True: the majority of a class's training images, for attributes that are present in ten classes.
        class_level: True: the percentages of each class, as fractions; per-image attributes are not read.
        soft: True: per-image attributes weighted by certainty; else 0 or 1.

    Raises:
        BadInput: A file is missing, damaged or does not fit the others; without the file of per-image attributes, the
            message names `class_level=True`.
    """
    if sum((denoised, class_level, soft)) > 1:
        raise BadInput("denoised, class_level and soft exclude each other; give one of them")
    root = Path(root)
    if not (root / "images.txt").is_file():
        raise BadInput(f"there is no file {root / 'images.txt'}; give the folder CUB_200_2011 that holds it")
    images = _names(root / "images.txt")
    for number, name in enumerate(images, 1):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"line {number} of {root / 'images.txt'} is {name!r}, outside of {root / 'images'}")
    y = _column(root / "image_class_labels.txt", len(images)) - 1
    train = _split(root / "train_test_split.txt", len(images)) == 1
    classes = _names(root / "classes.txt")
    if y.min() < 0 or y.max() >= len(classes):
        raise BadInput(
            f"{root / 'image_class_labels.txt'} has classes {y.min() + 1} to {y.max() + 1}, and there are "
            f"{len(classes)} classes"
        )
    names = _attribute_names(root)
    if class_level:
        values = _percent(root, len(classes), len(names))[y] / 100
    else:
        present, certainty = _votes(root, len(images), len(names))
        if denoised:
            values, retained = _denoised(present, certainty, y, train, len(classes))
            names = tuple(names[column] for column in retained)
        else:
            values = np.where(certainty > 0, SOFT[present, certainty - 1] if soft else present, np.nan)
    parts, part_names = _parts(root, len(images))
    return BirdAttributes(
        tuple(root / "images" / name for name in images),
        torch.from_numpy(y), torch.from_numpy(train), torch.from_numpy(values.astype(np.float32)), names, classes,
        torch.from_numpy(parts), part_names,
    )  # fmt: skip


def load_class_table(root: str | Path | None = None) -> ClassTable:
    """Read the class percentages of CUB's attributes, without images.

    Args:
        root: Folder with `cub_meta.npz`, `attributes.txt` and `classes.txt`, or CUB-200-2011's own. None: `cub200` in
            the folder that UNFOOLED_DATA names.

    Raises:
        BadInput: A file is missing, damaged or does not fit the others.
    """
    place = Path(os.environ.get(FOLDER, "../shared/data")) / "cub200" if root is None else Path(root)
    meta = place / "cub_meta.npz"
    if not meta.is_file() and (place / "images.txt").is_file():
        birds = load_birds(place, class_level=True)
        percent = _percent(place, len(birds.classes), len(birds.names))
        return ClassTable(torch.from_numpy(percent), birds.names, birds.classes, birds.y, birds.train)
    if not meta.is_file():
        raise BadInput(f"the class table is looked for as {meta}, and is not there; give its folder, or set {FOLDER}")
    names, classes = _attribute_names(place), _names(place / "classes.txt")
    with archive(meta) as about:
        percent = np.asarray(about["class_attr"], np.float32)
        y, train = np.asarray(about["class_label"], np.int64), np.asarray(about["is_train"], bool)
    _check_percent(percent, len(classes), len(names), meta)
    if len(y) != len(train) or y.min() < 0 or y.max() >= len(classes):
        raise BadInput(f"{meta} holds labels that do not fit its split, or its {len(classes)} classes")
    return ClassTable(torch.from_numpy(percent), names, classes, torch.from_numpy(y), torch.from_numpy(train))


def _lines(path: Path) -> list[list[str]]:
    """Return the fields of each line of a text file."""
    if not path.is_file():
        raise BadInput(f"there is no file {path}; the folder is not whole, unpack it again")
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error
    return [line.split() for line in text.splitlines() if line.strip()]


def _names(path: Path) -> tuple[str, ...]:
    """Read lines `id name` with the ids 1, 2, 3, ..."""
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if len(line) < 2 or line[0] != str(number):
            raise BadInput(f"line {number} of {path} is {' '.join(line)!r}; it must be {number} and a name")
    if not lines:
        raise BadInput(f"{path} is empty")
    return tuple(" ".join(line[1:]) for line in lines)


def _column(path: Path, count: int) -> np.ndarray:
    """Read lines `id number` with the ids 1, ..., count, (count,) int64."""
    values = _names(path)
    if len(values) != count:
        raise BadInput(f"{path} has {len(values)} lines for {count} images; they must pair up")
    try:
        return np.array([int(value) for value in values], np.int64)
    except ValueError as error:
        raise BadInput(f"{path} holds a value that is not a whole number: {error}") from None


def _split(path: Path, count: int) -> np.ndarray:
    """Read which images are for training, (count,) 0 or 1."""
    values = _column(path, count)
    odd = np.flatnonzero((values != 0) & (values != 1))
    if len(odd):
        line = int(odd[0])
        raise BadInput(f"line {line + 1} of {path} has the split {values[line]}; it must be 1 (training) or 0 (test)")
    return values


def _attribute_names(root: Path) -> tuple[str, ...]:
    """Read the names of the attributes; the official archive puts their file beside the folder."""
    places = (root / "attributes.txt", root / "attributes" / "attributes.txt", root.parent / "attributes.txt")
    path = next((place for place in places if place.is_file()), places[0])
    return _names(path)


def _votes(root: Path, images: int, attributes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return presence, (N, n) 0 or 1, and certainty, (N, n) 1 to 4, or 0 where there is no vote."""
    path = root / VOTES
    if not path.is_file():
        raise BadInput(
            f"there is no file {path}, which holds the attributes of each image; unpack it, or read those of the "
            f"classes from {TABLE} instead with class_level=True"
        )
    present, certainty = np.zeros((images, attributes), np.int64), np.zeros((images, attributes), np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the warning about an empty file, which is refused below
            rows = np.loadtxt(regular(path), np.int64, comments=None, usecols=(0, 1, 2, 3), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is damaged; its lines begin with four whole numbers: {error}") from None
    if not len(rows):
        raise BadInput(f"{path} is empty; it holds one line for each image and attribute")
    low, high = rows.min(0), rows.max(0)
    most = np.array([images, attributes, 1, 4])
    if (low < [1, 1, 0, 1]).any() or (high > most).any():
        raise BadInput(
            f"{path} holds image, attribute, presence or certainty {low.tolist()} to {high.tolist()}; they lie in "
            f"[1, 1, 0, 1] to {most.tolist()}"
        )
    _check_pairs(rows, images, attributes, path)
    present[rows[:, 0] - 1, rows[:, 1] - 1] = rows[:, 2]
    certainty[rows[:, 0] - 1, rows[:, 1] - 1] = rows[:, 3]
    return present, certainty


def _check_pairs(rows: np.ndarray, images: int, attributes: int, path: Path) -> None:
    """Refuse two different votes on one attribute of an image, and a file that seems to be cut off.

    Args:
        rows: Image, attribute, presence and certainty of each line.
        images: Number of images.
        attributes: Number of attributes.
        path: The file, for the message.
    """
    place = (rows[:, 0] - 1) * attributes + rows[:, 1] - 1
    order = np.argsort(place, kind="stable")
    again = np.flatnonzero((np.diff(place[order]) == 0) & (rows[order[1:], 2:] != rows[order[:-1], 2:]).any(1))
    if len(again):
        one, two = int(order[again[0]]), int(order[again[0] + 1])
        what = f"attribute {rows[two, 1]} of image {rows[two, 0]}"
        raise BadInput(f"vote {two + 1} of {path} contradicts vote {one + 1} on {what}; leave one of them out")
    missing = np.setdiff1d(np.arange(1, images + 1), rows[:, 0])
    if len(missing):
        raise BadInput(
            f"{path} ends at vote {len(rows)} without one on image {missing[0]} ({len(missing)} of {images} images "
            "have none); it may be truncated: unpack it again"
        )
    voted = np.bincount(rows[:, 0] - 1, minlength=images)
    last = rows[-1, 0] - 1
    if voted[last] < attributes and (np.delete(voted, last) >= attributes).all() and images > 1:
        raise BadInput(
            f"{path} ends at vote {len(rows)}, within image {last + 1}: it has {voted[last]} of {attributes} "
            "attributes, and all other images have all; it may be truncated: unpack it again"
        )


def _denoised(
    present: np.ndarray, certainty: np.ndarray, y: np.ndarray, train: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the majority of its class for every image, and the columns of the attributes that are retained."""
    counts = np.zeros((2, classes, present.shape[1]), np.int64)
    for value in (0, 1):
        votes = train[:, None] & (certainty > 0) & (present == value)
        if not value:
            votes &= certainty != NOT_VISIBLE
        np.add.at(counts[value], y, votes)
    majority = counts[1] >= counts[0]
    retained = np.flatnonzero(majority.sum(0) >= MIN_CLASSES)
    if not len(retained):
        raise BadInput(f"no attribute is present in {MIN_CLASSES} classes; read them without denoised")
    return majority[y][:, retained].astype(np.float32), retained


def _percent(root: Path, classes: int, attributes: int) -> np.ndarray:
    """Read the percentages of the classes, (K, n) float32."""
    path = root / TABLE
    lines = _lines(path)  # a missing file has a sentence of its own
    try:
        values = np.array([[float(value) for value in line] for line in lines], np.float32)
    except ValueError as error:
        raise BadInput(f"{path} is damaged; it holds a row of percentages for each class: {error}") from None
    _check_percent(values, classes, attributes, path)
    return values


def _check_percent(values: np.ndarray, classes: int, attributes: int, path: Path) -> None:
    """Refuse a class table of another size, or with values that are no percentages."""
    if values.shape != (classes, attributes):
        raise BadInput(f"{path} holds a table of {values.shape} for {classes} classes and {attributes} attributes")
    if not (values >= 0).all() or not (values <= 100).all():
        raise BadInput(f"{path} holds values outside [0, 100]; they must be percentages")


def _parts(root: Path, images: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the places of the parts, (N, P, 3), and their names; none where the folder has no parts."""
    if not (root / "parts").is_dir():
        return np.zeros((images, 0, 3), np.float32), ()
    names, path = _names(root / "parts" / "parts.txt"), root / "parts" / "part_locs.txt"
    places = np.full((images, len(names), 3), np.nan, np.float32)
    for number, line in enumerate(_lines(path), 1):
        try:
            image, part, *place = int(line[0]), int(line[1]), *map(float, line[2:5])
        except (ValueError, IndexError):
            image, part, place = 0, 0, []
        if len(place) != 3 or not np.isfinite(place).all() or not 1 <= image <= images or not 1 <= part <= len(names):
            raise BadInput(f"line {number} of {path} is {' '.join(line)!r}; it must be image, part, x, y, visible")
        places[image - 1, part - 1] = place
    return places, names
