"""Accuracy against eps as geometry: what a template needs to draw it as SVG, no drawing library involved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.core.threats import eps_text
from unfooled.drawing.plots import MARKERS, nice_step
from unfooled.evaluation.audit.records import CurvePoint
from unfooled.report.runs import Run
from unfooled.report.words import finite, parse_threat

LEFT, RIGHT, TOP, BOTTOM = 46, 24, 50, 50


@dataclass(frozen=True)
class Series:
    """One run's curve in pixels; `colour` and `marker` are what tells it from the others."""

    colour: int
    marker: str
    line: str
    band: str
    points: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Figure:
    """Axes and curves of one drawing; ticks are (pixel, text)."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    audited: list[tuple[float, str]]
    series: list[Series]


def eps_ticks(largest: float, of_255: bool, ticks: int) -> list[tuple[float, str]]:
    """Round radii from 0 to the largest, as (eps, text); in 255ths where the radii are written so."""
    unit = 255.0 if of_255 else 1.0
    step = nice_step(largest * unit, ticks)
    if of_255:
        step = max(1.0, step)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [k * step for k in range(math.floor(largest * unit / step * (1 + 1e-9)) + 1)]
    return [(v / unit, "0" if v == 0 else f"{v:g}/255" if of_255 else f"{v:,.{places}f}") for v in values]


def drawable(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The points that have a place on the axes, by radius."""
    kept = [p for p in points if finite(p.eps, p.accuracy.value, p.accuracy.low, p.accuracy.high)]
    return sorted(kept, key=lambda p: p.eps)


def figure(runs: Sequence[Run], *, width: int, height: int, ticks: int) -> Figure | None:
    """Lay out the curves of runs that share a norm; None where no run has two points.

    Args:
        runs: the runs to draw.
        width: of the drawing, pixels.
        height: of the drawing, pixels.
        ticks: at most this many steps on the eps axis.
    """
    curves = [drawable(r.summary.curve) for r in runs]
    if not any(len(c) > 1 for c in curves):
        return None
    known = [(r, parse_threat(r.summary.threat)[1]) for r in runs]
    audited = {eps: eps_text(eps) for _, eps in known if eps is not None and finite(eps)}
    largest = max([p.eps for c in curves for p in c] + list(audited))
    if largest <= 0:
        return None
    bottom, right = height - BOTTOM, width - RIGHT

    def px(eps: float) -> float:
        return round(LEFT + eps / largest * (right - LEFT), 1)

    def py(share: float) -> float:
        return round(bottom - share * (bottom - TOP), 1)

    def series(run: Run, points: Sequence[CurvePoint]) -> Series:
        low = [f"{px(p.eps)},{py(p.accuracy.low)}" for p in points]
        high = [f"{px(p.eps)},{py(p.accuracy.high)}" for p in points]
        value = [(px(p.eps), py(p.accuracy.value or 0.0), eps_text(p.eps)) for p in points]
        line = " ".join(f"{x},{y}" for x, y, _ in value)
        marker = MARKERS[run.place % len(MARKERS)]
        return Series(run.place % 4, marker, line, " ".join(low + high[::-1]), value)

    written = ["/255" in eps_text(p.eps) for c in curves for p in c if p.eps]
    of_255 = 2 * sum(written) > len(written)
    return Figure(
        width=width,
        height=height,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_ticks=[(px(eps), text) for eps, text in eps_ticks(largest, of_255, ticks)],
        y_ticks=[(py(k / 4), f"{25 * k}") for k in range(5)],
        audited=[(px(eps), text) for eps, text in audited.items()],
        series=[series(r, c) for r, c in zip(runs, curves, strict=True) if c],
    )
