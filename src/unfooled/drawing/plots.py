"""Plots as geometry: a layout of two axes and the shapes on them, without a drawing library.

    pixel = start + share (end - start),   share = (v - low) / (high - low)   or   log(v / low) / log(high / low)

Values beyond the ends of an axis are drawn at its edge. The page's template turns a `Plot` into SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Tick = tuple[float, str]

MARKERS = ("circle", "square", "triangle", "diamond")
COLOURS = 4  # s0 to s3 of the theme
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 34, 50  # margins around the frame, pixels
ROW_HEIGHT = 16  # height of a row of labels above the frame, pixels
LETTER_WIDTH = 6.9  # width of a character of a label, pixels
BOLD_LETTER_WIDTH = 7.2  # width of a bold character, pixels


@dataclass(frozen=True)
class Size:
    """Size of a drawing.

    Attributes:
        name: CSS class that selects the screens: "wide", "narrow", or "single" for all.
        width: Width in pixels.
        height: Height in pixels.
        ticks: Largest number of steps on the horizontal axis.
    """

    name: str
    width: int
    height: int
    ticks: int


@dataclass(frozen=True)
class Axis:
    """One axis: its name, the values at its ends, its ticks as (value, text), and whether its scale is logarithmic."""

    name: str
    low: float
    high: float
    ticks: Sequence[Tick] = ()
    log: bool = False

    def share(self, value: float) -> float:
        """Return the position of a value along the axis, from 0 to 1."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Dot:
    """A point, in pixels, with its tooltip."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class Label:
    """A text in the drawing; `anchor` is the part of the text at x: "" (its start), "mid" or "end"."""

    x: float
    y: float
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Trace:
    """A run's line, in pixels.

    Attributes:
        place: Index of the run, which determines colour and marker.
        line: Points of the line, as SVG text.
        band: Points of the polygon of the interval around the line, as SVG text; empty for none.
        dots: Marked points.
        dash: "", "dashed" or "dotted".
    """

    place: int
    line: str
    band: str = ""
    dots: Sequence[Dot] = ()
    dash: str = ""


@dataclass(frozen=True)
class Level:
    """Horizontal line of a run's value and band of its interval over the whole width, in pixels."""

    place: int
    y: float
    high: float
    low: float
    label: Label


@dataclass(frozen=True)
class Cloud:
    """Points without a line; `style` is the CSS class that draws them, `marker` their shape ("cross" or "ring")."""

    style: str
    marker: str
    dots: Sequence[Dot]


@dataclass(frozen=True)
class Axes:
    """Two axes around a frame in a drawing, which convert values to pixels, rounded to tenths.

    Attributes:
        x: Horizontal axis.
        y: Vertical axis.
        width: Width of the drawing, pixels.
        height: Height of the drawing, pixels.
        left: Left edge of the frame, pixels; likewise `right`, `top` and `bottom`.
        marks: Labels of vertical lines, above the frame at the x of the line.
    """

    x: Axis
    y: Axis
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    marks: Sequence[Label] = ()

    @classmethod
    def of(cls, size: Size, x: Axis, y: Axis, marks: Mapping[float, str] | None = None) -> Axes:
        """Lay out two axes.

        Args:
            size: Size of the drawing.
            x: Horizontal axis.
            y: Vertical axis.
            marks: Value of x -> text of a vertical line; overlapping texts are put in rows above each other.
        """
        left, right = LEFT, size.width - RIGHT
        labels = []
        for value, text in (marks or {}).items():
            at = round(left + x.share(value) * (right - left), 1)
            labels.append(Label(at, 0, text, "end" if at > (left + right) / 2 else ""))
        rows = _rows(labels)
        top = TOP + ROW_HEIGHT * len(rows)
        stacked = [replace(one, y=top - 12 - ROW_HEIGHT * k) for k, row in enumerate(rows) for one in row]
        return cls(x, y, size.width, size.height, left, right, top, size.height - BOTTOM, stacked)

    def px(self, value: float) -> float:
        """Return the horizontal position of a value, in pixels."""
        return round(self.left + self.x.share(value) * (self.right - self.left), 1)

    def py(self, value: float) -> float:
        """Return the vertical position of a value, in pixels."""
        return round(self.bottom - self.y.share(value) * (self.bottom - self.top), 1)

    @property
    def x_ticks(self) -> list[Tick]:
        """Ticks of the horizontal axis as (pixel, text)."""
        return [(self.px(value), text) for value, text in self.x.ticks]

    @property
    def y_ticks(self) -> list[Tick]:
        """Ticks of the vertical axis as (pixel, text)."""
        return [(self.py(value), text) for value, text in self.y.ticks]

    def line(self, points: Iterable[Point]) -> str:
        """Convert points to pixels, as SVG text."""
        return " ".join(f"{self.px(x)},{self.py(y)}" for x, y in points)

    def band(self, spans: Sequence[tuple[float, float, float]]) -> str:
        """Return the polygon around (x, low, high), as SVG text."""
        return self.line([(x, high) for x, _, high in spans] + [(x, low) for x, low, _ in reversed(spans)])

    def dot(self, x: float, y: float, tip: str) -> Dot:
        """Return the dot at two values."""
        return Dot(self.px(x), self.py(y), tip)

    def reference(self, value: float, text: str) -> Label:
        """Return the label of a horizontal line at a value."""
        return Label(self.left + 6, self.py(value), text)

    def level(self, place: int, span: tuple[float, float, float], text: str, others: Sequence[Level] = ()) -> Level:
        """Return the level of a (value, low, high); its text is placed left of those of close `others`."""
        y, low, high = (self.py(value) for value in span)
        label_width = sum(
            BOLD_LETTER_WIDTH * len(other.label.text) + 12 for other in others if abs(other.y - y) < ROW_HEIGHT
        )
        return Level(place, y, high, low, Label(self.right - 4 - round(label_width, 1), y + 15, text, "end"))


