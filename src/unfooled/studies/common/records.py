"""Records of a study: its page is a pure function of `summary.json`.

A study's folder holds

    config.json     settings (`runs.records.Config`); a second run with other settings is refused
    networks/       trained networks, one checkpoint each
    units/          finished units of work, one JSON file each
    summary.json    results (`StudySummary`)
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal, get_args

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from unfooled.core.errors import printable
from unfooled.drawing.figures import Picture
from unfooled.runs.records import Count, Environment, Record, Size

Outcome = Literal["holds", "fails", "undecided"]
Table = list[dict[str, Any]]
"""Rows of plain values, all with the same keys."""


class Claim(Record):
    """One claim, with the verdict of the study.

    Attributes:
        claim: A sentence that can be true or false.
        source: Citation of the claim, or "unfooled".
        verdict: "holds" or "fails"; "undecided" where the study cannot tell.
        value: Value of the statistic that decides it. None: nothing was measured.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        n: Number of samples, or of other units that were counted.
    """

    claim: str
    source: str
    verdict: Outcome
    value: float | None
    low: float | None
    high: float | None
    n: Count

    @model_validator(mode="after")
    def _possible(self) -> Claim:
        """Refuse an interval whose ends are exchanged."""
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the interval of a claim goes from {self.low:g} to {self.high:g}")
        return self


class StudySummary(Record):
    """The result of a study.

    Attributes:
        study: Name in the catalogue.
        title: Heading of the page.
        scale: "small", "medium" or "full"; "own" for a user's own sizes.
        seeds: Random seeds; every table and claim is over all of them.
        seconds: Seconds of all the units, those of earlier runs into the folder included.
        tables: Title -> rows.
        claims: Claims with their verdicts.
        notes: Limits of the figures, in sentences.
        answer: Answers to the question of the title, one sentence for each data set; the page begins with them.
        pictures: Pictures of the page, in their order.
        cpu_seconds: Processor seconds of the run. None: not measured.
        load: Load of the machine at the end of each start (average of five minutes). Empty: not measured.
    """

    schema_version: int = 1
    study: str
    title: str
    scale: str
    seeds: list[int]
    seconds: Size
    environment: Environment
    tables: dict[str, Table]
    claims: list[Claim]
    notes: list[str]
    answer: list[str] = Field(default_factory=list)
    pictures: list[Picture] = Field(default_factory=list)
    cpu_seconds: Size | None = None
    load: list[Size] = Field(default_factory=list)
    command: str
    created: str

    def __repr__(self) -> str:
        counts = ", ".join(f"{sum(c.verdict == v for c in self.claims)} {v}" for v in get_args(Outcome))
        return f"<Study {self.study}, {self.scale}, seeds {self.seeds}: {len(self.claims)} claims, {counts}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Show the claims as a small table in a notebook: no script, no style sheet, no request."""
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left">{escape(printable(c.claim))}</th><td>{c.verdict}</td>'
            f"<td>{'' if c.value is None else f'{c.value:.3g}'}</td>"
            f"<td>{'' if c.low is None or c.high is None else f'[{c.low:.3g}, {c.high:.3g}]'}</td><td>{c.n:,}</td></tr>"
            for c in self.claims
        )
        head = "".join(f'<th scope="col">{name}</th>' for name in ("Claim", "Here", "Figure", "95 % interval", "n"))
        caption = f'<caption style="text-align:left">{escape(printable(self.title))}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def listed(values: Tensor) -> list[float | None]:
    """Round numbers to the five digits that JSON files hold; NaN becomes None."""
    return [round(v, 5) if np.isfinite(v) else None for v in values.double().tolist()]


def array(values: Sequence[float | None]) -> np.ndarray:
    """Read what `listed` wrote; None becomes NaN."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)


def bits(values: Tensor) -> str:
    """Write (n,) booleans as "1" and "0"."""
    return "".join(str(int(v)) for v in values)
