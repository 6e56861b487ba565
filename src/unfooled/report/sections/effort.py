"""Robust accuracy against passes: does the attack still find more, or has the curve become flat?

    passes = forward + backward passes per sample so far,   accuracy = share that no stage has fooled yet

The accuracy axis spans the accuracies after each stage and the interval of the final accuracy. Clean accuracy is left
out: it would compress the end of the curve, where one sees whether it is flat.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise

from unfooled.drawing.plots import (
    TOP,
    Axes,
    Axis,
    Dot,
    Drawings,
    Label,
    Level,
    Plot,
    Size,
    Trace,
    drawings,
    linear_ticks,
    log_ticks,
    place_labels,
    share_ticks,
    stairs,
)
from unfooled.evaluation.audit.records import Summary
from unfooled.report.runs import Run
from unfooled.report.trust import Tone, tone
from unfooled.report.words import finite, number, percent, plural, share_text
from unfooled.runs.progress import Progress
from unfooled.statistics.distributions import light_beta_quantile
from unfooled.statistics.intervals import Estimate, share_of_hits

STAGES = {
    "adopt": "points judged",
    "apgd": "APGD",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "attack": "the attack",
    "decision": "labels only",
    "estimated": "APGD, estimated",
    "fab-t": "FAB-T",
    "longer": "APGD, longer",
    "odi": "ODI wave",
    "square": "Square",
    "targets": "single classes",
    "transfer": "from a twin",
}
"""Name of a stage in the record -> name on the page."""
CLEAN = "clean"
LOG_AXIS_RATIO = 6  # ratio of the passes at the end to those after the first stage, from which the axis is logarithmic
Y_TICKS = 7


@dataclass(frozen=True)
class Step:
    """State of the attack after one of its stages.

    Attributes:
        place: Position of the stage.
        name: Name on the page.
        passes: Forward and backward passes per sample so far.
        forward: Forward passes per sample so far.
        backward: Backward passes per sample so far.
        accuracy: Share of the samples that are not fooled yet.
        n_attacked: Number of samples that the stage attacked; None: not recorded.
        n_fooled: Number of samples that it fooled; None: not recorded.
    """

    place: int
    name: str
    passes: float
    forward: float
    backward: float
    accuracy: Estimate
    n_attacked: int | None
    n_fooled: int | None

    @property
    def left(self) -> float:
        """Share of the samples that are still classified correctly."""
        return self.accuracy.value or 0.0


@dataclass(frozen=True)
class EffortSection:
    """Accuracy against passes of all runs.

    Attributes:
        figures: Drawings by size; none where no run has two stages.
        runs: (run, its stages, what the last half of its passes found) of each run that recorded stages.
    """

    figures: Drawings
    runs: list[tuple[Run, list[Step], str]]


@cache
def share_of(k: int, n: int) -> Estimate:
    """Return the share k of n with its Clopper-Pearson interval."""
    return share_of_hits(k, n, quantile=light_beta_quantile)


def stage_name(progress: Progress) -> str:
    """Return the page's name of a stage, with the check that asked for it: "Square, D14"."""
    check, name = progress.check, progress.method
    if not name:  # a record of version 0.1 has only the label, such as "460-D14-square"
        check, name = re.fullmatch(r"(?:\d+-)?(?:(D\d+)-)?(.*)", progress.stage, re.DOTALL).groups()  # type: ignore[union-attr]
    return STAGES.get(name, name) + (f", {check}" if check else "")


def steps(s: Summary) -> list[Step]:
    """Return the stages in their order. Passes are made non-decreasing, accuracy non-increasing."""
    stages: list[Step] = []
    for p in s.progress:
        if not finite(p.forward, p.backward, p.accuracy):
            continue
        forward, backward, accuracy = p.forward, p.backward, p.accuracy
        if stages:
            last = stages[-1]
            accuracy = min(accuracy, last.left)
            if forward + backward < last.passes:
                forward, backward = last.forward, last.backward
        estimate = share_of(round(accuracy * s.n), s.n).model_copy(update={"value": accuracy})
        counts = (p.taken, p.closed) if p.taken > 0 else (None, None)
        name = stage_name(p)
        stages.append(Step(len(stages), name, forward + backward, forward, backward, estimate, *counts))
    return stages


def drawn_steps(stages: Sequence[Step]) -> list[Step]:
    """Return the steps that are drawn: without the clean one, where two others are left."""
    later = [step for step in stages if step.name != CLEAN]
    return later if len(later) > 1 else list(stages)


