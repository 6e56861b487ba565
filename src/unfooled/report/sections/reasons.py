"""Do the reasons survive? Scores of attacked explanations against eps, which moved first in words, the worst cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.core.threats import eps_text
from unfooled.drawing.plots import BOTTOM, LEFT, RIGHT, TOP, Dot, Label, Plot, Trace
from unfooled.evaluation.explanations.records import ReasonPoint, Reasons
from unfooled.evaluation.explanations.survival import LARGE
from unfooled.report.runs import Run
from unfooled.report.sections.curves import eps_ticks, nice_step
from unfooled.report.words import EPS, estimate_interval, finite, mean, parse_threat, percent, plural
from unfooled.statistics.intervals import Mean

HOW = {"attack": "", "best of N": "dashed", "random": "dotted"}
"""Kind of perturbation -> how its line is drawn."""
SCORES = {"lens": "corrected LENS", "top_k": "top k kept"}


Drawn = list[tuple[str, Plot]]


@dataclass(frozen=True)
class Panel:
    """One score of all runs in one norm: drawings by size."""

    name: str
    plots: Drawn


@dataclass(frozen=True)
class Group:
    """Runs whose radii share an axis: (run, its record) of those that were attacked."""

    norm: str
    runs: list[tuple[Run, Reasons]]
    panels: list[Panel]


def attacked(run: Run) -> Reasons | None:
    """The run's record, where something was attacked."""
    found = run.summary.reasons
    return found if found is not None and found.curve else None


def points_of(found: Reasons) -> str:
    """At which points the scores of the table are taken."""
    if found.pixels < LARGE:
        return "Each score is taken at its own worst point"
    return "LENS and top k are taken at their own worst points, Kendall, on maps this large, at that of LENS"


def chance_level(found: Reasons, score: str) -> float | None:
    """What an unrelated map scores: 0 where the score is corrected for it, k of all pixels for top k."""
    if score == "lens":
        return 0.0
    return found.k / found.pixels if found.pixels else None


def _value(point: ReasonPoint, score: str) -> Mean:
    return point.lens if score == "lens" else point.top_k


def groups(runs: Sequence[Run], sizes: Sequence[tuple[str, int, int, int]]) -> list[Group]:
    """What was attacked, by norm.

    Args:
        runs: of the page.
        sizes: (name, width, height, ticks) of each drawing.
    """
    members: dict[str, list[tuple[Run, Reasons]]] = {}
    for run in runs:
        found = attacked(run)
        if found is not None:
            members.setdefault(parse_threat(run.summary.threat)[0], []).append((run, found))
    return [
        Group(norm, rows, [Panel(name, _drawn(rows, score, sizes)) for score, name in SCORES.items()])
        for norm, rows in members.items()
    ]


def _drawn(rows: list[tuple[Run, Reasons]], score: str, sizes: Sequence[tuple[str, int, int, int]]) -> Drawn:
    drawn = [(name, plot(rows, score, width=w, height=h, ticks=t)) for name, w, h, t in sizes]
    return [(name, one) for name, one in drawn if one is not None]


