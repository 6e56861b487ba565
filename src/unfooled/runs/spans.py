"""Spans of rows that are known, and those that are missing, in a time that hardly grows with their number."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

Span = tuple[int, int]
"""Rows [a, b)."""


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
