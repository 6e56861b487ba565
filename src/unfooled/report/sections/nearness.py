"""The nearest adversarial examples: quartiles with intervals, accuracy against distance, the nearest classes.

    median  in  [d_(l), d_(u)],   l = max {r: P(B < r) <= 2.5 %},   u = n + 1 - l,   B ~ binomial(n, 1/2)

d_(l) is the l-th smallest of n distances. A record stores at most 64 points of the curve; the interval is rounded
outwards to these, so it is never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from unfooled.core.threat_text import Norm
from unfooled.drawing.plots import Axes, Axis, Drawings, Plot, Point, Size, Trace, drawings, radius_ticks, stairs
from unfooled.evaluation.audit.records import Nearness
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.curves import ACCURACY, audited_radii, norm_of
from unfooled.report.sections.effort import share_of
from unfooled.report.words import finite, number
from unfooled.statistics.distributions import median_rank
from unfooled.statistics.intervals import Mean

NORMS: dict[str, tuple[str, str]] = {
    Norm.LINF: ("Linf", "largest change of a value"),
    Norm.L2: ("L2", "Euclidean length of the change"),
    Norm.L1: ("L1", "sum of all changes"),
    Norm.L0: ("L0", "number of changed values"),
}
MAX_CLASSES = 20  # classes that fit a table on a page


@dataclass(frozen=True)
class NearRow:
    """One run in one norm.

    Attributes:
        run: Run that is shown.
        record: Distances of the run in that norm.
        median: Median and interval; an end is None where too few samples have an adversarial example.
        texts: The three quartiles, as text.
        interval: The interval of the median, as text.
    """

    run: Run
    record: Nearness
    median: Mean
    texts: tuple[str, str, str]
    interval: str


@dataclass(frozen=True)
class NearGroup:
    """All runs in one norm, since radii of different norms do not share an axis."""

    norm: str
    name: str
    meaning: str
    rows: list[NearRow]
    figures: Drawings


@dataclass(frozen=True)
class ClassMedians:
    """Medians of the distance by class, the nearest class first.

    Attributes:
        norms: Names of the norms.
        rows: (class, text by norm, share of the largest median in the first norm, over all runs of the page).
        total: Classes that have a median in some norm.
        missing: Classes that have none.
    """

    norms: list[str]
    rows: list[tuple[str, list[str], float | None]]
    total: int
    missing: int


@dataclass(frozen=True)
class NearestSection:
    """The nearest adversarial examples by norm, and the medians by class of each run that has them."""

    groups: list[NearGroup]
    classes: list[tuple[Run, ClassMedians]]


def distance_text(distance: float | None, norm: str, in_255ths: bool) -> str:
    """Write a distance as the threat's radius is written; "not reached" where there is none."""
    if distance is None or not finite(distance):
        return "not reached"
    if norm == Norm.L0:
        return f"{distance:,.6g}"
    return f"{number(255 * distance)}/255" if in_255ths and distance else number(distance)


def written_in_255ths(run: Run, norm: str) -> bool:
    """Return whether the run writes radii of that norm as 8/255."""
    return norm == Norm.LINF == run.threat.norm and run.threat.in_255ths


def distance_of(run: Run, distance: float | None) -> str:
    """Write a distance in the norm of the run's threat, as its radius is written."""
    return distance_text(distance, norm_of(run), written_in_255ths(run, norm_of(run)))


def own_record(run: Run) -> Nearness | None:
    """Return the distances in the norm of the run's threat; None where they were not searched."""
    return next((record for record in run.summary.nearest if record.norm == norm_of(run)), None)


def searched(run: Run) -> int:
    """Return the number of samples whose nearest examples were searched in the norm of the run's threat."""
    record = own_record(run)
    return record.n if record is not None else len(run.summary.nearest_gallery)


