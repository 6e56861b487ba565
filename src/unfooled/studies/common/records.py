"""What a study leaves behind, as pydantic records: its page is a pure function of `summary.json`.

A study's folder holds

    config.json     what was asked (`evaluation.records.Config`); a second start with another one is refused
    networks/       what was trained, one checkpoint each
    units/          the work done so far, one whole JSON file a unit
    summary.json    what was found (`StudySummary`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from unfooled.drawing.figures import Picture
from unfooled.runs.records import Environment, Record

Outcome = Literal["holds", "fails", "undecided"]


class Claim(Record):
    """One claim of the source, and what this study says of it.

    Attributes:
        claim: a sentence that can be true or false.
        source: who makes it: a citation, or "unfooled".
        verdict: whether it holds here; "undecided" where the study cannot tell.
        value, low, high: the figure that decides, with its 95 % interval; None where nothing was measured.
        n: what was counted.
    """

    claim: str
    source: str
    verdict: Outcome
    value: float | None
    low: float | None
    high: float | None
    n: int


class StudySummary(Record):
    """What a study found.

    Attributes:
        study, title: its name in the catalogue, and its heading.
        scale: small, medium or full.
        seeds: every table and claim is over all of them.
        seconds: of all the units, those of earlier starts included.
        tables: name -> rows of plain values, all rows of a table with the same keys.
        claims: one for each claim of the source that the study answers.
        notes: what the figures do not say, in sentences.
    """

    schema_version: int = 1
    study: str
    title: str
    scale: str
    seeds: list[int]
    seconds: float
    environment: Environment
    tables: dict[str, list[dict[str, Any]]]
    claims: list[Claim]
    notes: list[str]
    pictures: list[Picture] = Field(default_factory=list)
    command: str
    created: str


def listed(values: Tensor) -> list[float | None]:
    """Numbers as JSON holds them: five digits, None for NaN."""
    return [round(v, 5) if np.isfinite(v) else None for v in values.double().tolist()]


def array(values: Sequence[float | None]) -> np.ndarray:
    """The reverse: None as NaN."""
    return np.array([np.nan if v is None else v for v in values], dtype=float)
