"""A purifier in front of a model: what it adds, attack by attack, beside the network without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from unfooled.drawing.plots import Axes, Axis, Drawings, Plot, Size, Trace, drawings
from unfooled.evaluation.audit.guard_fields import Detector, Guard, Roc, purifier_sentence
from unfooled.evaluation.audit.records import Summary
from unfooled.report.runs import Run
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.curves import PERCENT
from unfooled.report.sections.purified import PurifiedRow, purified_rows
from unfooled.report.words import number, percent, plural
from unfooled.statistics.intervals import Estimate

Row = tuple[str, Estimate]
"""(name on the page, accuracy)."""


MOST_CLASSES = 20
"""Largest number of classes whose clusters are listed."""
KINDS = {"static points": "dotted", "all attacks": "dashed", "joint attack on label and detector": ""}
"""Attack that a detector is judged by -> dash of its line."""
DETECTED = Axis("detected, % of attacked samples", 0.0, 1.0, PERCENT)
"""The whole range of detection rates as an axis."""


@dataclass(frozen=True)
class Panel:
    """ROC curves of one score: its name, drawings by size, and the figures in words."""

    name: str
    figures: Drawings
    text: str


@dataclass(frozen=True)
class GuardSection:
    """Section of one run with a purifier.

    Attributes:
        run: Run that is shown.
        sentence: What the purifier adds, or why this is not stated.
        rows: Accuracies without and with the purifier.
        notes: Further sentences.
        panels: ROC curves of the purifier's scores as detectors.
        examples: Samples with pictures of their purification.
    """

    run: Run
    sentence: str
    rows: list[Row]
    notes: list[str]
    panels: list[Panel]
    examples: list[PurifiedRow]


def guard_sections(runs: Sequence[Run], sizes: Sequence[Size]) -> list[GuardSection]:
    """Return the sections of all runs that have a purifier.

    Args:
        runs: Runs of the page.
        sizes: Size of each drawing.
    """
    return [
        GuardSection(
            run,
            purifier_sentence(guard, run.summary.verdict),
            rows_of(run.summary, guard),
            notes_of(run.summary, guard),
            panels(guard, sizes),
            purified_rows(run, guard),
        )
        for run in runs
        if (guard := run.summary.guard) is not None
    ]


def panels(guard: Guard, sizes: Sequence[Size]) -> list[Panel]:
    """Return the ROC curves of each score whose curves are stored.

    Args:
        guard: Record of the purifier.
        sizes: Size of each drawing.
    """
    return [
        Panel(one.name, drawings(sizes, partial(roc_plot, one)), roc_text(one))
        for one in guard.detectors
        if all(len(roc.curve) > 1 for roc in rocs_of(one).values())
    ]


def rocs_of(one: Detector) -> dict[str, Roc]:
    """Return the curves of a detector by attack, in the order of the legend."""
    return dict(zip(KINDS, (one.static, one.attacked, one.joint), strict=True))


def roc_plot(one: Detector, size: Size) -> Plot:
    """Lay out the share of attacked samples that are detected against that of clean ones, a line for each attack."""
    axes = Axes.of(size, Axis("false alarms, % of clean samples", 0.0, 1.0, PERCENT), DETECTED)
    traces = [
        Trace(place, axes.line(roc.curve), dash=dash)
        for place, (roc, dash) in enumerate(zip(rocs_of(one).values(), KINDS.values(), strict=True))
    ]
    return Plot(axes, traces)


def roc_text(one: Detector) -> str:
    """Return a sentence on the curves, for those who cannot see them."""
    return "; ".join(
        f"{name}: area {roc.auroc:.2f}, {100 * roc.detected:.0f} % detected at 5 % false alarms"
        for name, roc in rocs_of(one).items()
    )


def rows_of(s: Summary, guard: Guard) -> list[Row]:
    """Return the accuracies, in the order of the table."""
    rows: list[tuple[str, Estimate | None]] = [
        ("Without the purifier, clean", guard.bare_clean),
        ("Without the purifier, attacked", guard.bare_robust),
        ("With the purifier, clean", s.clean_accuracy),
        *((f"With the purifier, {row.name}", row.accuracy) for row in guard.rows),
        ("With the purifier, worst of all", guard.worst),
    ]
    return [(name, e) for name, e in rows if e is not None]


def clusters_sentence(s: Summary, guard: Guard) -> str:
    """Return a sentence on the number of clusters of each class."""
    counts = [one.clusters for one in guard.clusters]
    shown = ", ".join(f"{class_name(s.classes, one.label)}: {one.clusters}" for one in guard.clusters[:MOST_CLASSES])
    more = ", ..." if len(counts) > MOST_CLASSES else ""
    return f"{plural(sum(counts), 'cluster')}, by class: {shown}{more}; a dictionary for each."


def notes_of(s: Summary, guard: Guard) -> list[str]:
    """Return what else is known about the purifier, one sentence each."""
    notes = [clusters_sentence(s, guard)] if guard.clusters else []
    if guard.missing:
        notes.append(f"Robust accuracy is {guard.not_stated}.")
    if guard.left is not None:
        notes.append(
            f"The purifier leaves {number(100 * guard.left)} % of the length of a perturbation (median of "
            f"{guard.left_n:,}, L2)."
        )
    clean, attacked = guard.own_cluster_clean, guard.own_cluster_attacked
    if clean is not None and attacked is not None:
        notes.append(
            f"The nearest cluster is of the right class for {percent(clean.value, clean.n)} of the samples, and for "
            f"{percent(attacked.value, attacked.n)} under the attack on the assignment."
        )
    if guard.submissions is not None:
        sent = guard.submissions
        notes.append(
            f"Of {sent.count} submissions of each point, {percent(sent.mean.value, sent.mean.n)} are right; "
            f"{percent(sent.worst.value, sent.worst.n)} of the samples are right in all of them."
        )
    if (made := guard.choice) is not None and (added := made.adds.value) is not None:
        low, high = (number(100 * (end or 0.0)) for end in (made.adds.low, made.adds.high))
        notes.append(
            f"Under the same short attack {percent(made.own_attacked.value, made.n)} are right with the dictionary of "
            f"the nearest cluster and {percent(made.shuffled_attacked.value, made.n)} with the dictionaries shuffled: "
            f"the choice adds {number(100 * added)} points [{low}, {high}], n = {made.n}."
        )
        if made.one_attacked is not None and made.one_adds is not None and made.one_adds.value is not None:
            low, high = (number(100 * (end or 0.0)) for end in (made.one_adds.low, made.one_adds.high))
            notes.append(
                f"With the dictionary of the most frequent cluster for all, {percent(made.one_attacked.value, made.n)} "
                f"are right: the choice adds {number(100 * made.one_adds.value)} points [{low}, {high}]."
            )
    notes += [
        f"As a detector, {one.name}: area under the ROC {one.static.auroc:.2f} against static points, "
        f"{one.attacked.auroc:.2f} against all attacks, {one.joint.auroc:.2f} against a joint attack that knows it"
        f"{', which hides less' if one.joint.auroc > one.attacked.auroc else ''}; "
        f"at all of these points {percent(one.right_or_rejected.value, one.n)} are right or rejected, n = {one.n}."
        for one in guard.detectors
    ]
    if (spent := guard.beside.forward + guard.beside.backward) > 0:
        notes.append(
            f"Attacks without the purifier and on parts of it took {number(spent)} passes per sample, beside those of "
            "the attack through it."
        )
    if not guard.differentiable:
        notes.append("The purifier passes no gradient on to its input.")
    return notes