def steps(run: Run) -> str:
    """Return accuracy by distance for the page's script: "distance accuracy" pairs, by distance; empty: not known."""
    record = own_record(run)
    return " ".join(f"{d:.6g} {a:.4g}" for d, a in survival_curve(record)) if record is not None else ""


def survival_curve(record: Nearness) -> list[Point]:
    """Return (distance, accuracy) by distance, from (0, 1) on; empty where no adversarial example was found."""
    points = sorted((d, a) for d, a in record.curve if finite(d, a))
    return points if not points or points[0][0] <= 0 else [(0.0, 1.0), *points]


def median_estimate(record: Nearness) -> Mean:
    """Return the median with its 95 % interval; an end is None where too few samples have an adversarial example."""
    n, value = record.n, record.quartiles[1]
    if not n:
        return Mean(value=None, low=None, high=None, n=0)
    if record.interval is not None and value is not None:
        return Mean(value=value, low=record.interval[0], high=record.interval[1], n=n)
    rank = median_rank(0.025, n)
    counted = [(d, round((1 - a) * n)) for d, a in survival_curve(record)]
    low = max((d for d, k in counted if k <= rank), default=0.0) if rank else 0.0
    high = min((d for d, k in counted if k >= n + 1 - rank), default=None) if rank else None
    if value is not None:  # a record of before the interval, where answers were lost, has a curve of both
        low, high = min(low, value), high if high is None else max(high, value)
    return Mean(value=value, low=low, high=high, n=n)


def near_row(run: Run, record: Nearness) -> NearRow:
    """Return the distances of a run in one norm, as numbers and text."""
    middle, in_255ths = median_estimate(record), written_in_255ths(run, record.norm)
    low, high = (distance_text(v, record.norm, in_255ths) for v in (middle.low, middle.high))
    interval = f"{low} to {high}" if middle.high is not None else f"{low} or more"
    first, second, third = (distance_text(q, record.norm, in_255ths) for q in record.quartiles)
    return NearRow(run, record, middle, (first, second, third), interval)


def _end(curves: Sequence[Sequence[Point]], rows: Sequence[NearRow], radii: Iterable[float]) -> float:
    """Return the end of the axis: the farthest point, at most twice the third quartile, but beyond all radii."""
    farthest = max(d for curve in curves for d, _ in curve)
    third = [q for row in rows if (q := row.record.quartiles[2]) is not None]
    end = farthest if not third else min(farthest, 2 * max(third))  # so that outliers do not squeeze the other curves
    return max([end, *(1.2 * r for r in radii)])


def distance_plot(rows: Sequence[NearRow], norm: str, size: Size) -> Plot | None:
    """Lay out accuracy against distance, a line for each run; None where nothing was found.

    Args:
        rows: Runs in one norm.
        norm: Name of that norm.
        size: Size of the drawing.
    """
    curves = [survival_curve(row.record) for row in rows]
    if not any(len(curve) > 1 for curve in curves):
        return None
    marks = audited_radii([row.run for row in rows], norm)
    end = _end(curves, rows, marks)
    if end <= 0:
        return None
    ticks = radius_ticks(end, size.ticks, in_255ths=any(written_in_255ths(row.run, norm) for row in rows))
    name = NORMS.get(norm, (norm, ""))[0]
    axes = Axes.of(size, Axis(f"distance, {name}", 0.0, end, ticks), ACCURACY, marks)
    return Plot(axes, [_trace(axes, row, curve) for row, curve in zip(rows, curves, strict=True) if curve])


def _trace(axes: Axes, row: NearRow, curve: Sequence[Point]) -> Trace:
    """Return a run's steps with their band, and its quartiles as dots."""
    end = axes.x.high
    inside = [(d, a) for d, a in curve if d <= end]
    corners = stairs([(0.0, inside[0][1]), *inside, (end, inside[-1][1])])
    n = row.record.n
    spans = [(d, share_of(round(a * n), n)) for d, a in corners]
    quartiles = zip(row.record.quartiles, row.texts, ("first quartile", "median", "third quartile"), strict=True)
    dots = [
        axes.dot(d, 1 - 0.25 * k, f"{row.run.letter}: {name} {text}")
        for k, (d, text, name) in enumerate(quartiles, 1)
        if d is not None and finite(d) and d <= end
    ]
    return Trace(row.run.place, axes.line(corners), axes.band([(d, e.low, e.high) for d, e in spans]), dots)


