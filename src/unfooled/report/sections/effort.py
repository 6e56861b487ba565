"""Robust accuracy against passes: does the attack still find more, or has the curve become flat?

    passes = forwards + backwards a sample so far,   accuracy = share that no stage has fooled yet

The accuracy axis holds what the attack's stages left, and the final interval; the clean accuracy is left out, so that
the flat end can be seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from unfooled.drawing.plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Dot,
    Label,
    Level,
    Plot,
    Trace,
    log_ticks,
    placed,
    share_ticks,
)
from unfooled.evaluation.audit.records import Summary
from unfooled.report.runs import Run
from unfooled.report.sections.curves import eps_ticks
from unfooled.report.trust import tone
from unfooled.report.words import estimate_interval, finite, number, percent, plural
from unfooled.statistics.intervals import Estimate

NAMES = {
    "adopt": "all of it, judged",
    "apgd": "APGD",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "attack": "the attack",
    "decision": "labels alone",
    "fab-t": "FAB-T",
    "longer": "APGD, longer",
    "odi": "ODI wave",
    "square": "Square",
    "targets": "single classes",
    "transfer": "from a twin",
}
LOGARITHMIC = 6  # times more passes at the end than after the first stage


@dataclass(frozen=True)
class Step:
    """The attack after one of its stages; `taken` and `closed` are None where they were not kept."""

    place: int
    name: str
    passes: float
    forward: float
    backward: float
    accuracy: Estimate
    taken: int | None
    closed: int | None


@cache
def share_of(k: int, n: int) -> Estimate:
    """The share k of n with its Clopper-Pearson interval."""
    import torch

    from unfooled.statistics.intervals import share

    return share(torch.arange(n) < k)


def steps(s: Summary) -> list[Step]:
    """The stages in their order. Passes never fall and accuracy never rises, whatever a stage counted of them."""
    found: list[Step] = []
    for p in s.progress:
        if not finite(p.forward, p.backward, p.accuracy):
            continue
        passes, accuracy = p.forward + p.backward, p.accuracy
        forward, backward = p.forward, p.backward
        if found:
            last = found[-1]
            accuracy = min(accuracy, last.accuracy.value or 0.0)
            if passes < last.passes:
                passes, forward, backward = last.passes, last.forward, last.backward
        kept = p.taken > 0
        check, name = re.fullmatch(r"(?:\d+-)?(?:(D\d+)-)?(.*)", p.stage, re.DOTALL).groups()  # type: ignore[union-attr]
        named = NAMES.get(name, name) + (f", {check}" if check else "")
        left = share_of(round(accuracy * s.n), s.n).model_copy(update={"value": accuracy})
        found.append(
            Step(
                len(found), named, passes, forward, backward, left, p.taken if kept else None,
                p.closed if kept else None,
            )
        )  # fmt: skip
    return found


def attacking(found: Sequence[Step]) -> list[Step]:
    """The steps that are drawn: without the clean one, where two others are left."""
    later = [step for step in found if step.name != "clean"]
    return later if len(later) > 1 else list(found)


def flatness(s: Summary, noun: str) -> str:
    """How much the last half of the passes found, in a sentence; empty where no stages were kept."""
    found = steps(s)
    later = [step for step in found if step.name != "clean"]
    if not later:
        return ""
    end = later[-1]
    left = share_text(end.accuracy)
    if len({step.passes for step in later}) < 2:
        return f"One stage alone left {left}: whether more passes would find more cannot be seen."
    before = [step for step in later if step.passes <= end.passes / 2] or later[:1]
    more = round(((before[-1].accuracy.value or 0.0) - (end.accuracy.value or 0.0)) * s.n)
    spent = f"The last {number(end.passes - before[-1].passes)} of {number(end.passes)} passes a sample"
    what = f"fooled {more:,} more of {plural(s.n, noun)}" if more else f"fooled none more of {plural(s.n, noun)}"
    late = s.robust_accuracy.value
    checks = round(((end.accuracy.value or 0.0) - late) * s.n) if late is not None and finite(late) else 0
    then = f" Nearest points and checks then fooled {checks:,} more." if checks > 0 else ""
    return f"{spent} {what}.{then}"


def share_text(e: Estimate) -> str:
    """A share with its interval: 60.1 % [57.0 to 63.2 %]."""
    between = estimate_interval(e)
    return percent(e.value, e.n) + (f" [{between}]" if between else "")


def progress(runs: Sequence[Run], *, width: int, height: int, ticks: int) -> Plot | None:
    """Lay out accuracy against passes, a line a run; None where no run has two stages.

    Args:
        runs: the runs to draw.
        width: of the drawing, pixels.
        height: of the drawing, pixels.
        ticks: at most this many steps on the accuracy axis.
    """
    drawn = [(run, [step for step in attacking(steps(run.summary)) if step.passes > 0]) for run in runs]
    drawn = [(run, found) for run, found in drawn if found]
    if not any(len(found) > 1 for _, found in drawn):
        return None
    every = [(run, run.summary.robust_accuracy, tone(run.summary)) for run, _ in drawn]
    finals = [(run, e, how) for run, e, how in every if how != "void" and finite(e.value)]
    shares = [step.accuracy.value or 0.0 for _, found in drawn for step in found]
    shares += [v for _, e, _ in finals for v in (e.low, e.high, e.value or 0.0)]
    low, high = min(shares), max(shares)
    spare = max(0.08 * (high - low), 0.01)
    low, high = low - spare, high + spare
    passes = [step.passes for _, found in drawn for step in found]
    logarithmic = max(passes) >= LOGARITHMIC * min(passes)
    first, last = (min(passes) / 1.2, max(passes) * 1.1) if logarithmic else (0.0, max(passes) * 1.03)
    right, bottom = width - RIGHT, height - BOTTOM

    def px(value: float) -> float:
        part = math.log(value / first) / math.log(last / first) if logarithmic else value / last
        return round(LEFT + part * (right - LEFT), 1)

    def py(share: float) -> float:
        return round(bottom - (share - low) / (high - low) * (bottom - TOP), 1)

    levels: list[Level] = []
    for run, e, how in finals:
        y = py(e.value or 0.0)
        bound = "at most " if how == "overstated" else ""
        text = f"{run.letter}: {bound}{percent(e.value, e.n)}" if len(runs) > 1 else f"final: {bound}{share_text(e)}"
        shift = sum(7.2 * len(other.label.text) + 12 for other in levels if abs(other.y - y) < 16)
        levels.append(
            Level(run.place, y, py(e.high), py(e.low), Label(right - 4 - round(shift, 1), y + 15, text, "end"))
        )
    traces, named = [], []
    for run, found in drawn:
        dots = [Dot(px(t.passes), py(t.accuracy.value or 0.0), tip(t, run, len(runs) > 1)) for t in found]
        corners = [f"{dots[0].x},{dots[0].y}"]
        corners += [f"{b.x},{y}" for a, b in pairwise(dots) for y in (a.y, b.y)]
        traces.append(Trace(run.place, " ".join(corners), dots=dots))
        if len(runs) == 1:
            drop = [1.0, *(a.y - b.y for a, b in pairwise(dots))]
            order = sorted(range(len(dots)), key=lambda k: (k not in (0, len(dots) - 1), drop[k]))
            named = [(dots[k], f"{found[k].place} {found[k].name}") for k in order]
    if logarithmic:
        x_ticks = log_ticks(first, last)
    else:
        x_ticks = eps_ticks(last, False, 6 if width > 500 else 4)
    return Plot(
        width=width,
        height=height,
        left=LEFT,
        right=right,
        top=TOP,
        bottom=bottom,
        x_name="passes a sample, forward + backward" + (", log scale" if logarithmic else ""),
        x_ticks=[(px(v) if v else float(LEFT), text) for v, text in x_ticks],
        y_ticks=[(py(v), text) for v, text in share_ticks(low, high, ticks)],
        traces=traces,
        levels=levels,
        labels=placed(named, [level.label for level in levels], (LEFT, TOP - 8, width, bottom)),
    )


def tip(step: Step, run: Run, many: bool) -> str:
    """What is shown when the pointer rests on a stage."""
    whose = f"{run.letter}, " if many else ""
    fooled = f", {step.closed:,} of {step.taken:,} fooled" if step.taken is not None and step.closed is not None else ""
    return (
        f"{whose}{step.place} {step.name}: {share_text(step.accuracy)} left after {number(step.passes)} passes{fooled}"
    )
