"""Bars of attributes on the page of counterfactuals: before, wanted and achieved, in switches, on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.counterfactuals.records import AttributeFact, AttributeRow

WIDTH, HEIGHT, GAP = 320.0, 7.0, 9.0
"""Width of the drawing, height of a bar, and gap between attributes, in pixels."""
KINDS = ("before", "wanted", "achieved")


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        kind: "before", "wanted" or "achieved".
        x, y, width: Its place, in pixels.
    """

    kind: str
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class BarRow:
    """Bars of one attribute, and a sentence with their values."""

    name: str
    middle: float
    bars: list[Bar]
    text: str


@dataclass(frozen=True)
class Bars:
    """Drawing of an image's attributes.

    Attributes:
        rows: The attributes.
        width, height: Size in pixels.
        zero: Place of 0.
        ticks: Places and texts of the values at the ends and at 0.
    """

    rows: list[BarRow]
    width: float
    height: float
    zero: float
    ticks: list[tuple[float, str]]


def bars_of(lines: Sequence[tuple[AttributeRow, AttributeFact]]) -> Bars | None:
    """Place the bars of attributes.

    Args:
        lines: Attributes of one image, with the figures that hold for every image.

    Returns:
        The drawing. None: no attribute has a value that was asked for.
    """
    values = [(row, _in_switches(row, fact)) for row, fact in lines]
    shown = [(row, three) for row, three in values if len(three) == len(KINDS)]
    if not shown:
        return None
    ends = [v for _, three in shown for v in three]
    low, high = min(0.0, *ends), max(0.0, *ends)
    scale = WIDTH / (high - low or 1.0)
    step = len(KINDS) * HEIGHT + GAP
    rows = []
    for k, (row, three) in enumerate(shown):
        top = GAP / 2 + k * step
        bars = [
            Bar(kind, round((min(v, 0.0) - low) * scale, 2), round(top + n * HEIGHT, 2), round(abs(v) * scale, 2))
            for n, (kind, v) in enumerate(zip(KINDS, three, strict=True))
        ]
        words = ", ".join(f"{kind} {v:.2f}" for kind, v in zip(KINDS, three, strict=True))
        rows.append(BarRow(row.name, round(top + len(KINDS) * HEIGHT / 2, 2), bars, f"{row.name}: {words} switches"))
    far = [v for v in (low, high) if abs(v) * scale > WIDTH / 10]
    ticks = [(round((v - low) * scale, 2), f"{v:.1f}") for v in sorted([0.0, *far])]
    return Bars(rows, WIDTH, round(len(shown) * step, 2), round(-low * scale, 2), ticks)


def _in_switches(row: AttributeRow, fact: AttributeFact) -> list[float]:
    """Return the values before, wanted and achieved in switches; those that are defined."""
    given = (row.before, row.wanted, row.achieved)
    return [v / fact.switch for v in given if v is not None and fact.switch > 0 and math.isfinite(v)]
