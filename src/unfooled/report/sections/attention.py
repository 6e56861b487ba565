"""Attention to the label before and after the attack: overlays with arrows, completeness against distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unfooled.core.threats import eps_text
from unfooled.drawing.pictures import Array, Bytes, Encoding, Plate, colours, encode, photograph
from unfooled.evaluation.explanations.records import Attention, AttentionExample
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.curves import nice_step
from unfooled.report.sections.gallery import PIXELATED, Picture
from unfooled.report.words import number, parse_threat

EDGE = Encoding(128, False)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 430, 270, 64, 14, 14, 44
MOST = 400
"""Points that are drawn."""


@dataclass(frozen=True)
class Case:
    """One example: its numbers, its class, the pictures before and after, and whether the arrow is worth drawing."""

    example: AttentionExample
    label: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Mark:
    """A point of the scatter, in pixels; fooled ones are crosses."""

    x: float
    y: float
    fooled: bool
    tip: str


@dataclass(frozen=True)
class Looked:
    """One run's section.

    Attributes:
        marks: points of the scatter; none where there are fewer than three.
        x_ticks, y_ticks: (place, text). level: height of the audited radius, None where it lies outside.
        outside: points beyond the axes, drawn at the edge.
    """

    run: Run
    found: Attention
    cases: list[Case]
    marks: list[Mark]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    level: float | None
    outside: int
    box: tuple[int, int, int, int, int, int] = (WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM)


def enlarged(p: Array, size: tuple[int, int]) -> Array:
    """A map at the size of an image, bilinear, half-pixel: (h, w) -> (H, W)."""

    def along(values: Array, axis: int, wanted: int) -> Array:
        have = values.shape[axis]
        at = np.clip((np.arange(wanted) + 0.5) * have / wanted - 0.5, 0, have - 1)
        low = np.floor(at).astype(int)
        high, part = np.minimum(low + 1, have - 1), at - low
        shape = [1, 1]
        shape[axis] = wanted
        return np.take(values, low, axis) * (1 - part).reshape(shape) + np.take(values, high, axis) * part.reshape(
            shape
        )

    return along(along(p, 0, size[0]), 1, size[1])


def overlay(x: Array, p: Array, top: float) -> Bytes:
    """The image in grey under the map in colour, (H, W, 3); the stronger the attention, the less grey."""
    shown = photograph(x).pixels
    grey = shown.mean(-1) if shown.ndim == 3 else shown.astype(float)
    share = np.clip(enlarged(p, grey.shape[:2]) / top, 0, 1)
    colour = colours("sequential")[(255 * share).round().astype(int)].astype(float)
    weight = (0.85 * np.sqrt(share))[..., None]
    mixed: Bytes = ((1 - weight) * grey[..., None] + weight * colour).round().astype(np.uint8)
    return mixed


def looked(runs: Sequence[Run]) -> list[Looked]:
    """The sections of all runs that have a record of attention."""
    return [_one(run, run.summary.attention) for run in runs if run.summary.attention is not None]


def _one(run: Run, found: Attention) -> Looked:
    marks, x_ticks, y_ticks, level, outside = _scatter(run, found)
    return Looked(run, found, _cases(run, found), marks, x_ticks, y_ticks, level, outside)


def _cases(run: Run, found: Attention) -> list[Case]:
    cases = []
    for i, e in enumerate(found.gallery):
        x, x_adv, before, after = (run.attention[name][i] for name in ("x", "x_adv", "before", "after"))
        if x.ndim != 3:
            return []
        before, after = np.nan_to_num(before), np.nan_to_num(after)
        top = float(max(before.max(), after.max())) or 1.0
        label = class_name(run.summary.classes, e.label)
        pictures = []
        for caption, image, p in (("Before", x, before), ("After", x_adv, after)):
            src, width, height = encode(Plate(overlay(np.nan_to_num(image), p, top)), EDGE)
            alt = f"Attention to {label} in sample {e.index}, {caption.lower()} the attack"
            pictures.append(Picture(caption, alt, src, width, height, max(width, height) <= PIXELATED))
        cases.append(Case(e, label, pictures))
    return cases


def _scatter(
    run: Run, found: Attention
) -> tuple[list[Mark], list[tuple[float, str]], list[tuple[float, str]], float | None, int]:
    points = found.points[:MOST]
    if len(points) < 3:
        return [], [], [], None, 0
    complete, distance = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    low, high = min(0.0, float(np.quantile(complete, 0.02))), max(1.0, float(np.quantile(complete, 0.98)))
    low, high = max(low, -1.0), min(high, 2.0)  # a ratio: single values may lie anywhere
    radius = parse_threat(run.summary.threat)[1]
    farthest = float(np.quantile(distance, 0.98)) or 1.0
    tall = 1.05 * max(farthest, min(radius, 4 * farthest) if radius else 0.0)

    def px(value: float) -> float:
        return round(LEFT + (min(max(value, low), high) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def py(value: float) -> float:
        return round(HEIGHT - BOTTOM - min(value, tall) / tall * (HEIGHT - TOP - BOTTOM), 1)

    marks = [
        Mark(px(c), py(d), fell, f"completeness {number(c)}, distance {number(d)}, {'fooled' if fell else 'held'}")
        for c, d, fell in points
    ]
    outside = int(((complete < low) | (complete > high) | (distance > tall)).sum())
    across, up = nice_step(high - low, 5), nice_step(tall, 6)
    x_ticks = [
        (px(k * across), f"{k * across:g}") for k in range(math.ceil(low / across), math.floor(high / across) + 1)
    ]
    y_ticks = [(py(k * up), f"{k * up:.3g}") for k in range(math.floor(tall / up) + 1)]
    return marks, x_ticks, y_ticks, py(radius) if radius and radius <= tall else None, outside


def told(one: Looked) -> str:
    """What the scatter says, in a sentence."""
    m = one.found.correlation
    if m.value is None or m.low is None or m.high is None:
        return "Too few samples have both figures for a correlation."
    what = (
        "no correlation is shown"
        if m.low <= 0 <= m.high
        else "the more complete, the " + ("farther" if m.value > 0 else "nearer")
    )
    return (
        f"Spearman's correlation of completeness and distance: {m.value:.2f} [{m.low:.2f}, {m.high:.2f}], n = {m.n}: "
        f"{what}. It holds nothing fixed, the margin least of all."
    )


def radius_text(one: Looked) -> str:
    """The audited radius, for the label of its line."""
    radius = parse_threat(one.run.summary.threat)[1]
    return "" if radius is None else eps_text(radius)
