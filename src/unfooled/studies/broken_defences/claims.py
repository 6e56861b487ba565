"""Claims and tables of the broken-defences study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from unfooled.statistics.intervals import share
from unfooled.studies.broken_defences.cases import Case, Kind
from unfooled.studies.broken_defences.judging import BROKEN_BELOW, Judgement, corrected, flagged, passes_suite
from unfooled.studies.common.records import Claim, Outcome, Table

FREE_PASSES = 20_000
"""Passes per run that the checks may always take, however few the attack takes."""
TITLES: dict[Kind, str] = {"broken": "Broken defences", "refused": "Not to be judged", "honest": "Honest networks"}


def _claim(text: str, hits: Sequence[bool], holds: Callable[[float], bool], *, known: bool = True) -> Claim:
    """Decide a claim by the share of hits, not by its interval; undecided where the judge gives no verdicts."""
    hit_share = share(torch.tensor(hits, dtype=torch.bool))
    if hit_share.value is None or not known:
        return Claim(claim=text, source="unfooled", verdict="undecided", value=None, low=None, high=None, n=hit_share.n)
    verdict: Outcome = "holds" if holds(hit_share.value) else "fails"
    return Claim(
        claim=text,
        source="unfooled",
        verdict=verdict,
        value=hit_share.value,
        low=hit_share.low,
        high=hit_share.high,
        n=hit_share.n,
    )


def claims(rows: Sequence[Judgement], cases: Sequence[Case]) -> list[Claim]:
    """Decide the claims about the judge; undecided where it gives no verdicts."""
    case = {one.number: one for one in cases}
    broken, refused, honest = ([r for r in rows if r.kind == kind] for kind in ("broken", "refused", "honest"))
    fooled = [r for r in broken if r.truth is not None and r.truth <= BROKEN_BELOW]
    known = any(r.verdict not in ("", "REFUSED", "CRASHED") for r in rows)
    spent = [(r.diagnostic_passes, r.passes) for r in rows if r.diagnostic_passes is not None]
    overstated = [r.verdict == "OVERSTATED" for r in honest]
    return [
        _claim(
            "At least 95 % of the broken defences are flagged.", [flagged(r, case[r.number]) for r in broken],
            lambda v: v >= 0.95, known=known,
        ),
        _claim(
            "The robust accuracy given is at most 5 % wherever the truth is.", [corrected(r) for r in fooled],
            lambda v: v == 1,
        ),
        _claim(
            "What cannot be judged is refused with a reason.", [passes_suite(r, case[r.number]) for r in refused],
            lambda v: v == 1,
        ),
        _claim("No honest network is called OVERSTATED: share that is.", overstated, lambda v: v == 0, known=known),
        _claim(
            "Every honest network is trusted.", [r.trusted is True for r in honest], lambda v: v == 1, known=known
        ),
        _claim(
            "The diagnostics take at most 10 % of the attack's passes, or 20,000 a run.",
            [apart <= max(0.1 * passes, FREE_PASSES) for apart, passes in spent], lambda v: v == 1,
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
