"""Verdict of an audit, from all of its findings (D25)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from unfooled.evaluation.checks.table import CHECKS, CheckId, Finding, Kind

LOW_ROBUST_ACCURACY = 0.05
"""Robust accuracy below which nothing is left to overstate."""


class Trust(StrEnum):
    """Verdict of an audit: can its robust accuracy be believed?"""

    SOUND = "SOUND"
    """Nothing speaks against the figure."""
    EXTENDED = "EXTENDED"
    """Something did; the attack went on until nothing did."""
    OVERSTATED = "OVERSTATED"
    """The true figure is probably lower."""
    NOT_EVALUABLE = "NOT EVALUABLE"
    """No figure can be believed."""

    @property
    def trusted(self) -> bool:
        """True where the figure counts."""
        return self in (Trust.SOUND, Trust.EXTENDED)


class Conclusion(NamedTuple):
    """A verdict and why, in one or two sentences."""

    verdict: Trust
    because: str


def fired(findings: Iterable[Finding], *ids: CheckId) -> bool:
    """Return whether a check fired: one of `ids`, or any where none is given."""
    return any(f.fired and (not ids or f.id in ids) for f in findings)


def of_kind(findings: Iterable[Finding], kind: Kind) -> list[str]:
    """Return the ids of the checks of a kind that fired."""
    return list(dict.fromkeys(f.id for f in findings if f.fired and f.kind == kind))


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return one finding per check: the first that fired, else the last; in the order of their numbers."""
    best: dict[str, Finding] = {}
    for f in findings:
        if f.id not in best or not best[f.id].fired:
            best[f.id] = f
    return sorted(best.values(), key=lambda f: int(f.id[1:]))


def _hardly_any(masking: Sequence[str], absent: Sequence[str]) -> Conclusion:
    """Return the verdict on a model of which an attack has left next to nothing."""
    if masking:
        because = f"The model hides its gradients ({', '.join(masking)}) and is not robust all the same."
        return Conclusion(Trust.EXTENDED, because)
    if absent:
        return Conclusion(Trust.EXTENDED, "Hardly a sample withstood attacks that use no gradient of the model.")
    return Conclusion(Trust.SOUND, "Hardly a sample withstood; a stronger attack could not say much else.")


def conclude(
    findings: Sequence[Finding],
    again: Sequence[Finding],
    robust: float,
    *,
    extended: bool,
    stopped: bool = False,
    left_out: Sequence[str] = (),
) -> Conclusion:
    """Return the verdict.

    Args:
        findings: Findings of the whole run.
        again: Findings of the checks that were repeated after the attack went on.
        robust: Robust accuracy.
        extended: True if the attack went on at all.
        stopped: True if it was stopped at its limit of passes.
        left_out: Names of what there was no time for; no such verdict is trusted.
    """
    stop, masking = of_kind(findings, Kind.STOP), of_kind(findings, Kind.MASKING)
    absent = of_kind(findings, Kind.ABSENT)
    details = {f.id: f.detail for f in findings if f.fired}
    if stop:
        reasons = "; ".join(f"{key}, {details[key]}" for key in stop)
        return Conclusion(Trust.NOT_EVALUABLE, f"No figure can be believed: {reasons}.")
    if left_out:
        return Conclusion(
            Trust.OVERSTATED, f"The time was over before the verdict was complete; left out: {', '.join(left_out)}."
        )
    if robust <= LOW_ROBUST_ACCURACY:
        return _hardly_any(masking, absent)
    if hidden := [key for key in masking if CHECKS[key].hides]:
        seen = ", ".join(f"{key}: {details[key]}" for key in hidden)
        return Conclusion(
            Trust.OVERSTATED,
            f"The model's gradients cannot be used ({seen}); the figure is what stand-in gradients, random search and "
            "label-only attacks left, so the true one is probably lower.",
        )
    if fired(again):
        still = "; ".join(f.detail for f in again if f.fired)
        return Conclusion(Trust.OVERSTATED, f"Attacks still find more: {still}.")
    if stopped:
        return Conclusion(Trust.OVERSTATED, "The attack that the checks asked for was stopped at its limit of passes.")
    if late := [*absent, *masking, *of_kind(findings, Kind.EXTEND)]:
        went = "attack went on until nothing more was found" if extended else "attack asked for was not extended"
        seen = "; ".join(f"{key}: {details[key]}" for key in late)
        return Conclusion(Trust.EXTENDED if extended else Trust.OVERSTATED, f"{seen}; the {went}.")
    if mended := of_kind(findings, Kind.MEND):
        because = f"What the checks found was mended ({', '.join(mended)}); none speaks against the figure."
        return Conclusion(Trust.SOUND, because)
    return Conclusion(Trust.SOUND, "No check speaks against the figure.")
