"""Proofs of an audit: which samples no allowed point can change, as far as a certification of limited effort says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unfooled.attacks.ensembles.cascade import Certify
from unfooled.certification.certify import Effort, certify, effort_of
from unfooled.certification.graph import trace
from unfooled.certification.region import Region
from unfooled.core.errors import BadInput
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.values import Setting

CHECKED = 32
"""Number of certified samples that are attacked all the same: a proof that one of them breaks is wrong."""
WITHOUT = "Nothing was certified: {}"


@dataclass(frozen=True, eq=False)
class Prover:
    """Certification of chunks of samples.

    Attributes:
        model: The model.
        effort: Effort of the certification.
    """

    model: Callable[..., Tensor]
    effort: Effort

    def __call__(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Return which samples are proven robust, (B,) bool."""
        return certify(self.model, x, y, threat, effort=self.effort).certified.to(x.device)


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
    return Prover(model, effort), ()
