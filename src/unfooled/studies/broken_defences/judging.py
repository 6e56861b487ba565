"""Judgements of the cases, and the rule by which they pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import AliasChoices, Field
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.audit import Plan, audit
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import CheckId
from unfooled.runs.records import Record
from unfooled.studies.broken_defences.cases import Case, Kind

BROKEN_BELOW = 0.05
"""Robust accuracy up to which a network counts as having none."""
ABOUT_DATA = {CheckId.TIES, CheckId.EIGHT_BIT}
"""Ids of findings that honest networks have, too: few classes or tied logits; points between levels of a pixel."""


class Judgement(Record):
    """Judgement of one case, with its true robust accuracy.

    Attributes:
        seed: Random seed.
        number: Number of the case.
        name: Name of the case.
        kind: Kind of the case.
        n: Test samples.
        eps: Radius in Linf.
        clean: Clean accuracy as a share; None: nothing was measured.
        robust: Robust accuracy as a share; None: nothing was measured.
        truth: Robust accuracy under the attack that knows the case; None: it is not computed.
        verdict: SOUND, EXTENDED, OVERSTATED or NOT EVALUABLE; REFUSED where an error names what is wrong, CRASHED where
            the judge itself failed; empty for a judge that gives none.
        trusted: True if the verdict trusts the figure.
        findings: Ids of the checks that fired.
        sentences: Reasons of the verdict and the findings, or the refusal; stored as "said".
        passes: Forwards and backwards of all n samples together.
        diagnostic_passes: Those of these passes that the checks take; None: unknown.
        seconds: Seconds of the unit.
        passed: True if the judge is right; see `passes_suite`.
    """

    seed: int
    number: int
    name: str
    kind: Kind
    n: int
    eps: float
    clean: float | None = None
    robust: float | None = None
    truth: float | None = None
    verdict: str = ""
    trusted: bool | None = None
    findings: list[str] = Field(default_factory=list)
    sentences: list[str] = Field(
        default_factory=list, validation_alias=AliasChoices("sentences", "said"), serialization_alias="said"
    )
    passes: float = 0.0
    diagnostic_passes: float | None = None
    seconds: float = 0.0
    passed: bool = False


Judge = Callable[[Case, Model, Tensor, Tensor, Threat], Judgement]
"""(case, model, x, y, threat) -> judgement without truth; raises nothing."""


def no_explanation(model: Model, x: Tensor, y: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return a placeholder without calling the model, since this study is not about explanations."""
    return torch.zeros_like(x)


def cheap_plan() -> Plan:
    """Return a plan with the audit's own attack and checks, without curves, explanations and pictures."""
    return Plan(
        explain=no_explanation, explain_name="none", explain_n=1, radii=(1.0,), nearest_n=1, nearest_budget=400,
        gallery=0, reasons=None,
    )  # fmt: skip


def audited(
    case: Case, model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0, plan: Plan | None = None
) -> Judgement:
    """Judge a case by `audit`; a refusal or a crash is a judgement, too.

    Args:
        case: Case to judge.
        model: Model of the case.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Set of allowed inputs.
        seed: Random seed of the audit.
        plan: Plan of the audit; None: `cheap_plan`.
    """
    start = Judgement(seed=seed, number=case.number, name=case.name, kind=case.kind, n=len(x), eps=float(threat.eps))
    try:
        summary = audit(model, x, y, threat, plan=plan or cheap_plan(), seed=seed)
    except BadInput as e:
        return start.model_copy(update={"verdict": "REFUSED", "trusted": False, "sentences": [str(e)]})
    except Exception as e:
        crash = f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        return start.model_copy(update={"verdict": "CRASHED", "sentences": [crash]})
    return _with_summary(start, summary)


def _with_summary(start: Judgement, summary: Summary) -> Judgement:
    """Fill in the results of an audit."""
    fired = [finding for finding in summary.diagnostics if finding.fired]
    spent, n = summary.diagnostic_passes, start.n
    return start.model_copy(
        update={
            "clean": summary.clean_accuracy.value,
            "robust": summary.robust_accuracy.value,
            "verdict": summary.verdict,
            "trusted": summary.trusted,
            "findings": [finding.id for finding in fired],
            "sentences": [
                text for text in (summary.because, *(f"{finding.id}: {finding.detail}." for finding in fired)) if text
            ],
            "passes": n * (summary.passes.forward + summary.passes.backward),
            "diagnostic_passes": None if spent is None else n * (spent.forward + spent.backward),
        }
    )


def flagged(row: Judgement, case: Case) -> bool:
    """Return whether a reader was warned: something fired, or the verdict does not trust the figure."""
    if row.verdict in ("OVERSTATED", "NOT EVALUABLE") or (row.verdict == "REFUSED" and case.kind == "refused"):
        return True
    return row.robust is not None and (bool({*row.findings} - ABOUT_DATA) or case.quiet)


def corrected(row: Judgement) -> bool:
    """Return whether the robust accuracy that the judge gives is at most `BROKEN_BELOW`."""
    return row.robust is not None and row.robust <= BROKEN_BELOW


def passes_suite(row: Judgement, case: Case) -> bool:
    """Return whether a judge is right about a case.

    Broken: robust accuracy at most 5 % and a finding (none needed where `quiet`), or OVERSTATED or NOT EVALUABLE.
    Refused: a refusal or NOT EVALUABLE. Honest: trusted.
    """
    if case.kind == "honest":
        return row.trusted is True
    if case.kind == "refused":
        return row.verdict in ("NOT EVALUABLE", "REFUSED")
    return row.verdict in ("OVERSTATED", "NOT EVALUABLE") or (corrected(row) and flagged(row, case))
