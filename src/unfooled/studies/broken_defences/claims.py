"""Claims and tables of the broken-defences study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unfooled.statistics.intervals import Interval, share
from unfooled.studies.broken_defences.cases import Case, Kind
from unfooled.studies.broken_defences.judging import BROKEN_BELOW, Judgement, corrected, flagged, passes_suite
from unfooled.studies.common.claims import claim
from unfooled.studies.common.records import Claim, Outcome, Table

FREE_PASSES = 20_000
"""Passes per run that the checks may always take, however few the attack takes."""
ENOUGH = 0.95
"""Share of the cases that must surely be so for a claim about all of them to hold."""
TITLES: dict[Kind, str] = {"broken": "Broken defences", "refused": "Not to be judged", "honest": "Honest networks"}


def _claim(text: str, hits: Sequence[bool], *, known: bool = True, never: bool = False) -> Claim:
    """Decide a claim about every case: one exception refutes it, and it holds where 95 % of cases surely agree.

    Args:
        text: The claim.
        hits: For each case, whether it is as the claim says; with `never`, whether it is as the claim denies.
        known: False where the judge gives no verdicts, so that nothing is decided.
        never: True for a claim that no case is so.
    """
    counted = share(torch.tensor(hits, dtype=torch.bool))
    if counted.value is None or not known:
        return Claim(claim=text, source="unfooled", verdict="undecided", value=None, low=None, high=None, n=counted.n)
    exception = counted.value > 0 if never else counted.value < 1
    sure = counted.high <= 1 - ENOUGH if never else counted.low >= ENOUGH
    verdict: Outcome = "fails" if exception else "holds" if sure else "undecided"
    return Claim(
        claim=text, source="unfooled", verdict=verdict, value=counted.value, low=counted.low, high=counted.high,
        n=counted.n,
    )  # fmt: skip


def claims(rows: Sequence[Judgement], cases: Sequence[Case]) -> list[Claim]:
    """Decide the claims about the judge; undecided where it gives no verdicts, or where there are too few cases."""
    case = {one.number: one for one in cases}
    broken, refused, honest = ([r for r in rows if r.kind == kind] for kind in ("broken", "refused", "honest"))
    fooled = [r for r in broken if r.truth is not None and r.truth <= BROKEN_BELOW]
    known = any(r.verdict not in ("", "REFUSED", "CRASHED") for r in rows)
    spent = [(r.diagnostic_passes, r.passes) for r in rows if r.diagnostic_passes is not None]
    flags = share(torch.tensor([flagged(r, case[r.number]) for r in broken if known], dtype=torch.bool))
    return [
        claim(
            "At least 95 % of the broken defences are flagged.", "unfooled",
            Interval(float("nan") if flags.value is None else flags.value, flags.low, flags.high, flags.n), ENOUGH,
        ),
        _claim("The robust accuracy given is at most 5 % wherever the truth is.", [corrected(r) for r in fooled]),
        _claim("What cannot be judged is refused with a reason.", [passes_suite(r, case[r.number]) for r in refused]),
        _claim(
            "No honest network is called OVERSTATED: share that is.", [r.verdict == "OVERSTATED" for r in honest],
            known=known, never=True,
        ),
        _claim("Every honest network is trusted.", [r.trusted is True for r in honest], known=known),
        _claim(
            "The diagnostics take at most 10 % of the attack's passes, or 20,000 a run.",
            [apart <= max(0.1 * passes, FREE_PASSES) for apart, passes in spent],
        ),
    ]  # fmt: skip


def tables(rows: Sequence[Judgement], cases: Sequence[Case], *, several_seeds: bool) -> dict[str, Table]:
    """Make a table for each kind of case that there is, one row per case and seed."""
    hides = {one.number: one.hides for one in cases}
    made = {
        title: [_line(r, hides[r.number], several_seeds) for r in rows if r.kind == kind]
        for kind, title in TITLES.items()
    }
    return {title: lines for title, lines in made.items() if lines}


def _line(r: Judgement, hides: str, several_seeds: bool) -> dict[str, Any]:
    return {
        "no": r.number,
        **({"seed": r.seed} if several_seeds else {}),
        "name": r.name,
        "hides": hides,
        "clean accuracy": r.clean,
        "robust accuracy": r.robust,
        "truth": r.truth,
        "verdict": r.verdict or None,
        "findings": ", ".join(r.findings),
        "passed": r.passed,
        "passes a sample": round(r.passes / r.n, 1),
        "diagnostics' passes a sample": None if r.diagnostic_passes is None else round(r.diagnostic_passes / r.n, 1),
        "eps": r.eps,
        "n": r.n,
        "said": " ".join(r.sentences),
    }
