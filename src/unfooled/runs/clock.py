"""Wall time of resumable work, over all of its starts."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field

from unfooled.core.errors import BadInput
from unfooled.runs.store import Store

FOLDER = "starts"


@dataclass
class Clock:
    """Wall time of the starts that did some of the work; a start that is killed counts up to its last chunk.

    Args:
        store: Store of the work. None: work in memory.

    Attributes:
        begun: Time at which this start began.
        ended: Time up to which it did work. None: it did none.
    """

    store: Store | None
    begun: float = field(default_factory=time.time)
    ended: float | None = None
    name: str = field(default_factory=lambda: f"{FOLDER}/{secrets.token_hex(8)}.json")

    def note_progress(self) -> None:
        """Note that a piece of the work is done."""
        self.ended = time.time()
        if self.store is not None:
            self.store.write_whole(self.name, json.dumps([self.begun, self.ended]).encode())

    def seconds(self) -> float:
        """Return the seconds in which at least one start was at work; this one up to now, if it did some work."""
        spans = self._earlier()
        if self.ended is not None or not spans:
            spans.append((self.begun, time.time()))
        total, end = 0.0, 0.0
        for a, b in sorted(spans):
            total += max(0.0, b - max(a, end))
            end = max(end, b)
        return total

    def _earlier(self) -> list[tuple[float, float]]:
        """Return the times of other starts; files that are damaged are left out."""
        spans = []
        for name in [] if self.store is None else self.store.list(FOLDER):
            if name == self.name:
                continue
            try:
                a, b = json.loads((self.store.read(name) if self.store else None) or b"")
                spans.append((float(a), float(b)))
            except (BadInput, ValueError, TypeError, RecursionError):
                continue
        return [(a, b) for a, b in spans if 0 < a <= b]
