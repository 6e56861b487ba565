"""Data sources, loaded data sets and the names of splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from unfooled.core.errors import BadInput


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples in the unit box.

    Attributes:
        x: Samples, (N, C, H, W), (N, D), (N, T, F) or (N, C, D, H, W), float32 in [0, 1]; streamed where that was
            asked for and they are large.
        y: Labels, (N,) int64, positions in `classes`; where samples have several, (N, L) int64 of 0 and 1.
        classes: Class names in the order of the labels; of several labels per sample, their names.
        name: Name of the source, for reports.
        split: "train", "test" or "val"; "all" where the source has no splits.
        index: Index of each sample in the source, (N,) int64.
        warnings: Assumptions of the reader, one sentence each.
        sorted: True if the classes are only in the order of their names, as in a folder that may lack some classes.
    """

    x: Tensor
    y: Tensor
    classes: list[str]
    name: str
    split: str
    index: Tensor
    warnings: tuple[str, ...] = ()
    sorted: bool = False


@dataclass(frozen=True, eq=False)
class Source:
    """Opened data source: its labels, and a function that reads samples on demand.

    Attributes:
        name: Name for reports.
        split: Split, as in `Dataset`.
        y: Labels of all samples, (N,) int64; where samples have several, (N, L) int64 of 0 and 1.
        classes: Class names in the order of the labels; of several labels per sample, their names.
        read: Function of row numbers, (n,), that returns their samples, in a form of `Dataset.x`.
        warnings: Assumptions of the reader, as in `Dataset`.
        sorted: As in `Dataset`.
        survey: Function of the numbers of all rows that will be read in parts; it returns a `read` with one setting
            for all of them, such as the number of channels. None: `read` has no setting that depends on the rows.
    """

    name: str
    split: str
    y: np.ndarray
    classes: list[str]
    read: Callable[[np.ndarray], np.ndarray]
    warnings: tuple[str, ...] = ()
    sorted: bool = False
    survey: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]] | None = None

    def warned(self, *warnings: str) -> Source:
        """Return the same source with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))


SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k"),
    "val": ("val", "valid", "validation", "dev"),
}
"""Split -> its accepted names."""


def canonical_split(name: str) -> str | None:
    """Return the split with this name; None for an unknown name."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def select_split(split: str, available: Sequence[str], place: object) -> str:
    """Return the canonical name of the requested split.

    Args:
        split: Requested split, under any of its names.
        available: Splits of the source.
        place: Source, for the error message.

    Raises:
        BadInput: There is no such split; the message lists the available ones.
    """
    wanted = canonical_split(split) or split
    if wanted not in available:
        raise BadInput(f"{place} has no split {split!r}; it has {', '.join(available) or 'none'}")
    return wanted


def no_splits(split: str, place: object) -> str:
    """Return the warning for a source without splits.

    Raises:
        BadInput: `split` is not a known name.
    """
    if canonical_split(split) is None and split != "all":
        raise BadInput(f"there is no split {split!r}; splits are {', '.join(SPLITS)}")
    return f"{place} has no splits: all of it was read, whatever split was asked for"
