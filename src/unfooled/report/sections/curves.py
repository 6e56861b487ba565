"""Accuracy against eps: one group of curves for each norm, since radii of different norms do not share an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from unfooled.core.threat_text import eps_text, in_255ths
from unfooled.drawing.plots import Axes, Axis, Drawings, Plot, Size, Tick, Trace, drawings, radius_ticks
from unfooled.evaluation.audit.records import CurvePoint
from unfooled.report.runs import Run
from unfooled.report.words import EPSILON, finite, share_text
from unfooled.statistics.intervals import Estimate

PERCENT: list[Tick] = [(k / 4, f"{25 * k}") for k in range(5)]
ACCURACY = Axis("accuracy, %", 0.0, 1.0, PERCENT)
"""The whole range of accuracies as an axis."""


@dataclass(frozen=True)
class CurveGroup:
    """Curves of the runs that share a norm.

    Attributes:
        norm: Name of the norm.
        runs: Runs with that norm, in the order of the page.
        figures: Drawings by size; none where no run has two points.
        table: (eps, accuracy of each run; None: not measured at this eps).
        proven: eps -> certified accuracy of each run; None: not certified at this eps.
    """

    norm: str
    runs: list[Run]
    figures: Drawings
    table: list[tuple[float, list[Estimate | None]]]
    proven: dict[float, list[Estimate | None]]

    @property
    def proves(self) -> bool:
        """True if something was proven of a run."""
        return any(run.summary.certified_curve for run in self.runs)


def drawable_points(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    """Return the points that can be drawn on the axes, by radius."""
    finite_points = [p for p in points if finite(p.eps, p.accuracy.value, p.accuracy.low, p.accuracy.high)]
    return sorted(finite_points, key=lambda p: p.eps)


def audited_radii(runs: Sequence[Run], norm: str) -> dict[float, str]:
    """Return radius -> text of its mark on the axis, for the radii at which runs were audited in a norm."""
    threats = [run.threat for run in runs if run.threat.norm == norm]
    radii = [threat.radius for threat in threats if threat.radius is not None and finite(threat.radius)]
    return {eps: f"audited {EPSILON}: {eps_text(eps)}" for eps in radii}


def mostly_in_255ths(radii: Sequence[float]) -> bool:
    """Return whether most radii are whole multiples of 1/255."""
    written = [in_255ths(eps) for eps in radii if eps]
    return 2 * sum(written) > len(written)


def curve_plot(runs: Sequence[Run], size: Size) -> Plot | None:
    """Lay out accuracy against eps, a line for each run; None where no run has two points.

    Args:
        runs: Runs that share a norm.
        size: Size of the drawing.
    """
    curves = [drawable_points(run.summary.curve) for run in runs]
    if not any(len(curve) > 1 for curve in curves):
        return None
    marks = audited_radii(runs, norm_of(runs[0]))
    radii = [p.eps for curve in curves for p in curve]
    largest = max([*radii, *marks])
    if largest <= 0:
        return None
    ticks = radius_ticks(largest, size.ticks, in_255ths=mostly_in_255ths(radii))
    axes = Axes.of(size, Axis(f"radius {EPSILON}", 0.0, largest, ticks), ACCURACY, marks)
    many = len(runs) > 1
    traces = [_trace(axes, run, curve, many) for run, curve in zip(runs, curves, strict=True) if curve]
    proven = [(run, [p for p in drawable_points(run.summary.certified_curve) if p.eps <= largest]) for run in runs]
    return Plot(axes, traces + [_proven_trace(axes, run, curve, many) for run, curve in proven if curve])


def _trace(axes: Axes, run: Run, curve: Sequence[CurvePoint], many: bool) -> Trace:
    letter = f"{run.letter}: " if many else ""
    points = [(p.eps, p.accuracy, p.accuracy.value or 0.0) for p in curve]
    return Trace(
        run.place,
        axes.line([(eps, value) for eps, _, value in points]),
        axes.band([(eps, e.low, e.high) for eps, e, _ in points]),
        [axes.dot(eps, value, f"{letter}{share_text(e)} at {EPSILON} = {eps_text(eps)}") for eps, e, value in points],
    )


def proven_steps(curve: Sequence[CurvePoint]) -> list[tuple[float, float]]:
    """Return the corners of the proven end: up to a radius holds what is proven at it, and no more is known between."""
    corners = [(p.eps, p.accuracy.value or 0.0) for p in curve[:1]]
    for last, p in pairwise(curve):
        corners += [(last.eps, p.accuracy.value or 0.0), (p.eps, p.accuracy.value or 0.0)]
    return corners


def _proven_trace(axes: Axes, run: Run, curve: Sequence[CurvePoint], many: bool) -> Trace:
    letter = f"{run.letter}, proven" if many else "proven"
    dots = [
        axes.dot(p.eps, p.accuracy.value or 0.0, f"{letter}: {share_text(p.accuracy)} at {EPSILON} = {eps_text(p.eps)}")
        for p in curve
    ]
    return Trace(run.place, axes.line(proven_steps(curve)), dots=dots, dash="dashed")


def norm_of(run: Run) -> str:
    """Return the name of the norm in which a run was audited."""
    return run.threat.norm


def by_norm(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return runs by the norm in which they were audited."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(norm_of(run), []).append(run)
    return groups


def curve_groups(runs: Sequence[Run], sizes: Sequence[Size]) -> list[CurveGroup]:
    """Return the curves by norm, without the norms in which no radius was measured.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    groups = []
    for norm, members in by_norm(runs).items():
        both = [(run.summary.curve, run.summary.certified_curve) for run in members]
        radii = sorted({p.eps for curves in both for curve in curves for p in curve if finite(p.eps)})
        at, below = ([{p.eps: p.accuracy for p in curves[k]} for curves in both] for k in (0, 1))
        table = [(eps, [points.get(eps) for points in at]) for eps in radii]
        proven = {eps: [points.get(eps) for points in below] for eps in radii}
        if table:
            groups.append(CurveGroup(norm, members, drawings(sizes, partial(curve_plot, members)), table, proven))
    return groups
