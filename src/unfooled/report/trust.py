"""Trust in an audit's figure: how the page may show it, and the checks that found something apart from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import CHECKS, Finding

TITLES = {id_: check.title for id_, check in CHECKS.items()}
"""Check -> its subject; the documentation of the checks says when each fires."""
TONES = {"SOUND": "sound", "EXTENDED": "extended", "OVERSTATED": "overstated", "NOT EVALUABLE": "void"}
"""Verdict -> how the page shows the figure."""


def tone(s: Summary) -> str:
    """Return how figures are shown: "sound", "extended", "overstated" or "void"; "" for a run that made no checks.

    A verdict that this version does not know is shown as the run trusts it.
    """
    if not s.verdict:
        return ""
    return TONES.get(s.verdict, "sound" if s.trusted else "overstated")


def doubted(s: Summary) -> bool:
    """Return whether the run's own verdict does not trust its robust accuracy."""
    return tone(s) in ("overstated", "void")


def doubt_sentence(s: Summary) -> str:
    """Say what the verdict means for figures that follow from the attack; empty where it is trusted."""
    return {
        "overstated": "The attack was not strong enough for this model: what follows from it is probably too high.",
        "void": "No figure can be believed: what follows is shown only to help find the cause.",
    }.get(tone(s), "")


@dataclass(frozen=True)
class Checks:
    """The findings of a run: those that fired, and the others."""

    fired: list[Finding]
    quiet: list[Finding]

    @property
    def total(self) -> int:
        """Number of checks."""
        return len(self.fired) + len(self.quiet)


def split_checks(findings: Sequence[Finding]) -> Checks:
    """Split findings into those that fired and those that did not."""
    return Checks([f for f in findings if f.fired], [f for f in findings if not f.fired])
