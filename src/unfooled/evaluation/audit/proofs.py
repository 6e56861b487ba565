"""Proofs of an audit: which samples no allowed point can change, as far as a certification of limited effort says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import Certify
from unfooled.certification.certify import Effort, certify, effort_of
from unfooled.certification.graph import trace
from unfooled.certification.region import Region
from unfooled.core import losses
from unfooled.core.ascent import ascend
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, fooling, logits_at
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.values import Outcome, Setting
from unfooled.statistics.intervals import share

CHECKED = 32
"""Number of certified samples that are attacked all the same: a proof that one of them breaks is wrong."""
STARTS, CLIMB_STEPS = 8, 20
"""Minimisers that are attacked from, the most promising first, and steps from each."""
WITHOUT = "Nothing was certified: {}"


@dataclass(frozen=True, eq=False)
class Prover:
    """Certification of chunks of samples.

    Attributes:
        model: The model.
        effort: Effort of the certification.
        attacked: The same model, counting its passes, for attacks from the minimisers of open parts.
    """

    model: Callable[..., Tensor]
    effort: Effort
    attacked: Model

    def __call__(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor | tuple[Tensor, Tensor]:
        """Return which samples are proven robust, (B,) bool; and where regions are cut, points that fool others."""
        if self.effort.slopes is None and self.effort.limits is None:
            return certify(self.model, x, y, threat, effort=self.effort).certified.to(x.device)
        proof = certify(self.model, x, y, threat, effort=self.effort, find=partial(self._climb, x, y, threat))
        points = x.clone()
        for sample, z in proof.examples.items():
            points[sample] = z.to(x)
        return proof.certified.to(x.device), points

    def _climb(self, x: Tensor, y: Tensor, threat: Threat, starts: Tensor, sample: int) -> Tensor | None:
        """Attack a sample from the minimisers of its open parts; return an adversarial example, or None."""
        starts = starts[:STARTS].to(x)
        at = torch.full((len(starts),), sample, device=x.device)
        centre, label, own = x[at], y[at], threat.take(at)
        start = own.project(starts, centre)
        z = ascend(fooling(self.attacked, label, losses.margin), centre, own, steps=CLIMB_STEPS, start=start).z
        with torch.no_grad():
            hits = fooled(logits_at(self.attacked, z), label)
        return z[hits][0] if bool(hits.any()) else None


def prover_of(s: Setting, wanted: str | Certify | None) -> tuple[Certify | None, tuple[str, ...]]:
    """Return the function that certifies samples, and a sentence where there is none although one is wanted.

    Args:
        s: Setting of the audit.
        wanted: Name of an effort, a function, or None for none.
    """
    if wanted is None or not isinstance(wanted, str):
        return wanted, ()
    effort = effort_of(wanted)
    if s.subject.random:
        return None, (WITHOUT.format("the model is random, and bounds are for a fixed function."),)
    model = s.subject.given if s.subject.probabilities else s.subject.model
    try:
        trace(model, s.x[:2]).network()
        Region.of(s.x[:1], s.threat.take(s.x.new_zeros(1).long()), s.x.dtype)
    except BadInput as error:
        return None, (WITHOUT.format(f"{error}."),)
    return Prover(model, effort, s.counted), ()


def figures_of_proofs(outcome: Outcome) -> dict[str, Any]:
    """Return certified accuracy, and the share of the samples that are neither proven nor broken."""
    if outcome.certified is None or outcome.random or (outcome.guard is not None and outcome.guard.missing):
        return {}
    left = outcome.right & ~outcome.fooled & ~outcome.no_answer
    undecided = left & ~outcome.certified
    return {
        "certified_accuracy": share(left & outcome.certified),
        "open": float(undecided.double().mean()) if len(left) else None,
    }