@dataclass(frozen=True)
class Plot:
    """Axes and the shapes on them; `references` are labels of horizontal lines over the whole width."""

    axes: Axes
    traces: Sequence[Trace] = ()
    clouds: Sequence[Cloud] = ()
    levels: Sequence[Level] = ()
    labels: Sequence[Label] = ()
    references: Sequence[Label] = ()


Drawings = list[tuple[str, Plot]]
"""A plot in several sizes, as (name of the size, plot)."""


def drawings(sizes: Sequence[Size], draw: Callable[[Size], Plot | None]) -> Drawings:
    """Draw a plot in each size; the list is empty where `draw` returns None."""
    return [(size.name, plot) for size in sizes if (plot := draw(size)) is not None]


def colour_of(place: int) -> int:
    """Return the number of a run's colour."""
    return place % COLOURS


def marker_of(place: int) -> str:
    """Return a run's marker."""
    return MARKERS[place % len(MARKERS)]


def stairs(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a step curve through the points: horizontal, then vertical."""
    corners = list(points[:1])
    for (_, before), (x, y) in pairwise(points):
        corners += [(x, before), (x, y)]
    return corners


def nice_step(span: float, ticks: int) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that needs at most `ticks` steps over the span."""
    rough = span / ticks
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= rough * (1 - 1e-9))


def linear_ticks(low: float, high: float, ticks: int) -> list[Tick]:
    """Return round values between two, as (value, text); 0 has no decimals."""
    step = nice_step(high - low, ticks)
    return [(v, f"{v:,.{_places(step)}f}".replace("-", "\u2212") if v else "0") for v in _multiples(step, low, high)]


def share_ticks(low: float, high: float, ticks: int) -> list[Tick]:
    """Return round shares between two and within [0, 1], as (share, percent)."""
    step = nice_step(100 * (high - low), ticks)
    values = _multiples(step, 100 * max(low, 0), 100 * min(high, 1))
    return [(v / 100, f"{v:.{_places(step)}f}") for v in values]


def radius_ticks(largest: float, ticks: int, *, in_255ths: bool) -> list[Tick]:
    """Return round radii from 0 to the largest, as (eps, text); as 4/255 with `in_255ths`."""
    if not in_255ths:
        return linear_ticks(0.0, largest, ticks)
    step = max(1.0, nice_step(255 * largest, ticks))
    return [(v / 255, f"{v:g}/255" if v else "0") for v in _multiples(step, 0.0, 255 * largest)]


def log_ticks(low: float, high: float) -> list[Tick]:
    """Return 1, 2, 5 times the powers of ten between two positive numbers, as (value, text)."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [k * 10.0**p for p in powers for k in (1, 2, 5)]
    return [(v, f"{v:,.10g}") for v in values if low <= v <= high]


def _places(step: float) -> int:
    """Return the number of decimals that distinguishes multiples of a step."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def _multiples(step: float, low: float, high: float) -> list[float]:
    """Return the multiples of a step between two numbers, both included."""
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def extent(label: Label) -> Box:
    """Return the approximate left, top, right and bottom of a label."""
    width = LETTER_WIDTH * len(label.text)
    left = label.x - {"": 0.0, "mid": width / 2, "end": width}[label.anchor]
    return left, label.y - 12, left + width, label.y + 3


def _overlap(a: Box, b: Box) -> bool:
    """Return whether two boxes overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rows(labels: Sequence[Label]) -> list[list[Label]]:
    """Sort labels into rows without overlaps."""
    rows: list[list[Label]] = []
    for label in labels:
        for row in rows:
            if not any(_overlap(extent(label), extent(other)) for other in row):
                break
        else:
            rows.append(row := [])
        row.append(label)
    return rows


def place_labels(dots: Sequence[tuple[Dot, str]], occupied: Sequence[Label], frame: Box) -> list[Label]:
    """Place labels beside dots, where there is room: to the upper right, to the lower left, or below.

    Args:
        dots: (dot, text), the most important first.
        occupied: Labels already placed.
        frame: Left, top, right and bottom of the available area.
    """
    boxes = [extent(label) for label in occupied]
    around = [(dot.x - 5, dot.y - 5, dot.x + 5, dot.y + 5) for dot, _ in dots]
    labels = []
    for dot, text in dots:
        for dx, dy, anchor in ((7, -8, ""), (-7, 18, "end"), (0, 20, "mid")):
            label = Label(round(dot.x + dx, 1), round(dot.y + dy, 1), text, anchor)
            box = extent(label)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in (*boxes, *around)):
                boxes.append(box)
                labels.append(label)
                break
    return labels
