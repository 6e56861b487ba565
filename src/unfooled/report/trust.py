"""Trust in an audit's figure: how the page may show it, and the checks that found something apart from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import Finding

TITLES = {
    "D1": "mode and types",
    "D2": "preprocessing",
    "D3": "form of the outputs",
    "D4": "steady answers",
    "D5": "jumps of the loss",
    "D6": "vanishing gradients",
    "D7": "gradients that lie",
    "D8": "missing gradients",
    "D9": "rough loss",
    "D10": "same answer twice",
    "D11": "more steps",
    "D12": "more restarts",
    "D13": "one step, or noise",
    "D14": "search without gradients",
    "D15": "points made on a twin",
    "D16": "random points",
    "D17": "nearest points",
    "D18": "anything allowed",
    "D19": "saturated loss",
    "D20": "memory of queries",
    "D21": "few or tied logits",
    "D22": "refusals",
    "D23": "8-bit images",
    "D24": "certificates",
}
"""Check -> what it looks at; the documentation of the checks says when each fires."""
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
    """Return whether the run itself does not believe its robust accuracy."""
    return tone(s) in ("overstated", "void")


def doubt_sentence(s: Summary) -> str:
    """Say what the verdict means for figures that follow from the attack; empty where it is trusted."""
    return {
        "overstated": "The attack was not strong enough for this model: what follows from it is probably too high.",
        "void": "No figure can be believed: what follows is kept for the search of the cause only.",
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
