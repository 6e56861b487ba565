"""The nearest adversarial examples: quartiles with intervals, accuracy against distance, the nearest classes.

    median  in  [d_(l), d_(u)],   l = max {r: P(B < r) <= 2.5 %},   u = n + 1 - l,   B ~ binomial(n, 1/2)

The interval is read off the curve that the record keeps, at most 64 of its points, rounded outwards: never too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.core.threats import eps_text
from unfooled.drawing.plots import BOTTOM, LEFT, RIGHT, TOP, Dot, Label, Plot, Trace
from unfooled.evaluation.audit.records import Nearness
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.curves import eps_ticks
from unfooled.report.sections.effort import share_of
from unfooled.report.words import EPS, finite, number, parse_threat
from unfooled.statistics.intervals import Mean

NORMS = {
    "linf": ("Linf", "largest change of a value"),
    "l2": ("L2", "Euclidean length of the change"),
    "l1": ("L1", "sum of all changes"),
    "l0": ("L0", "number of changed values"),
}
SHOWN = 20  # classes that fit a table on a page


@dataclass(frozen=True)
class Near:
    """One run in one norm, in words; `median` carries its interval, an end of None where it was not reached."""

    run: Run
    record: Nearness
    median: Mean
    texts: tuple[str, str, str]
    interval: str


@dataclass(frozen=True)
class Group:
    """All runs in one norm: radii of different norms do not share an axis."""

    norm: str
    name: str
    meaning: str
    rows: list[Near]
    plots: list[tuple[str, Plot]]


@dataclass(frozen=True)
class Classes:
    """Medians by class, the nearest class first: (class, text by norm, share of the largest in the first norm).

    `total` classes have a median in some norm, `missing` have none.
    """

    norms: list[str]
    rows: list[tuple[str, list[str], float | None]]
    total: int
    missing: int


def far(distance: float | None, norm: str, of_255: bool) -> str:
    """A distance as the threat's radius is written; "not reached" where there is none."""
    if distance is None or not finite(distance):
        return "not reached"
    if norm == "l0":
        return f"{distance:,.6g}"
    return f"{number(255 * distance)}/255" if of_255 and distance else number(distance)


def of_255(run: Run, norm: str) -> bool:
    """Whether the run writes radii of that norm in 255ths."""
    return norm == "linf" and parse_threat(run.summary.threat)[0] == "linf" and "/255" in run.summary.threat


def survival(record: Nearness) -> list[tuple[float, float]]:
    """The curve from distance 0 on, by distance."""
    kept = sorted((d, a) for d, a in record.curve if finite(d, a))
    return kept if kept and kept[0][0] <= 0 else [(0.0, 1.0), *kept] if kept else []


def median(record: Nearness) -> Mean:
    """The median with its interval over the draw of the samples; an end is None where too few were reached."""
    from scipy.stats import binom

    n, value = record.n, record.quartiles[1]
    if not n:
        return Mean(value=None, low=None, high=None, n=0)
    rank = int(binom.ppf(0.025, n, 0.5))
    counted = [(d, round((1 - a) * n)) for d, a in survival(record)]
    low = max((d for d, k in counted if k <= rank), default=0.0) if rank else 0.0
    high = min((d for d, k in counted if k >= n + 1 - rank), default=None) if rank else None
    return Mean(value=value, low=low, high=high, n=n)


def near(run: Run, record: Nearness) -> Near:
    """A run in one norm, in words."""
    middle, pixels = median(record), of_255(run, record.norm)
    low, high = (far(v, record.norm, pixels) for v in (middle.low, middle.high))
    interval = f"{low} to {high}" if middle.high is not None else f"{low} or more"
    first, second, third = (far(q, record.norm, pixels) for q in record.quartiles)
    return Near(run, record, middle, (first, second, third), interval)


def audited(run: Run, norm: str) -> float | None:
    """The radius that was audited, where it is of that norm."""
    own, radius = parse_threat(run.summary.threat)
    return radius if own == norm and finite(radius) else None


