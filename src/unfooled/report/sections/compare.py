"""Comparison of runs: differences of figures and settings, with intervals.

    difference  d = b - a,   low  = d - sqrt((b - b_low)^2 + (a_high - a)^2)
                             high = d + sqrt((b_high - b)^2 + (a - a_low)^2)

a is a figure of the first run, in [a_low, a_high], and b the same figure of another one.
The intervals of the two runs are combined by their squares, as if the runs had judged independent samples. Where both
judged the same samples this is too wide, so a difference that is called clear is clear.

References:
    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 1998
    (method 10). Zou, Donner, Construction of confidence limits about effect measures, Statistics in Medicine 2008.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.explanations.records import Movement
from unfooled.report.runs import Run
from unfooled.report.sections.nearness import NORMS, median_estimate, written_in_255ths
from unfooled.report.trust import Tone, doubted, tone
from unfooled.report.words import MINUS, between, decimals, finite, mean_text, number, percent, signed
from unfooled.statistics.intervals import Estimate, Mean

Measured = Estimate | Mean


@dataclass(frozen=True)
class Change:
    """A difference against the first run; `clear` where its interval leaves out 0.

    Where a run does not believe its figure there is no difference to speak of: `text` says so and `interval` is empty.
    """

    text: str
    interval: str
    clear: bool


@dataclass(frozen=True)
class Line:
    """A row of the comparison, with a value for each run and a change for each run but the first."""

    name: str
    values: list[str]
    changes: list[Change | None]


def difference(a: Measured, b: Measured) -> tuple[float, float, float] | None:
    """Return the difference b - a with its 95 % interval; None where either was not measured."""
    if a.value is None or b.value is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    if not finite(a.value, a.low, a.high, b.value, b.low, b.high):
        return None
    d = b.value - a.value
    low = d - math.hypot(b.value - b.low, a.high - a.value)
    return d, low, d + math.hypot(b.high - b.value, a.value - a.low)


def _change(a: Measured, b: Measured) -> Change | None:
    interval = difference(a, b)
    if interval is None:
        return None
    share = isinstance(a, Estimate)
    d, low, high = (100 * v if share else v for v in interval)
    places = 1 if share else decimals(max(abs(a.value or 0), abs(b.value or 0)))
    return Change(f"{signed(d, places)}{' points' if share else ''}", between(low, high, places), low > 0 or high < 0)


def _show(m: Measured) -> str:
    return percent(m.value, m.n) if isinstance(m, Estimate) else mean_text(m)


def _line(name: str, measured: Sequence[Measured | None]) -> Line:
    first = measured[0]
    changes = [_change(first, m) if first is not None and m is not None else None for m in measured[1:]]
    return Line(name, [_show(m) if m is not None else MINUS for m in measured], changes)


def _bounded(name: str, runs: Sequence[Run], measured: Sequence[Measured | None], bound: str = "at most") -> Line:
    """Return a row of figures that depend on the attack; no difference where a run does not trust its figure."""
    line = _line(name, measured)
    tones = [tone(r.summary) for r in runs]
    shown = {"overstated": bound + " {}, doubtful", "void": "none ({} struck out)"}
    values = [
        shown.get(how, "{}").format(value) if m is not None and m.value is not None else value
        for how, value, m in zip(tones, line.values, measured, strict=True)
    ]
    changes: list[Change | None] = []
    for r, change in zip(runs[1:], line.changes, strict=True):
        doubtful = next((one for one in (r, runs[0]) if doubted(one.summary)), None)
        if change is not None and doubtful is not None:
            change = Change(f"no claim, {doubtful.letter} is {doubtful.summary.verdict}", "", False)
        changes.append(change)
    return Line(name, values, changes)


def _nearest(s: Summary, norm: str) -> Mean | None:
    return next((median_estimate(record) for record in s.nearest if record.norm == norm), None)


def _scaled(m: Mean | None, factor: float) -> Mean | None:
    """Return a mean in another unit, such as radii in multiples of 1/255."""
    if m is None:
        return None
    value, low, high = (v if v is None else factor * v for v in (m.value, m.low, m.high))
    return Mean(value=value, low=low, high=high, n=m.n)


def _purifier_lines(runs: Sequence[Run]) -> list[Line]:
    """Return the lines on purifiers, paired differences in points; empty where no run has one."""
    guards = [r.summary.guard for r in runs]
    if not any(guards):
        return []
    held = [None if tone(r.summary) == Tone.VOID else g for g, r in zip(guards, runs, strict=True)]
    left = [MINUS if g is None or g.left is None else f"{number(100 * g.left)} %" for g in held]
    adds, static, larger = (
        [None if g is None else getattr(g, name) for g in held] for name in ("adds", "static", "static_minus_worst")
    )
    return [
        _bounded("The purifier adds, under the worst attack, points", runs, [_scaled(m, 100) for m in adds]),
        _bounded("Static, without knowledge of the purifier", runs, static),
        _bounded("Static minus worst, points", runs, [_scaled(m, 100) for m in larger], "at least"),
        Line("Perturbation left by the purifier", left, [None] * (len(runs) - 1)),
    ]


def _movement(s: Summary, like: Movement) -> Mean | None:
    return next((m.fooled for m in s.movements if (m.name, m.explanation) == (like.name, like.explanation)), None)


def _explanation_lines(summaries: Sequence[Summary]) -> list[Line]:
    """Return the lines on attacks on explanations, a pair for each explanation that was attacked."""
    lines = []
    for name in dict.fromkeys(r.reasons.explanation for r in summaries if r.reasons is not None and r.reasons.curve):
        records = [r.reasons if r.reasons is not None and r.reasons.explanation == name else None for r in summaries]
        points = [each.at_eps() if each is not None else None for each in records]
        lens = [point.lens if point is not None else None for point in points]
        first = [each.reason_first if each is not None else None for each in records]
        lines += [
            _line(f"Corrected LENS under attack, {name}", lens),
            _line(f"Reason moved before the label, {name}", first),
        ]
    return lines


def compare(runs: Sequence[Run]) -> list[Line]:
    """Return the comparison table, measures in the order of the page."""
    summaries = [r.summary for r in runs]
    lines = (
        [Line("Verdict", [r.verdict or MINUS for r in summaries], [None] * (len(summaries) - 1))]
        if any(r.verdict for r in summaries)
        else []
    )
    lines.append(_bounded("Robust accuracy (upper bound)", runs, [r.robust_accuracy for r in summaries]))
    if any(r.robust_accuracy_8bit for r in summaries):
        lines.append(_bounded("Robust accuracy, 8-bit images", runs, [r.robust_accuracy_8bit for r in summaries]))
    lines += _purifier_lines(runs)
    if any(r.certified_accuracy for r in summaries):
        proven = [r.certified_accuracy if tone(r) != Tone.VOID else None for r in summaries]
        lines.append(_line("Robust accuracy, proven (lower bound)", proven))
    if any(r.smoothed for r in summaries):
        smoothed = [r.smoothed.certified_accuracy if r.smoothed and tone(r) != Tone.VOID else None for r in summaries]
        lines.append(_line("Smoothed classifier, proven (lower bound)", smoothed))
    lines += [
        _line("Clean accuracy", [r.clean_accuracy for r in summaries]),
        _bounded("Attack success rate", runs, [r.attack_success_rate for r in summaries], "at least"),
    ]
    if any(r.no_answer is not None and r.no_answer.value for r in summaries):
        lines.append(_line("No answer under attack", [r.no_answer for r in summaries]))
    for norm in dict.fromkeys(record.norm for r in summaries for record in r.nearest):
        medians = [_nearest(r, norm) for r in summaries]
        of_255 = all(written_in_255ths(r, norm) for r in runs)
        scaled = [_scaled(m, 255) for m in medians]
        name = f"Nearest example, median, {NORMS.get(norm, (norm, ''))[0]}"
        lines.append(_bounded(f"{name}, in 255ths" if of_255 else name, runs, scaled if of_255 else medians))
    units = {r.noise_unit for r in summaries}
    if len(units) == 1:
        lines.append(_line(f"Noise of the examples ({units.pop()})", [r.noise for r in summaries]))
    lines += [
        _line("PSNR of the examples (dB)", [r.psnr for r in summaries]),
        _line("SSIM of the examples", [r.ssim for r in summaries]),
    ]
    moved = {(m.name, m.explanation): m for r in summaries for m in r.movements}
    lines += [_line(f"{m.name}, {m.explanation}, fooled", [_movement(r, m) for r in summaries]) for m in moved.values()]
    lines += _explanation_lines(summaries)
    spent = [("Passes per sample, attack", [r.passes for r in summaries])]
    if any(r.diagnostics for r in summaries):
        spent.append(("Passes per sample, checks", [r.diagnostic_passes for r in summaries]))
    none: list[Change | None] = [None] * (len(summaries) - 1)
    return [*lines, *(Line(name, [number(p.forward + p.backward) for p in of], none) for name, of in spent)]


def _effort(s: Summary) -> object:
    """Return the settings of the attack on explanations; None where there was none."""
    reasons = s.reasons
    return (
        (reasons.explanation, reasons.steps, reasons.restarts, reasons.random_points)
        if reasons is not None and reasons.curve
        else None
    )


SETTINGS: dict[str, Callable[[Summary], object]] = {
    "data": lambda s: s.data,
    "number of samples": lambda s: s.n,
    "threat": lambda s: s.threat,
    "attack": lambda s: s.attack,
    "seed": lambda s: s.seed,
    "explanation": lambda s: s.explanation,
    "attack on explanations": _effort,
}
"""Setting -> its value in a record."""


def different_settings(runs: Sequence[Run]) -> list[str]:
    """Name the settings in which the runs differ; differences of their figures are then not the models' alone."""
    return [name for name, read in SETTINGS.items() if len({read(r.summary) for r in runs} - {None}) > 1]
