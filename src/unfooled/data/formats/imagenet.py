"""ILSVRC2012 (ImageNet) as published, whose validation images lie in one folder, with their labels in a file elsewhere.

    train/n01440764/*.JPEG, ...                     a folder per synset: read like any image folder
    val/ILSVRC2012_val_00000001.JPEG, ...           no folders: labels from one of
        ILSVRC2012_validation_ground_truth.txt      with meta.mat beside it (the development kit)
        LOC_val_solution.csv                        (Kaggle)
        val.txt, val_annotations.txt                file name and synset, or number; also Tiny ImageNet
        imagenet_2012_validation_synset_labels.txt  a synset per line, in the order of the files

Classes are in the order of their synsets, as models for ImageNet have them.

References:
    Russakovsky et al., ImageNet large scale visual recognition challenge, IJCV 2015, arXiv:1409.0575.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source, canonical_split
from unfooled.data.formats.folders import SUFFIXES, Decoder, is_ours

ROOT_FOLDERS = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "ILSVRC2012")
"""Folders, below the root, that may hold train and val."""
LABELS_FILE = "ILSVRC2012_validation_ground_truth.txt"
TABLES = (
    "LOC_val_solution.csv", "val.txt", "val_annotations.txt", "val_labels.txt", "synset_labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
)  # fmt: skip
SYNSET_NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
SYNSET = re.compile(r"n\d{8}")


def flat_val(root: Path, split: str) -> Path | None:
    """Return the folder of validation images that lie side by side; None where there is none, or for another split."""
    if canonical_split(split) != "val":
        return None
    for top in ROOT_FOLDERS:
        for place in (root / top / "val", root / top / "val/images"):
            if place.is_dir() and next(_images(place), None) is not None:
                return place
    return None


def imagenet(root: Path, split: str, *, size: tuple[int, int] | None = None, channels: int | None = None) -> Source:
    """Open the validation images of ILSVRC2012, or of Tiny ImageNet.

    Args:
        root: Folder above train and val.
        split: "val".
        size: Size, as in `folders.folder`.
        channels: Number of channels, as in `folders.folder`.

    Raises:
        BadInput: There is no file of labels, or it does not fit the images.
    """
    place = flat_val(root, split)
    assert place is not None
    files = sorted(_images(place))
    near = [root, place, place.parent, *sorted(item for item in root.glob("*devkit*") if item.is_dir())]
    folders = [folder for item in near for folder in (item, item / "data", item / "devkit/data")]
    known, words = _synsets(place), _words(folders)
    table = next((folder / name for folder in folders for name in TABLES if (folder / name).is_file()), None)
    truth = next((folder / LABELS_FILE for folder in folders if (folder / LABELS_FILE).is_file()), None)
    if truth is not None:
        ids = _meta(truth.with_name("meta.mat"))
        labels = [_looked_up(ids, line, truth) for line in truth.read_text().split()]
        words = {**{synset: text for synset, text in ids.values()}, **words}
        known, of_file = sorted(synset for synset, _ in ids.values()), [synset for synset, _ in labels]
    elif table is not None:
        of_file = _of_table(table, files)
    else:
        raise BadInput(
            f"the images in {place} have no labels: put {LABELS_FILE} and meta.mat of the development kit, "
            f"LOC_val_solution.csv or val.txt into {root}, or the images into a folder per class"
        )
    if len(of_file) != len(files):
        raise BadInput(f"{truth or table} has {len(of_file)} labels, and {place} {len(files)} images")
    y, classes = _numbered(of_file, known, truth or table)
    decoder = Decoder(files, size, channels)
    names = [words.get(name, name) for name in classes]
    return Source(root.resolve().name, "val", y, names, decoder, sorted=truth is None, survey=decoder.survey)


def _images(place: Path) -> Iterator[Path]:
    return (item for item in place.iterdir() if item.suffix.lower() in SUFFIXES and is_ours(item.name))


def _synsets(place: Path) -> list[str]:
    """Return the synsets that folders of training images are named by."""
    top = place.parent.parent if place.name == "images" else place.parent
    train = top / "train"
    return sorted(item.name for item in train.iterdir() if SYNSET.fullmatch(item.name)) if train.is_dir() else []


def _words(folders: Sequence[Path]) -> dict[str, str]:
    """Return the words of each synset, from a file of lines such as "n01440764 tench, Tinca tinca"."""
    path = next((folder / name for folder in folders for name in SYNSET_NAME_FILES if (folder / name).is_file()), None)
    if path is None:
        return {}
    pairs = (line.strip().replace("\t", " ").partition(" ") for line in path.read_text(errors="replace").splitlines())
    return {synset: text.strip() for synset, _, text in pairs if SYNSET.fullmatch(synset) and text.strip()}


def _meta(path: Path) -> dict[str, tuple[str, str]]:
    """Return number -> (synset, words) of the 1,000 classes, from the development kit's meta.mat."""
    from scipy.io import loadmat

    if not path.is_file():
        raise BadInput(
            f"there is no {path}, which names the classes of the numbers in {LABELS_FILE}; put it beside them"
        )
    try:
        rows = loadmat(path, squeeze_me=True)["synsets"]
        leaves = [row for row in rows if int(row["num_children"]) == 0]
        return {str(int(r["ILSVRC2012_ID"])): (str(r["WNID"]), str(r["words"])) for r in leaves}
    except Exception as error:  # a damaged file makes the reader raise nearly anything
        raise BadInput(f"{path} is damaged or no meta.mat of ILSVRC2012: {error}") from error


def _looked_up(ids: Mapping[str, tuple[str, str]], number: str, path: Path) -> tuple[str, str]:
    if number not in ids:
        raise BadInput(f"{path} holds {number!r}, which is no number of a class in meta.mat")
    return ids[number]


def _of_table(path: Path, files: Sequence[Path]) -> list[str]:
    """Return the label of each file, from a table of names and labels, or a list of labels."""
    lines = [
        re.split(r"[,\s]+", line.strip()) for line in path.read_text(errors="replace").splitlines() if line.strip()
    ]
    if lines and lines[0][0] == "ImageId":
        lines = lines[1:]
    if all(len(line) == 1 for line in lines):
        return [line[0] for line in lines]
    of_name = {Path(line[0]).stem: line[1] for line in lines if len(line) > 1}
    lost = [file.name for file in files if file.stem not in of_name]
    if lost:
        raise BadInput(f"{path} has no label of {len(lost)} images, the first is {lost[0]}")
    return [of_name[file.stem] for file in files]


def _numbered(labels: Sequence[str], known: Sequence[str], path: Path | None) -> tuple[np.ndarray, list[str]]:
    """Return labels as positions in the sorted synsets, and these; numbers are positions already."""
    if all(label.isdigit() for label in labels):
        y = np.array([int(label) for label in labels], np.int64)
        classes = list(known) or [str(k) for k in range(int(y.max()) + 1)]
        if y.max() >= len(classes):
            raise BadInput(f"{path} has labels up to {y.max()}, and there are {len(classes)} synsets in train")
        return y, classes
    classes = sorted({*known, *labels})
    place = {name: k for k, name in enumerate(classes)}
    return np.array([place[label] for label in labels], np.int64), classes
