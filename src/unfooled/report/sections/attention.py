"""Attention to the label before and after the attack: overlays with arrows, completeness against distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from unfooled.drawing.pictures import Array, Bytes, Encoding, Plate, colours, photograph, without_level
from unfooled.drawing.plots import Axes, Axis, Cloud, Drawings, Plot, Size, drawings, linear_ticks
from unfooled.evaluation.explanations.records import Attention, AttentionExample
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.curves import audited_radii, norm_of
from unfooled.report.sections.gallery import Picture, encoded
from unfooled.report.words import number

CASE_ENCODING = Encoding(128, False)
MAX_POINTS = 400  # points drawn at most
MIN_POINTS = 3  # points below which there is no scatter plot
TICKS = 6  # steps on the axis of distances

Sample = tuple[float, float, bool]
"""(completeness, distance of the nearest adversarial example, fooled)."""


@dataclass(frozen=True)
class Case:
    """One example: its numbers, its class, the pictures before and after."""

    example: AttentionExample
    label: str
    pictures: list[Picture]


@dataclass(frozen=True)
class AttentionSection:
    """Attention section of one run.

    Attributes:
        run: Run that is shown.
        record: Record of attention of the run.
        cases: Examples of the gallery.
        figures: Scatter plots by size; none where there are fewer than three points.
        outside: Points beyond the axes, drawn at the edge.
    """

    run: Run
    record: Attention
    cases: list[Case]
    figures: Drawings
    outside: int


def enlarged(p: Array, size: tuple[int, int]) -> Array:
    """Enlarge a map to the size of an image, bilinear, half-pixel: (h, w) -> (H, W)."""

    def along(values: Array, axis: int, length: int) -> Array:
        before = values.shape[axis]
        at = np.clip((np.arange(length) + 0.5) * before / length - 0.5, 0, before - 1)
        low = np.floor(at).astype(int)
        high, fraction = np.minimum(low + 1, before - 1), at - low
        shape = [1, 1]
        shape[axis] = length
        fraction = fraction.reshape(shape)
        return np.take(values, low, axis) * (1 - fraction) + np.take(values, high, axis) * fraction

    return along(along(p, 0, size[0]), 1, size[1])


def overlay(x: Array, p: Array, top: float) -> Bytes:
    """Lay the map in colour over the image in grey, (H, W, 3); the stronger the attention, the less grey."""
    pixels = photograph(x).pixels
    grey = pixels.mean(-1) if pixels.ndim == 3 else pixels.astype(float)
    share = np.clip(enlarged(p, grey.shape[:2]) / top, 0, 1)
    colour = colours("sequential")[(255 * share).round().astype(int)].astype(float)
    weight = (0.85 * np.sqrt(share))[..., None]
    mixed: Bytes = ((1 - weight) * grey[..., None] + weight * colour).round().astype(np.uint8)
    return mixed


def attention_sections(runs: Sequence[Run], sizes: Sequence[Size]) -> list[AttentionSection]:
    """Return the sections of all runs that have a record of attention.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    return [_section(run, run.summary.attention, sizes) for run in runs if run.summary.attention is not None]


def _section(run: Run, record: Attention, sizes: Sequence[Size]) -> AttentionSection:
    points = record.points[:MAX_POINTS]
    if len(points) < MIN_POINTS:
        return AttentionSection(run, record, _cases(run, record), [], 0)
    x, y = _axes(run, points)
    outside = sum(not (x.low <= complete <= x.high and distance <= y.high) for complete, distance, _ in points)
    return AttentionSection(
        run, record, _cases(run, record), drawings(sizes, partial(_scatter, run, points, x, y)), outside
    )


def _cases(run: Run, record: Attention) -> list[Case]:
    cases = []
    for i, e in enumerate(record.gallery):
        x, x_adv, before, after = (run.attention[name][i] for name in ("x", "x_adv", "before", "after"))
        if x.ndim != 3:
            return []
        before, after = (without_level(np.nan_to_num(p)) for p in (before, after))
        top = float(max(before.max(), after.max())) or 1.0
        label = class_name(run.summary.classes, e.label)
        pictures = []
        for caption, image, p in (("Before", x, before), ("After", x_adv, after)):
            alt = f"Attention to {label} in sample {e.index}, {caption.lower()} the attack"
            pictures.append(encoded(Plate(overlay(np.nan_to_num(image), p, top)), caption, alt, CASE_ENCODING))
        cases.append(Case(e, label, pictures))
    return cases


def _axes(run: Run, points: Sequence[Sample]) -> tuple[Axis, Axis]:
    """Return the axes of completeness and of distance, which hold 96 and 98 % of the points."""
    complete, distance = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    low, high = min(0.0, float(np.quantile(complete, 0.02))), max(1.0, float(np.quantile(complete, 0.98)))
    low, high = max(low, -1.0), min(high, 2.0)  # a ratio: single values may lie anywhere
    farthest = float(np.quantile(distance, 0.98)) or 1.0
    radius = max(audited_radii([run], norm_of(run)), default=0.0)
    top = 1.05 * max(farthest, min(radius, 4 * farthest))
    return (
        Axis("completeness of attention", low, high, linear_ticks(low, high, 5)),
        Axis("distance", 0.0, top, linear_ticks(0.0, top, TICKS)),
    )


def _scatter(run: Run, points: Sequence[Sample], x: Axis, y: Axis, size: Size) -> Plot:
    """Lay out distance against completeness, fooled samples as crosses."""
    axes = Axes.of(size, x, y)
    clouds = []
    for style, marker, wanted in (("robust", "ring", False), ("fooled", "cross", True)):
        dots = [
            axes.dot(c, d, f"completeness {number(c)}, distance {number(d)}, {style}")
            for c, d, fooled in points
            if fooled == wanted
        ]
        clouds.append(Cloud(style, marker, dots))
    radii = audited_radii([run], norm_of(run))
    references = [axes.reference(radius, text) for radius, text in radii.items() if radius <= axes.y.high]
    return Plot(axes, clouds=clouds, references=references)


def correlation_sentence(section: AttentionSection) -> str:
    """Say what the scatter shows."""
    m = section.record.correlation
    if m.value is None or m.low is None or m.high is None:
        return "Too few samples have both figures for a correlation."
    direction = "farther" if m.value > 0 else "nearer"
    shown = "no correlation is shown" if m.low <= 0 <= m.high else f"the more complete, the {direction}"
    value, low, high = (number(v, 2) for v in (m.value, m.low, m.high))
    return (
        f"Spearman's correlation of completeness and distance: {value} [{low}, {high}], n = {m.n}: "
        f"{shown}. It is not adjusted for anything else, such as the margin."
    )
