"""Trust in an audit's figure: how the page shows it, and its checks, those that fired separate from the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from unfooled.evaluation.audit.records import OF_THE_VERDICT, Summary
from unfooled.evaluation.checks.table import CHECKS, Finding
from unfooled.evaluation.checks.verdict import Trust

TITLES = {id_: check.title for id_, check in CHECKS.items()}
"""Check -> its subject; the documentation of the checks says when each fires."""


class Tone(StrEnum):
    """Tone in which the page shows a run's figures; the value is the class of its style."""

    NONE = ""
    """The run made no checks."""
    SOUND = "sound"
    EXTENDED = "extended"
    OVERSTATED = "overstated"
    VOID = "void"


TONES: Mapping[str, Tone] = {
    Trust.SOUND: Tone.SOUND,
    Trust.EXTENDED: Tone.EXTENDED,
    Trust.OVERSTATED: Tone.OVERSTATED,
    Trust.NOT_EVALUABLE: Tone.VOID,
}
"""Verdict -> how the page shows the figure."""


def tone(s: Summary) -> Tone:
    """Return how figures are shown.

    A verdict that this version does not know is shown as the run trusts it.
    """
    if not s.verdict:
        return Tone.NONE
    return TONES.get(s.verdict, Tone.SOUND if s.trusted else Tone.OVERSTATED)


def doubted(s: Summary) -> bool:
    """Return whether the run's own verdict does not trust its robust accuracy."""
    return tone(s) in (Tone.OVERSTATED, Tone.VOID)


def was_cut(s: Summary) -> bool:
    """Return whether the time was over before the attack on the label and its checks were."""
    return any(name in s.left_out for name in OF_THE_VERDICT)


def doubt_sentence(s: Summary) -> str:
    """Return a sentence on what the verdict means for figures that depend on the attack; empty where it is trusted."""
    if tone(s) == Tone.OVERSTATED and was_cut(s):
        return "The time was over before the audit was complete: what follows from its attack is probably too high."
    return {
        Tone.OVERSTATED: "The attack was not strong enough for this model: what follows from it is probably too high.",
        Tone.VOID: "No figure can be believed: what follows is shown only to help find the cause.",
    }.get(tone(s), "")


def reason(s: Summary) -> str:
    """Return why the verdict is what it is, without the numbers of checks, which their list on the page has."""
    text = re.sub(r" \((?:D\d+(?:, )?)+\)", "", s.because)  # "gradients are hidden (D6, D7) and ..."
    text = re.sub(r"\bD\d+[,:] ", "", text)  # "D12: five more restarts ..."
    return text[:1].upper() + text[1:]


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
