"""Attacked explanations: scores against eps, whether the explanation or the label changed first, the worst cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from unfooled.core.threat_text import eps_text, in_255ths
from unfooled.drawing.plots import (
    Axes,
    Axis,
    Drawings,
    Plot,
    Size,
    Trace,
    drawings,
    linear_ticks,
    radius_ticks,
)
from unfooled.evaluation.explanations.records import MAX_PIXELS_FOR_TAU, How, ReasonPoint, Reasons
from unfooled.report.runs import Run
from unfooled.report.sections.curves import audited_radii, by_norm, norm_of
from unfooled.report.sections.gallery import ReasonGallery, reason_galleries
from unfooled.report.words import EPSILON, finite, mean_text, plural, share_text
from unfooled.statistics.intervals import Mean


class Score(StrEnum):
    """Scores of an explanation under attack that are drawn."""

    LENS = "lens"
    TOP_K = "top_k"


HOW = {How.ATTACK: "", How.BEST_OF_N: "dashed", How.RANDOM: "dotted"}
"""Kind of perturbation -> style of its line."""
SCORES = {Score.LENS: "corrected LENS", Score.TOP_K: "top k kept"}
"""Score -> its name on the page."""
TICKS = 5

Attacked = tuple[Run, Reasons]


@dataclass(frozen=True)
class Panel:
    """One score of all runs in one norm; `figures` are drawings by size."""

    name: str
    figures: Drawings


@dataclass(frozen=True)
class ScoreGroup:
    """The attacked explanations whose radii share an axis, as (run, its record)."""

    norm: str
    runs: list[Attacked]
    panels: list[Panel]


@dataclass(frozen=True)
class ReasonsSection:
    """Attacks on explanations: drawings by norm, and (run, record, worst cases) of each run that has a record."""

    groups: list[ScoreGroup]
    runs: list[tuple[Run, Reasons, ReasonGallery]]


def attacked_reasons(run: Run) -> Reasons | None:
    """Return the run's record of attacks on explanations. None: no explanation was attacked."""
    record = run.summary.reasons
    return record if record is not None and record.curve else None


def points_sentence(record: Reasons) -> str:
    """Return the sentence on the attacked points at which the scores of the table are computed."""
    if record.pixels < MAX_PIXELS_FOR_TAU:
        return "Each score is taken at its own worst point"
    return "LENS and top k are taken at their own worst points, Kendall, on maps this large, at that of LENS"


def chance_level(record: Reasons, score: Score) -> float | None:
    """Return the score of an unrelated map: 0 for LENS, which is corrected for chance, k / pixels for top k."""
    if score is Score.LENS:
        return 0.0
    return record.k / record.pixels if record.pixels else None


def _score_of(point: ReasonPoint, score: Score) -> Mean:
    return point.lens if score is Score.LENS else point.top_k


