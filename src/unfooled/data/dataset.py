"""What a data source is, before and after its samples are read."""

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
        x: (N, C, H, W) or (N, D) float32 in [0, 1].
        y: (N,) int64, positions in `classes`.
        classes: names in the order of the labels.
        name: of the source, for reports.
        split: "train", "test" or "val"; "all" where the source has no splits.
        index: (N,) int64, each sample's place in the source's own order.
        warnings: what the reader had to assume, one sentence each.
    """

    x: Tensor
    y: Tensor
    classes: list[str]
    name: str
    split: str
    index: Tensor
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found: labels at once, samples when asked for.

    Attributes:
        name: for reports.
        split: as in `Dataset`.
        y: (N,) int64 labels in the source's own order.
        classes: names in the order of the labels.
        read: row numbers, (n,) -> samples, (n, C, H, W) or (n, D) float32 in [0, 1].
        warnings: as in `Dataset`.
    """

    name: str
    split: str
    y: np.ndarray
    classes: list[str]
    read: Callable[[np.ndarray], np.ndarray]
    warnings: tuple[str, ...] = ()

    def warned(self, *warnings: str) -> Source:
        """The same source with more warnings."""
        return replace(self, warnings=(*self.warnings, *warnings))


SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "t10k"),
    "val": ("val", "valid", "validation", "dev"),
}
"""Split -> the names that it goes by."""


def split_named(name: str) -> str | None:
    """The split that `name` is one of the names of; None for none."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def chosen(split: str, found: Sequence[str], place: object) -> str:
    """The one of the splits `found` that is asked for.

    Raises:
        BadInput: it is not among them; they are listed.
    """
    wanted = split_named(split) or split
    if wanted not in found:
        raise BadInput(f"{place} has no split {split!r}; it has {', '.join(found) or 'none'}")
    return wanted


def unsplit(split: str, place: object) -> str:
    """The warning for a source without splits; the split asked for must at least be one that exists.

    Raises:
        BadInput: `split` is no split's name.
    """
    if split_named(split) is None and split != "all":
        raise BadInput(f"there is no split {split!r}; splits are {', '.join(SPLITS)}")
    return f"{place} has no splits: all of it was read, whatever split was asked for"