def flatness_sentence(s: Summary, noun: str) -> str:
    """Return the sentence on how many samples the last half of the passes fooled; empty: no stages were recorded."""
    later = [step for step in steps(s) if step.name != CLEAN]
    if not later:
        return ""
    end = later[-1]
    if len({step.passes for step in later}) < 2:
        left = share_text(end.accuracy)
        return f"A single stage left {left}: whether more passes would find more cannot be seen."
    half = [step for step in later if step.passes <= end.passes / 2] or later[:1]
    more = round((half[-1].left - end.left) * s.n)
    spent = f"The last {number(end.passes - half[-1].passes)} of {number(end.passes)} passes per sample"
    what = f"fooled {more:,} more of {plural(s.n, noun)}" if more else f"fooled none more of {plural(s.n, noun)}"
    final = s.robust_accuracy.value
    checks = round((end.left - final) * s.n) if final is not None and finite(final) else 0
    then = f" Nearest points and checks then fooled {checks:,} more." if checks > 0 else ""
    return f"{spent} {what}.{then}"


def effort_plot(runs: Sequence[Run], size: Size) -> Plot | None:
    """Lay out accuracy against passes, a line for each run; None where no run has two stages.

    Args:
        runs: Runs to draw.
        size: Size of the drawing.
    """
    drawn = [(run, [step for step in drawn_steps(steps(run.summary)) if step.passes > 0]) for run in runs]
    drawn = [(run, stages) for run, stages in drawn if stages]
    if not any(len(stages) > 1 for _, stages in drawn):
        return None
    finals = [run for run, _ in drawn if tone(run.summary) != Tone.VOID and finite(run.summary.robust_accuracy.value)]
    shares = [step.left for _, stages in drawn for step in stages]
    shares += [value for run in finals for value in _span(run.summary.robust_accuracy)]
    axes = Axes.of(
        size, _passes_axis([step.passes for _, stages in drawn for step in stages], size), _left_axis(shares)
    )
    levels: list[Level] = []
    for run in finals:
        levels.append(_final_level(axes, run, levels, many=len(runs) > 1))
    traces, labels = [], []
    for run, stages in drawn:
        dots = [axes.dot(step.passes, step.left, step_tip(step, run, many=len(runs) > 1)) for step in stages]
        traces.append(Trace(run.place, axes.line(stairs([(step.passes, step.left) for step in stages])), dots=dots))
        if len(runs) == 1:
            labels = _stage_labels(axes, stages, dots, [level.label for level in levels])
    return Plot(axes, traces, levels=levels, labels=labels)


def _span(e: Estimate) -> tuple[float, float, float]:
    return e.value or 0.0, e.low, e.high


def _passes_axis(passes: Sequence[float], size: Size) -> Axis:
    """Return the axis of passes, logarithmic where a linear one would squeeze the first stage."""
    name = "passes per sample, forward + backward"
    if max(passes) >= LOG_AXIS_RATIO * min(passes):
        low, high = min(passes) / 1.2, max(passes) * 1.1
        return Axis(f"{name}, log scale", low, high, log_ticks(low, high), log=True)
    high = max(passes) * 1.03
    return Axis(name, 0.0, high, linear_ticks(0.0, high, min(size.ticks, 6)))


def _left_axis(shares: Sequence[float]) -> Axis:
    """Return the axis of accuracies around those that are drawn."""
    low, high = min(shares), max(shares)
    spare = max(0.08 * (high - low), 0.01)
    low, high = low - spare, high + spare
    return Axis("accuracy, %", low, high, share_ticks(low, high, Y_TICKS))


def _final_level(axes: Axes, run: Run, others: Sequence[Level], *, many: bool) -> Level:
    """Return the level of a run's robust accuracy."""
    e = run.summary.robust_accuracy
    bound = "at most " if tone(run.summary) == Tone.OVERSTATED else ""
    text = f"{run.letter}: {bound}{percent(e.value, e.n)}" if many else f"final: {bound}{share_text(e)}"
    return axes.level(run.place, _span(e), text, others)


def _stage_labels(axes: Axes, stages: Sequence[Step], dots: Sequence[Dot], occupied: Sequence[Label]) -> list[Label]:
    """Name the stages where there is room: the first and the last, then those that fooled most."""
    drops = [1.0, *(a.y - b.y for a, b in pairwise(dots))]
    order = sorted(range(len(dots)), key=lambda k: (k not in (0, len(dots) - 1), drops[k]))
    names = [(dots[k], f"{stages[k].place} {stages[k].name}") for k in order]
    return place_labels(names, occupied, (axes.left, TOP - 8, axes.width, axes.bottom))


def step_tip(step: Step, run: Run, *, many: bool) -> str:
    """Return the tooltip of a stage."""
    letter = f"{run.letter}, " if many else ""
    has_counts = step.n_attacked is not None and step.n_fooled is not None
    fooled = f", {step.n_fooled:,} of {step.n_attacked:,} fooled" if has_counts else ""
    left, passes = share_text(step.accuracy), number(step.passes)
    return f"{letter}{step.place} {step.name}: {left} left after {passes} passes{fooled}"


def effort_section(runs: Sequence[Run], sizes: Sequence[Size]) -> EffortSection:
    """Return accuracy against passes, of the runs that recorded stages.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    recorded = [(run, steps(run.summary), flatness_sentence(run.summary, run.noun)) for run in runs]
    return EffortSection(drawings(sizes, partial(effort_plot, runs)), [one for one in recorded if one[1]])
