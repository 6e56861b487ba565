"""Plain values of a page or figure of explanations: what is drawn, without how it was computed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unfooled.explanations.lime.findings import Flag
from unfooled.explanations.lime.rounding import ROUNDING

Cell = tuple[str, str, str, int]
"""Column of a row, its value, its bin (empty where it equals the value), and its feature's number (-1: none)."""
Mark = tuple[int, int, int]
"""Place of a piece of a text, and its feature's number: (start, end, feature)."""


def weight_text(weight: float, largest: float) -> str:
    """Return a weight as text; "0" for a rounding error of the largest |weight|."""
    return f"{weight:+.3g}" if abs(weight) > ROUNDING * abs(largest) else "0"


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with the weight of each pixel's segment."""

    x: Tensor
    weights: Tensor
    segments: Tensor


@dataclass(frozen=True)
class MarkedText:
    """A text whose pieces have weights."""

    text: str
    marks: tuple[Mark, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table; the weights are those of the features."""

    cells: tuple[Cell, ...]
    weights: tuple[float, ...]


Content = Picture | MarkedText | Row


@dataclass(frozen=True)
class Bar:
    """A feature with its weight and standard error."""

    name: str
    weight: float
    se: float


@dataclass(frozen=True)
class Chart:
    """Leading weights of one class, largest |weight| first, and how well the surrogate fits.

    Attributes:
        title: Heading.
        bars: Features.
        r2: R2 of the samples used.
        held_out: R2 of samples left out.
        local: Answer of the surrogate for the input.
        answer: Answer of the model.
    """

    title: str
    bars: tuple[Bar, ...]
    r2: float
    held_out: float
    local: float
    answer: float


@dataclass(frozen=True)
class Sample:
    """One explanation.

    Attributes:
        heading: Heading, such as the predicted class.
        charts: One per class explained.
        contents: What was explained, one for each part.
        features: Number of features.
        ess: Effective sample size.
        flags: Findings.
        outputs: Names and values of the outputs. None: not known.
        between: Least answer seen, the answer, and the largest. None: a classifier.
        stability: Soft stability, as (value, low, high). None: not known.
        measured_by: Call that measures it.
    """

    heading: str
    charts: tuple[Chart, ...]
    contents: tuple[Content, ...]
    features: int
    ess: float
    flags: tuple[Flag, ...]
    outputs: tuple[tuple[str, float], ...] | None = None
    between: tuple[float, float, float] | None = None
    stability: tuple[float, float, float] | None = None
    measured_by: str = ""


@dataclass(frozen=True)
class Page:
    """Explanations of one call.

    Attributes:
        kind: Word for what was explained, such as "text".
        samples: Explanations that are drawn.
        count: Number of explanations of the call.
        method: How they were computed, as a sentence.
    """

    kind: str
    samples: tuple[Sample, ...]
    count: int
    method: str
