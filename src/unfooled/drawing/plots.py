"""Lines over two axes as geometry, for figures whose axes are chosen to show something: no drawing library involved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

MARKERS = ("circle", "square", "triangle", "diamond")
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 34, 50
Box = tuple[float, float, float, float]
LETTER = 6.9  # width of a character of a label, pixels


@dataclass(frozen=True)
class Dot:
    """A point with the words that are shown when the pointer rests on it."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class Label:
    """A text in the drawing; `anchor` is "", "mid" or "end"."""

    x: float
    y: float
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Trace:
    """One run: a line, a band around it (as points of a polygon), dots; `dash` is "", "dashed" or "dotted"."""

    place: int
    line: str
    band: str = ""
    dots: list[Dot] = field(default_factory=list)
    dash: str = ""

    @property
    def colour(self) -> int:
        """Which of the runs' colours."""
        return self.place % 4

    @property
    def marker(self) -> str:
        """Which of the runs' markers."""
        return MARKERS[self.place % len(MARKERS)]


@dataclass(frozen=True)
class Level:
    """A value with its interval over the whole width: pixels."""

    place: int
    y: float
    high: float
    low: float
    label: Label

    @property
    def colour(self) -> int:
        """Which of the runs' colours."""
        return self.place % 4


@dataclass(frozen=True)
class Plot:
    """Axes and what stands on them; ticks are (pixel, text), `lows` are named levels over the whole width."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_name: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    traces: list[Trace]
    levels: list[Level] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    marks: list[Label] = field(default_factory=list)
    y_name: str = "accuracy, %"
    lows: list[Label] = field(default_factory=list)


def nice_step(span: float, ticks: int) -> float:
    """The smallest of 1, 2, 5 times a power of ten that needs at most `ticks` steps over the span."""
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))


def share_ticks(low: float, high: float, ticks: int) -> list[tuple[float, str]]:
    """Round shares between two, as (share, percent)."""
    step = nice_step(100 * (high - low), ticks)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(100 * max(low, 0) / step - 1e-9), math.floor(100 * min(high, 1) / step + 1e-9)
    return [(k * step / 100, f"{k * step:.{places}f}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """1, 2, 5 times the powers of ten between two positive numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [k * 10.0**p for p in powers for k in (1, 2, 5)]
    return [(v, f"{v:,.10g}") for v in values if low <= v <= high]


def extent(label: Label) -> Box:
    """Left, top, right and bottom of a label, roughly."""
    wide = LETTER * len(label.text)
    left = label.x - {"": 0.0, "mid": wide / 2, "end": wide}[label.anchor]
    return left, label.y - 12, left + wide, label.y + 3


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def placed(dots: Sequence[tuple[Dot, str]], taken: Sequence[Label], frame: Box) -> list[Label]:
    """Labels beside dots, as many as find room: to the upper right, to the lower left, or below.

    Args:
        dots: (dot, text), the most important first.
        taken: labels that stand already.
        frame: left, top, right and bottom of the room.
    """
    boxes = [extent(label) for label in taken]
    around = [(dot.x - 5, dot.y - 5, dot.x + 5, dot.y + 5) for dot, _ in dots]
    found = []
    for dot, text in dots:
        for dx, dy, anchor in ((7, -8, ""), (-7, 18, "end"), (0, 20, "mid")):
            label = Label(round(dot.x + dx, 1), round(dot.y + dy, 1), text, anchor)
            box = extent(label)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_meet(box, other) for other in (*boxes, *around)):
                boxes.append(box)
                found.append(label)
                break
    return found
