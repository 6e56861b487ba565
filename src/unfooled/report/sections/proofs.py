"""Robust accuracy from certified to attacked, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.trust import Tone, tone

MOST = 20
"""Classes that are shown, at most."""


@dataclass(frozen=True)
class ClassBar:
    """Both ends of a class, in percent and in words.

    Attributes:
        name: The class.
        proven: Share that is proven, in percent.
        open: Share that is neither proven nor broken, in percent.
        text: Numbers of samples.
        label: The bar in words.
    """

    name: str
    proven: float
    open: float
    text: str
    label: str


def class_bars(run: Run) -> list[ClassBar]:
    """Return a bar for every class, the widest open part first; none where nothing was certified or no figure holds."""
    s = run.summary
    if tone(s) == Tone.VOID:
        return []
    rows = [e for e in s.certified_classes if e.n]
    bars = []
    for e in sorted(rows, key=lambda e: ((e.certified - e.unbroken) / e.n, e.label)):
        name, left = class_name(s.classes, e.label), e.unbroken - e.certified
        label = f"{name}: {e.certified} proven, {left} open, {e.n - e.unbroken} broken or wrong, of {e.n}"
        text = f"{e.certified} to {e.unbroken} of {e.n}" if left else f"{e.certified} of {e.n}"
        bars.append(ClassBar(name, 100 * e.certified / e.n, 100 * left / e.n, text, label))
    return bars


def proven_sections(runs: Sequence[Run]) -> list[tuple[Run, list[ClassBar], int]]:
    """Return the runs with bars, and how many classes each leaves out."""
    every = [(run, class_bars(run)) for run in runs]
    return [(run, bars[:MOST], max(0, len(bars) - MOST)) for run, bars in every if bars]
