"""Checks of a model without an attack: can its answers and gradients be used to judge it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from unfooled.core.checks import check_attack, check_run
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.subject import inspect_model
from unfooled.evaluation.checks.table import Finding, Kind, finding
from unfooled.evaluation.checks.verdict import merged, of_kind


@dataclass(frozen=True)
class Diagnosis:
    """Result of the checks before any attack.

    Attributes:
        verdict: "EVALUABLE" (an audit can deal with every check that fired), "HIDDEN" (gradients are missing, vanish or
            mislead: attacks that follow them overstate robustness), or "NOT EVALUABLE" (no figure could be believed).
        because: Reason, in one or two sentences.
        findings: Finding of every check, whether it fired or not.
        warnings: Warnings about the model's outputs, one sentence each.
    """

    verdict: str
    because: str
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]

    @property
    def fired(self) -> tuple[Finding, ...]:
        """The checks that fired."""
        return tuple(f for f in self.findings if f.fired)


def diagnose(model: Model, x: Tensor, y: Tensor, threat: Threat, *, seed: int = 0) -> Diagnosis:
    """Check a model without attacking it.

    Args:
        model: Any callable to logits, in evaluation mode. Not modified.
        x: Clean samples in the threat's box, (B, *D); at most the first 100 are used, for the labels 500.
        y: Labels, (B,) int64.
        threat: Threat model of the attack that would follow.
        seed: Random seed.

    Returns:
        A `Diagnosis`. Cost: about 3,000 passes in all; at most 6,500 where the gradient vanishes. `audit` makes these
        checks too, and further ones on what its attack finds.

    Raises:
        BadInput: inputs, labels or outputs that cannot be used, a model in training mode.

    Example:
        >>> import torch
        >>> from unfooled import Linf
        >>> hidden = lambda x: torch.stack([x.sum(1), 1 - x.sum(1)], 1).detach()
        >>> x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0))
        >>> diagnose(hidden, x, hidden(x).argmax(1), Linf(0.1)).verdict
        'HIDDEN'
    """
    x = check_attack(x, y, threat)
    check_run(seed)
    subject = inspect_model(model, x, y)
    with frozen(subject.model):
        findings = before(subject.model, x, y, threat, seed=seed)
    if subject.probabilities:  # the checks used their logarithm
        findings.append(finding("D3", True, "outputs are probabilities", "their logarithm is attacked"))
    return Diagnosis(*_verdict(findings), tuple(merged(findings)), subject.warnings)


def _verdict(findings: Sequence[Finding]) -> tuple[str, str]:
    """Return the verdict and why."""
    details = {f.id: f.detail for f in findings if f.fired}

    def listed(ids: Sequence[str]) -> str:
        return "; ".join(f"{key}, {details[key]}" for key in ids)

    if stop := of_kind(findings, Kind.STOP):
        return "NOT EVALUABLE", f"No figure could be believed: {listed(stop)}."
    if masking := of_kind(findings, Kind.MASKING):
        return "HIDDEN", f"Attacks that follow the model's gradients would overstate its robustness: {listed(masking)}."
    if details:
        return "EVALUABLE", f"An audit would act on what the checks found: {listed(list(details))}."
    return "EVALUABLE", "No check fired."
