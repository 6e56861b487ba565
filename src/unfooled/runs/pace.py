"""Pace of a run: how many rows of a stage take some five seconds, so that a kill loses no more of a slow model.

    rows = 5 s / (passes per row * seconds per pass)

The seconds per pass are the least of all parts so far, those of the largest batch: where calls rather than rows take
the time, fewer rows would save none. Before the first part of a stage its passes are assumed to be many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

LONGEST = 5.0
"""Seconds that a part should take at most."""
PASSES = 500
"""Passes per row that are assumed of a stage without a finished part."""


@dataclass
class Pace:
    """Seconds per pass, and passes per row by stage.

    Attributes:
        each: Least seconds per pass; infinite before the first part with passes.
        passes: Stage -> passes per row of its last part; NaN for a stage that does not count them.
        seconds: Stage -> seconds per row of its last part.
    """

    each: float = math.inf
    passes: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, stage: str, rows: int, facts: Mapping[str, float]) -> None:
        """Learn from a finished part of some rows, with its passes and seconds."""
        passes, seconds = facts["forwards"] + facts["backwards"], facts["seconds"]
        if passes:
            self.each = min(self.each, seconds / passes)
        self.passes[stage] = passes / rows if passes else math.nan
        self.seconds[stage] = seconds / rows

    def rows(self, stage: str, chunk: int) -> int:
        """Return the rows of the next part of a stage, at most `chunk` and at least 1."""
        passes = self.passes.get(stage, PASSES)
        each = self.seconds[stage] if math.isnan(passes) else passes * self.each
        return max(1, min(chunk, int(LONGEST / each))) if 0 < each < math.inf else chunk