def distance_groups(runs: Sequence[Run], sizes: Sequence[Size]) -> list[NearGroup]:
    """Return the nearest examples by norm: the audited norms first, then as recorded.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    audited = {norm_of(run) for run in runs}
    norms = dict.fromkeys(record.norm for run in runs for record in run.summary.nearest)
    groups = []
    for norm in sorted(norms, key=lambda name: name not in audited):
        rows = [near_row(run, record) for run in runs for record in run.summary.nearest if record.norm == norm]
        name, meaning = NORMS.get(norm, (norm, ""))
        groups.append(NearGroup(norm, name, meaning, rows, drawings(sizes, partial(distance_plot, rows, norm))))
    return groups


def _by_class(run: Run) -> list[Nearness]:
    """Return the records of a run that list classes, the audited norm first."""
    audited = norm_of(run)
    return sorted((r for r in run.summary.nearest if r.classes), key=lambda r: r.norm != audited)


def longest_medians(runs: Sequence[Run]) -> dict[str, float]:
    """Return the largest median of a class over all runs, by the norm that is drawn: the full length of a bar."""
    longest: dict[str, float] = {}
    for records in filter(None, map(_by_class, runs)):
        medians = [d for c in range(len(records[0].classes)) if (d := _median_of(records[0], c)) is not None]
        norm = records[0].norm
        longest[norm] = max([longest.get(norm, 0.0), *(d for d in medians if math.isfinite(d))])
    return longest


def class_medians(run: Run, longest: float | None = None) -> ClassMedians | None:
    """Return the medians of one run by class, nearest first in the audited norm; None where none were recorded.

    Args:
        run: Run that is shown.
        longest: Median that a bar of full length stands for. None: the run's largest.
    """
    records = _by_class(run)
    if not records:
        return None
    count = max(len(r.classes) for r in records)
    known = [c for c in range(count) if any(_median_of(r, c) is not None for r in records)]
    if not known:
        return None

    def distance(c: int) -> float:
        value = _median_of(records[0], c)
        return value if value is not None and finite(value) else math.inf

    known.sort(key=distance)
    largest = longest or longest_medians([run])[records[0].norm]
    rows = []
    for c in known[:MAX_CLASSES]:
        texts = [distance_text(_median_of(r, c), r.norm, written_in_255ths(run, r.norm)) for r in records]
        length = distance(c) / largest if math.isfinite(distance(c)) and largest else None
        rows.append((class_name(run.summary.classes, c), texts, length))
    names = [NORMS.get(r.norm, (r.norm, ""))[0] for r in records]
    return ClassMedians(names, rows, len(known), count - len(known))


def _median_of(record: Nearness, c: int) -> float | None:
    return record.classes[c] if c < len(record.classes) else None


def nearest_section(runs: Sequence[Run], sizes: Sequence[Size], halves: Sequence[Size]) -> NearestSection:
    """Return the nearest adversarial examples by norm, and by class for each run.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing where there is one norm.
        halves: Size of each drawing where several norms stand beside each other.
    """
    norms = {record.norm for run in runs for record in run.summary.nearest}
    longest = longest_medians(runs)
    medians = [
        (run, class_medians(run, longest.get(_by_class(run)[0].norm) if _by_class(run) else None)) for run in runs
    ]
    groups = distance_groups(runs, sizes if len(norms) == 1 else halves)
    return NearestSection(groups, [(run, one) for run, one in medians if one is not None])
