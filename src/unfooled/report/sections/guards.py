"""A purifier in front of a model: what it adds, attack by attack, beside the network without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.evaluation.audit.records import Guard, Summary, purifier_sentence
from unfooled.report.runs import Run
from unfooled.report.words import number, percent
from unfooled.statistics.intervals import Estimate

Row = tuple[str, Estimate]
"""(name on the page, accuracy)."""


@dataclass(frozen=True)
class GuardSection:
    """Section of one run with a purifier.

    Attributes:
        run: Run that is shown.
        sentence: What the purifier adds, or why this is not stated.
        rows: Accuracies without and with the purifier.
        notes: Further sentences.
    """

    run: Run
    sentence: str
    rows: list[Row]
    notes: list[str]


def guard_sections(runs: Sequence[Run]) -> list[GuardSection]:
    """Return the sections of all runs that have a purifier.

    Args:
        runs: Runs of the page.
    """
    return [
        GuardSection(run, purifier_sentence(guard), rows_of(run.summary, guard), notes_of(guard))
        for run in runs
        if (guard := run.summary.guard) is not None
    ]


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


def notes_of(guard: Guard) -> list[str]:
    """Return what else is known about the purifier, one sentence each."""
    notes = []
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
    notes += [
        f"As a detector, {one.name}: area under the ROC {one.static.auroc:.2f} against static points, "
        f"{one.attacked.auroc:.2f} against all attacks, {one.joint.auroc:.2f} against a joint attack that knows it; "
        f"under that attack {percent(one.right_or_rejected.value, one.n)} are right or rejected, n = {one.n}."
        for one in guard.detectors
    ]
    if not guard.differentiable:
        notes.append("The purifier passes no gradient on to its input.")
    return notes
