"""Pace of a run: the number of rows of a stage that take some five seconds, which is the most that a kill loses.

    rows = 5 s / (passes per row * seconds per pass)

The seconds per pass are the least of all parts so far. Small parts overstate them, since each call has a fixed cost
that is shared by its rows; cutting a part because of that cost would save no time. Before the first part of a stage,
the passes per row are those of the last stage of its kind, whose name differs in numbers only, else many are assumed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_SECONDS = 5.0
"""Longest time that a part should take, in seconds."""
PASSES = 500
"""Passes per row that are assumed for a stage without a finished part."""


@dataclass
class Pace:
    """Seconds per pass, and passes per row by stage.

    Attributes:
        each: Least seconds per pass; infinite before the first part with passes.
        passes: Stage -> passes per row of its last part; NaN for a stage that does not count them.
        seconds: Stage -> seconds per row of its last part.
        kinds: Stage without its numbers -> the last stage of that kind.
    """

    each: float = math.inf
    passes: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)

    def record(self, stage: str, rows: int, facts: Mapping[str, float]) -> None:
        """Record the pace of a finished part.

        Args:
            stage: Name of the stage.
            rows: Number of rows of the part.
            facts: Its "forwards", "backwards" and "seconds".
        """
        passes, seconds = facts["forwards"] + facts["backwards"], facts["seconds"]
        if passes:
            self.each = min(self.each, seconds / passes)
        self.passes[stage] = passes / rows if passes else math.nan
        self.seconds[stage] = seconds / rows
        self.kinds[_kind(stage)] = stage

    def rows(self, stage: str, chunk: int) -> int:
        """Return the rows of the next part of a stage, at most `chunk` and at least 1."""
        stage = stage if stage in self.passes else self.kinds.get(_kind(stage), stage)
        passes = self.passes.get(stage, PASSES)
        each = self.seconds[stage] if math.isnan(passes) else passes * self.each
        return max(1, min(chunk, int(MAX_SECONDS / each))) if 0 < each < math.inf else chunk


def _kind(stage: str) -> str:
    """Return the name of a stage without its numbers: "cascade-0-apgd" and "cascade-1-apgd" are of one kind."""
    return re.sub(r"\d+", "", stage)