def plot(rows: Sequence[Near], norm: str, *, width: int, height: int, ticks: int) -> Plot | None:
    """Lay out accuracy against distance, a line a run; None where nothing was found.

    The axis ends at twice the largest third quartile, or at the farthest point: outliers would squeeze the rest.
    """
    curves = [survival(row.record) for row in rows]
    if not any(len(curve) > 1 for curve in curves):
        return None
    radii = [r for row in rows if (r := audited(row.run, norm)) is not None]
    farthest = max(d for curve in curves for d, _ in curve)
    third = [q for row in rows if (q := row.record.quartiles[2]) is not None]
    end = farthest if not third else min(farthest, 2 * max(third))
    end = max([end, *(1.2 * r for r in radii)])
    if end <= 0:
        return None
    right, bottom = width - RIGHT, height - BOTTOM

    def px(d: float) -> float:
        return round(LEFT + min(1.0, d / end) * (right - LEFT), 1)

    def py(share: float) -> float:
        return round(bottom - share * (bottom - TOP), 1)

    traces = []
    for row, curve in zip(rows, curves, strict=True):
        if not curve:
            continue
        inside = [(d, a) for d, a in curve if d <= end]
        stairs = [(0.0, inside[0][1])]
        for d, a in inside:
            stairs += [(d, stairs[-1][1]), (d, a)]
        stairs.append((end, inside[-1][1]))
        spans = [share_of(round(a * row.record.n), row.record.n) for _, a in stairs]
        upper = [f"{px(d)},{py(e.high)}" for (d, _), e in zip(stairs, spans, strict=True)]
        lower = [f"{px(d)},{py(e.low)}" for (d, _), e in zip(stairs, spans, strict=True)]
        line = " ".join(f"{px(d)},{py(a)}" for d, a in stairs)
        quarters = zip(row.record.quartiles, row.texts, ("first quartile", "median", "third quartile"), strict=True)
        dots = [
            Dot(px(d), py(1 - 0.25 * k), f"{row.run.letter}: {name} {text}")
            for k, (d, text, name) in enumerate(quarters, 1)
            if d is not None and finite(d) and d <= end
        ]
        traces.append(Trace(row.run.place, line, " ".join(upper + lower[::-1]), dots))
    pixels = any(of_255(row.run, norm) for row in rows)
    name = NORMS.get(norm, (norm, "distance"))
    marks = {r: Label(px(r), TOP - 10, f"audited {EPS}: {eps_text(r)}", "end" if r > end / 2 else "") for r in radii}
    return Plot(
        width=width,
        height=height,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_name=f"distance, {name[0]}",
        x_ticks=[(px(d), text) for d, text in eps_ticks(end, pixels, ticks)],
        y_ticks=[(py(k / 4), f"{25 * k}") for k in range(5)],
        traces=traces,
        marks=list(marks.values()),
    )


def groups(runs: Sequence[Run], sizes: Sequence[tuple[str, int, int, int]]) -> list[Group]:
    """What was found, by norm: the audited norms first, then as recorded.

    Args:
        runs: the runs of the page.
        sizes: (name, width, height, ticks) of each drawing.
    """
    own = [parse_threat(run.summary.threat)[0] for run in runs]
    norms = dict.fromkeys(record.norm for run in runs for record in run.summary.nearest)
    found = []
    for norm in sorted(norms, key=lambda name: name not in own):
        rows = [near(run, record) for run in runs for record in run.summary.nearest if record.norm == norm]
        drawn = [(name, plot(rows, norm, width=w, height=h, ticks=t)) for name, w, h, t in sizes]
        name, meaning = NORMS.get(norm, (norm, ""))
        found.append(Group(norm, name, meaning, rows, [(size, one) for size, one in drawn if one is not None]))
    return found


def classes(run: Run) -> Classes | None:
    """The medians of one run by class, nearest first in the audited norm; None where none were kept."""
    own = parse_threat(run.summary.threat)[0]
    records = sorted((r for r in run.summary.nearest if r.classes), key=lambda r: r.norm != own)
    if not records:
        return None
    first = records[0].classes
    count = max(len(r.classes) for r in records)
    kept = [c for c in range(count) if any(c < len(r.classes) and r.classes[c] is not None for r in records)]
    if not kept:
        return None

    def at(c: int, values: Sequence[float | None]) -> float:
        value = values[c] if c < len(values) else None
        return value if value is not None and finite(value) else float("inf")

    kept.sort(key=lambda c: at(c, first))
    largest = max((v for v in first if v is not None and finite(v)), default=0.0)
    rows = []
    for c in kept[:SHOWN]:
        texts = [far(r.classes[c] if c < len(r.classes) else None, r.norm, of_255(run, r.norm)) for r in records]
        length = at(c, first)
        rows.append(
            (class_name(run.summary.classes, c), texts, length / largest if finite(length) and largest else None)
        )
    return Classes([NORMS.get(r.norm, (r.norm, ""))[0] for r in records], rows, len(kept), count - len(kept))
