"""Confusion under attack: a heat table for few classes, the most frequent confusions for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.evaluation.audit.records import Summary

MAX_CLASSES = 20  # classes that fit a table on a page
MAX_PAIRS = 20


@dataclass(frozen=True)
class Cell:
    """A count; its share of the row, which sets the shade of the cell; `right` where it counts correct labels."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Pair:
    """The samples of class `true` that were taken for `predicted`, and their share of the class."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Confusion under attack of one run.

    Attributes:
        names: Names of the classes.
        rows: (class, cells, count of the class); empty for more than 20 classes.
        pairs: The most frequent confusions.
        kinds: Number of pairs of classes that are confused.
        total: Samples counted.
        long: True if a class has a long name.
    """

    names: list[str]
    rows: list[tuple[str, list[Cell], int]]
    pairs: list[Pair]
    kinds: int
    total: int
    long: bool


def class_name(classes: Sequence[str], k: int) -> str:
    """Return the name of class k, or its number."""
    return classes[k] if 0 <= k < len(classes) and classes[k] else str(k)


def _table(s: Summary) -> list[list[int]]:
    """Return the confusion matrix, built from its recorded entries."""
    size = max([len(s.classes), *(1 + max(t, p) for t, p, _ in s.confusion_entries)]) if s.confusion_entries else 0
    table = [[0] * size for _ in range(size)]
    for t, p, count in s.confusion_entries:
        table[t][p] = count
    return table


def confusion(s: Summary) -> Confusion | None:
    """Arrange the counts, rows true, columns as classified under attack; None where there are none."""
    matrix = s.confusion or _table(s)
    total = sum(map(sum, matrix))
    if not total:
        return None
    names = [class_name(s.classes, k) for k in range(max(len(matrix), *map(len, matrix)))]
    sums = [sum(row) for row in matrix]
    wrong = [
        Pair(names[t], names[p], count, count / sums[t])
        for t, row in enumerate(matrix)
        for p, count in enumerate(row)
        if p != t and count
    ]
    wrong.sort(key=lambda pair: -pair.count)
    rows = []
    if len(names) <= MAX_CLASSES:
        rows = [
            (names[t], [Cell(count, count / max(1, sums[t]), p == t) for p, count in enumerate(row)], sums[t])
            for t, row in enumerate(matrix)
        ]
    long = any(len(name) > 4 for name in names)
    return Confusion(names, rows, wrong[:MAX_PAIRS], len(wrong), total, long)