def score_groups(runs: Sequence[Run], sizes: Sequence[Size]) -> list[ScoreGroup]:
    """Return the attacked explanations and the drawings of their scores, by norm.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    groups = []
    for norm, members in by_norm(runs).items():
        rows = [(run, record) for run in members if (record := attacked_reasons(run)) is not None]
        if rows:
            panels = [
                Panel(title, drawings(sizes, partial(score_plot, rows, score))) for score, title in SCORES.items()
            ]
            groups.append(ScoreGroup(norm, rows, panels))
    return groups


def score_plot(rows: Sequence[Attacked], score: Score, size: Size) -> Plot | None:
    """Lay out one score against eps, a line for each run and kind of perturbation; None where no radius has one.

    Every line starts at 1, where nothing is perturbed. The band is the attack's 95 % interval.

    Args:
        rows: Runs in one norm, with their records.
        score: Key of `SCORES`.
        size: Size of the drawing.
    """
    lines = [(run, how, _scored(record, how, score)) for run, record in rows for how in HOW]
    lines = [one for one in lines if one[2]]
    largest = max((eps for _, _, points in lines for eps, _ in points), default=0.0)
    if largest <= 0:
        return None
    values = [m.value for _, _, points in lines for _, m in points]
    values += [m.low for _, how, points in lines if how == How.ATTACK for _, m in points]
    lowest = math.floor(4 * min([0.0, *(v for v in values if v is not None)])) / 4
    runs = [run for run, _ in rows]
    marks = {r: text for r, text in audited_radii(runs, norm_of(runs[0])).items() if r <= largest * 1.001}
    ticks = radius_ticks(largest, size.ticks, in_255ths=any(map(in_255ths, marks)))
    y_axis = Axis(SCORES[score], lowest, 1.0, linear_ticks(lowest, 1.0, TICKS))
    axes = Axes.of(size, Axis(f"radius {EPSILON}", 0.0, largest, ticks), y_axis, marks)
    traces = [_trace(axes, run, how, points) for run, how, points in lines]
    levels = dict.fromkeys(round(v, 4) for _, record in rows if (v := chance_level(record, score)) is not None)
    return Plot(axes, traces, references=[axes.reference(v, "chance") for v in levels])


def _scored(record: Reasons, how: How, score: Score) -> list[tuple[float, Mean]]:
    """Return (eps, score) of one kind of perturbation, by radius, where they can be drawn on the axes."""
    points = [(p.eps, _score_of(p, score)) for p in record.curve if p.how == how]
    return sorted(((eps, m) for eps, m in points if finite(eps, m.value)), key=lambda point: point[0])


def _ends(m: Mean) -> tuple[float, float]:
    """Return the ends of an interval; the mean itself for a single sample, which has none."""
    value = m.value or 0.0
    return (value if m.low is None else m.low), (value if m.high is None else m.high)


def _trace(axes: Axes, run: Run, how: How, points: Sequence[tuple[float, Mean]]) -> Trace:
    line = axes.line([(0.0, 1.0), *((eps, m.value or 0.0) for eps, m in points)])
    spans = [(0.0, 1.0, 1.0), *((eps, *_ends(m)) for eps, m in points)]
    dots = [
        axes.dot(eps, m.value or 0.0, f"{run.letter}, {how}: {mean_text(m)} at {EPSILON} = {eps_text(eps)}, n = {m.n}")
        for eps, m in points
    ]
    return Trace(run.place, line, axes.band(spans) if how == How.ATTACK else "", dots, HOW[how])


def order_sentence(run: Run, record: Reasons) -> str:
    """Return the sentence on which changed first, the explanation or the label."""
    parts = (record.reason_first, record.label_first, record.neither)
    if record.reason_first is None or not record.reason_first.n or None in parts:
        if record.unsearched:
            return "Of no sample can it be said which moved first: no nearest example was searched for."
        return "Of no sample can it be said which moved first: every map is constant or not finite."
    phrases = (
        "lost their reason at a radius at which no example was found that changes their label",
        "lost their label first",
        f"lost neither up to {EPSILON}",
    )
    clauses = [f"{share_text(e)} {phrase}" for e, phrase in zip(parts, phrases, strict=True) if e is not None]
    rest = f" Of {record.unsearched:,} more no nearest example was searched for." if record.unsearched else ""
    return f"Of {plural(record.reason_first.n, run.noun)}, {'; '.join(clauses)}.{rest}"


def weakness_sentence(record: Reasons) -> str:
    """Return the sentence on radii at which the best random point does as well as the attack; empty: at none."""
    pairs = [(p, q) for p in record.curve for q in record.curve if p.how == How.ATTACK and q.how == How.BEST_OF_N]
    weak = [
        (p, q.random_points or record.random_points)
        for p, q in pairs
        if p.share == q.share and p.lens.value is not None and q.lens.value is not None and p.lens.value >= q.lens.value
    ]
    if not weak:
        return ""
    at = ", ".join(eps_text(p.eps) for p, _ in weak)
    points = max(n for _, n in weak)
    return (
        f"At {EPSILON} = {at} the best of {points} random points moves the reason as far as the attack, "
        "or farther: there the attack is weak, and what it left does not show robustness."
    )


def unscored_sentence(record: Reasons) -> str:
    """Return the sentence that counts samples without a score; empty: all have one."""
    point = record.at_eps()
    if point is None:
        return ""
    causes = [
        (point.failed, "failed: no allowed point was found that keeps the label and has another map"),
        (
            point.undefined,
            "undefined: a map is constant, or every pixel lies within w of the top k, so that any map scores 1",
        ),
        (point.skipped, "skipped: not right when asked again"),
    ]
    parts = [f"{count:,} {cause}" for count, cause in causes if count]
    return f"At {EPSILON} = {eps_text(point.eps)}, of n = {record.n:,}: {'; '.join(parts)}." if parts else ""


def reasons_section(runs: Sequence[Run], sizes: Sequence[Size], budget: int) -> ReasonsSection:
    """Return the attacks on explanations.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
        budget: Characters for the pictures of the worst cases.
    """
    galleries = reason_galleries(runs, budget)
    recorded = [
        (run, record, gallery)
        for run, gallery in zip(runs, galleries, strict=True)
        if (record := run.summary.reasons) is not None
    ]
    return ReasonsSection(score_groups(runs, sizes), recorded)
