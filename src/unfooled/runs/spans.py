"""Spans of rows that are known, and those that are missing, in a time that hardly grows with their number."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Span = tuple[int, int]
"""Rows [a, b)."""


def even_rows(n: int, chunk: int) -> int:
    """Return the rows per part that divide n rows evenly: into two parts up to `chunk` rows, else into a multiple of 4.

    So 2 and 4 processes of one speed end a stage at the same time, whatever the number of its rows.

    Example:
        >>> [even_rows(n, 25) for n in (0, 1, 11, 29, 100, 185)]
        [1, 1, 6, 8, 25, 24]
    """
    count = 2 if n <= chunk else 4 * math.ceil(n / (4 * chunk))
    return max(1, math.ceil(n / count))


def even_end(a: int, n: int, chunk: int, most: int) -> int:
    """Return the row after the last one of a part that begins at row a, of at most `most` rows.

    Where that is less than `even_rows`, each of those parts is divided evenly itself.

    Example:
        >>> [even_end(a, 100, 25, 17) for a in (0, 13, 25, 75)]
        [13, 25, 38, 88]
    """
    rows = even_rows(n, chunk)
    part = math.ceil(rows / math.ceil(rows / most))
    return min(n, a + part, (a // rows + 1) * rows)


@dataclass
class Cover:
    """Spans of some rows that do not overlap.

    Args:
        n: Number of rows.

    Attributes:
        part: Rows that are to be covered.
        spans: Spans in order.
        done: Number of rows in them.
    """

    n: int
    part: Span = field(init=False)
    spans: list[Span] = field(default_factory=list, init=False)
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.restrict((0, self.n))

    def restrict(self, part: Span) -> None:
        """Cover these rows only."""
        # No row between the first of the part and `_front` is missing, nor in the first `_passed` spans.
        self.part, self._front, self._passed = part, part[0], 0

    def renew(self, known: Iterable[Span]) -> None:
        """Take over known spans, which may overlap: of those with the same start, the longest."""
        end, self.spans = 0, []
        for a, b in sorted(known, key=lambda span: (span[0], -span[1])):
            if a >= end:
                self.spans.append((a, b))
                end = b
        self.done = sum(b - a for a, b in self.spans)
        self.restrict(self.part)

    def add(self, span: Span) -> None:
        """Add a span of missing rows."""
        insort(self.spans, span)
        self.done += span[1] - span[0]

    @property
    def incomplete(self) -> bool:
        """True while rows of the part are missing."""
        return next(self.missing(max(1, self.n)), None) is not None

    def missing(self, chunk: int, *, claimed: Iterable[Span] = ()) -> Iterator[Span]:
        """Yield the spans of the part that are neither known nor claimed, divided into chunks."""
        known, end = self.spans, self.part[1]
        while self._passed < len(known) and known[self._passed][0] <= self._front:
            self._front = max(self._front, known[self._passed][1])
            self._passed += 1
        start = self._front
        for a, b in sorted([*known[self._passed :], *claimed, (end, end)]):
            a = min(a, end)
            yield from ((low, min(low + chunk, a)) for low in range(start, a, chunk))
            start = max(start, b)