def plot(rows: Sequence[tuple[Run, Reasons]], score: str, *, width: int, height: int, ticks: int) -> Plot | None:
    """Lay out one score against eps; None where no radius has one. A line for each run and kind of perturbation.

    Every line starts at 1, where nothing is perturbed. The band is the attack's 95 % interval.
    """
    lines = [
        (run, how, sorted((p for p in found.curve if p.how == how and drawable(p, score)), key=lambda p: p.eps))
        for run, found in rows
        for how in HOW
    ]
    lines = [one for one in lines if one[2]]
    largest = max((p.eps for _, _, points in lines for p in points), default=0.0)
    if largest <= 0:
        return None
    bands = [_value(p, score) for _, how, points in lines for p in points if how == "attack"]
    values = [v for m in bands for v in (m.low, m.value) if v is not None]
    values += [v for _, _, points in lines for p in points if (v := _value(p, score).value) is not None]
    bottom_value = math.floor(4 * min([0.0, *values])) / 4
    right, bottom = width - RIGHT, height - BOTTOM

    def px(eps: float) -> float:
        return round(LEFT + eps / largest * (right - LEFT), 1)

    def py(value: float | None) -> float:
        return round(bottom - ((value or 0.0) - bottom_value) / (1 - bottom_value) * (bottom - TOP), 1)

    traces = []
    for run, how, points in lines:
        found = [_value(p, score) for p in points]
        at = [(px(0.0), py(1.0)), *((px(p.eps), py(m.value)) for p, m in zip(points, found, strict=True))]
        band = ""
        if how == "attack":
            high, low = (
                [at[0], *((px(p.eps), py(v)) for p, v in zip(points, ends, strict=True))]
                for ends in ([m.high for m in found], [m.low for m in found])
            )
            band = " ".join(f"{x},{y}" for x, y in high + low[::-1])
        dots = [
            Dot(x, y, f"{run.letter}, {how}: {mean(m)} at {EPS} = {eps_text(p.eps)}, n = {m.n}")
            for (x, y), p, m in zip(at[1:], points, found, strict=True)
        ]
        traces.append(Trace(run.place, " ".join(f"{x},{y}" for x, y in at), band, dots, HOW[how]))
    step = nice_step(1 - bottom_value, 5)
    grid = [k * step for k in range(math.ceil(bottom_value / step - 1e-9), math.floor(1 / step + 1e-9) + 1)]
    levels = dict.fromkeys(round(v, 4) for _, r in rows if (v := chance_level(r, score)) is not None)
    radii = [r for run, _ in rows if (r := parse_threat(run.summary.threat)[1]) is not None and r <= largest * 1.001]
    marks = {
        r: Label(px(r), TOP - 10, f"audited {EPS}: {eps_text(r)}", "end" if r > largest / 2 else "") for r in radii
    }
    return Plot(
        width=width,
        height=height,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_name=f"radius {EPS}",
        x_ticks=[(px(e), text) for e, text in eps_ticks(largest, any("/255" in eps_text(r) for r in radii), ticks)],
        y_ticks=[(py(v), f"{v:.2f}".replace("-", "\u2212") if v else "0") for v in grid],
        traces=traces,
        marks=list(marks.values()),
        y_name=SCORES[score],
        lows=[Label(LEFT + 6, py(v), "chance") for v in levels],
    )


def drawable(point: ReasonPoint, score: str) -> bool:
    """Whether a point has a place on the axes."""
    return finite(point.eps, _value(point, score).value)


def shares(run: Run, found: Reasons) -> str:
    """Which moved first, in a sentence."""
    parts = (found.reason_first, found.label_first, found.neither)
    if found.reason_first is None or not found.reason_first.n or None in parts:
        return "Of no sample can it be said which moved first: no map has an order."
    n = found.reason_first.n
    told = [
        f"{percent(e.value, e.n)} [{estimate_interval(e)}] {what}"
        for e, what in zip(
            parts,
            (
                "lost their reason at a radius at which no example was found that changes their label",
                "lost their label first",
                f"lost neither up to {EPS}",
            ),
            strict=True,
        )
        if e is not None
    ]
    return f"Of {plural(n, run.noun)}, " + "; ".join(told) + "."


def beaten(found: Reasons) -> str:
    """What to think of an attack that chance equals; empty where it is stronger."""
    pairs = [(p, q) for p in found.curve for q in found.curve if p.how == "attack" and q.how == "best of N"]
    weak = [
        p
        for p, q in pairs
        if p.share == q.share and p.lens.value is not None and q.lens.value is not None and p.lens.value >= q.lens.value
    ]
    if not weak:
        return ""
    at = ", ".join(eps_text(p.eps) for p in weak)
    return (
        f"At {EPS} = {at} the best of {found.random_points} random points moves the reason as far as the attack, or "
        "farther: there the attack is weak, and what it left is no robustness."
    )


def counts(found: Reasons) -> str:
    """Samples that have no score, in words; empty where all have one."""
    point = found.at_eps()
    if point is None:
        return ""
    told = [
        (point.failed, "failed: no allowed point was found that keeps the label and has another map"),
        (point.undefined, "undefined: a map is constant, or every pixel lies near its top"),
        (point.skipped, "skipped: not right when asked again"),
    ]
    parts = [f"{count:,} {what}" for count, what in told if count]
    return f"At {EPS} = {eps_text(point.eps)}, of n = {found.n:,}: {'; '.join(parts)}." if parts else ""
