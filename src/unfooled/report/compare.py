"""Two or more runs beside each other: what differs, and by how much more than chance would.

    difference  d = b - a,   low = d - sqrt((b - b_low)^2 + (a_high - a)^2),   high likewise

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

from unfooled.evaluation.records import Estimate, Mean, Movement, Summary
from unfooled.report.runs import Run
from unfooled.report.words import MINUS, between, decimals, finite, mean, number, percent, signed

Measured = Estimate | Mean


@dataclass(frozen=True)
class Change:
    """A difference against the first run; `clear` where its interval leaves out 0."""

    text: str
    interval: str
    clear: bool


@dataclass(frozen=True)
class Line:
    """A row of the comparison: a value for each run, a change for each run but the first."""

    name: str
    values: list[str]
    changes: list[Change | None]


def difference(a: Measured, b: Measured) -> tuple[float, float, float] | None:
    """Difference b - a with its 95 % interval; None where either was not measured."""
    if a.value is None or b.value is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    if not finite(a.value, a.low, a.high, b.value, b.low, b.high):
        return None
    d = b.value - a.value
    low = d - math.hypot(b.value - b.low, a.high - a.value)
    return d, low, d + math.hypot(b.high - b.value, a.value - a.low)


def _change(a: Measured, b: Measured) -> Change | None:
    found = difference(a, b)
    if found is None:
        return None
    share = isinstance(a, Estimate)
    d, low, high = (100 * v if share else v for v in found)
    places = 1 if share else decimals(max(abs(a.value or 0), abs(b.value or 0)))
    return Change(f"{signed(d, places)}{' points' if share else ''}", between(low, high, places), low > 0 or high < 0)


def _show(m: Measured) -> str:
    return percent(m.value, m.n) if isinstance(m, Estimate) else mean(m)


def _line(name: str, found: Sequence[Measured | None]) -> Line:
    first = found[0]
    changes = [_change(first, m) if first is not None and m is not None else None for m in found[1:]]
    return Line(name, [_show(m) if m is not None else MINUS for m in found], changes)


def _movement(s: Summary, like: Movement) -> Mean | None:
    return next((m.fooled for m in s.movements if (m.name, m.explanation) == (like.name, like.explanation)), None)


def compare(runs: Sequence[Run]) -> list[Line]:
    """The comparison table, measures in the order of the page."""
    s = [r.summary for r in runs]
    lines = [
        _line("Robust accuracy (upper bound)", [r.robust_accuracy for r in s]),
        _line("Clean accuracy", [r.clean_accuracy for r in s]),
        _line("Attack success rate", [r.attack_success_rate for r in s]),
    ]
    units = {r.noise_unit for r in s}
    if len(units) == 1:
        lines.append(_line(f"Noise of the examples ({units.pop()})", [r.noise for r in s]))
    lines += [
        _line("PSNR of the examples (dB)", [r.psnr for r in s]),
        _line("SSIM of the examples", [r.ssim for r in s]),
    ]
    moved = {(m.name, m.explanation): m for r in s for m in r.movements}
    lines += [_line(f"{m.name}, {m.explanation}, fooled", [_movement(r, m) for r in s]) for m in moved.values()]
    totals = [number(r.passes.forward + r.passes.backward) for r in s]
    return [*lines, Line("Passes per sample", totals, [None] * (len(s) - 1))]


ASKED: dict[str, Callable[[Summary], object]] = {
    "data": lambda s: s.data,
    "number of samples": lambda s: s.n,
    "threat": lambda s: s.threat,
    "attack": lambda s: s.attack,
    "seed": lambda s: s.seed,
    "explanation": lambda s: s.explanation,
}


def unlike(runs: Sequence[Run]) -> list[str]:
    """What was not asked alike of the runs, by name; differences are then not the models' alone."""
    return [name for name, read in ASKED.items() if len({read(r.summary) for r in runs}) > 1]
