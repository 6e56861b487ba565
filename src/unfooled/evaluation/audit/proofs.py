"""Proofs of an audit: which samples no allowed point can change, as far as a certification of limited effort says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import Certify
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.attacks.memetic import Hunt
from unfooled.certification.certify import Effort, certify, effort_of, proven
from unfooled.certification.graph import trace
from unfooled.certification.region import Region
from unfooled.certification.smoothed import Smoothing
from unfooled.core.access import Access
from unfooled.core.errors import BadInput
from unfooled.core.pulse import beat
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.nearest_points import MAX_CLASSES_LISTED
from unfooled.evaluation.audit.records import ClassEnds, CurvePoint
from unfooled.evaluation.audit.values import Judged, Outcome, Setting
from unfooled.evaluation.verify import verify
from unfooled.runs.sealed import Rows
from unfooled.statistics.intervals import share

REACHES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Radii, in multiples of eps, of the curve of what is proven."""
CHECKED = 32
"""Number of certified samples that are attacked all the same: a proof that one of them breaks is wrong."""
HUNT = 0.25
"""Share of the time of branch and bound in which adversarial examples are searched for."""
WITHOUT = "Nothing was certified: {}"
PROBED = 16
"""Samples that the proofs of little effort begin with; where none of these is proven, no other one is tried."""
QUICK = "quick"
INSIDE = 1 - 1e-5
"""Part of eps within which a point refutes a proof; `verify` allows it 1e-6 beyond eps."""


@dataclass(frozen=True, eq=False)
class Prover:
    """Certification of chunks of samples.

    Attributes:
        model: The model.
        effort: Effort of the certification.
        attacked: The same model, counting its passes, for attacks from the minimisers of open parts.
        tried: Number of samples that were tried in vain, so that no other one is. None: all are tried.
    """

    model: Callable[..., Tensor]
    effort: Effort
    attacked: Model
    tried: int | None = None

    def __call__(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor | tuple[Tensor, Tensor]:
        """Return which samples are proven robust, (B,) bool; and where regions are cut, points that fool others."""
        if self.tried is not None:
            return torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self.effort.slopes is None and self.effort.limits is None:
            return self.proves(x, y, threat).to(x.device)
        hunt = Hunt(self.attacked, x, y, threat, share=HUNT)
        proof = certify(self.model, x, y, threat, effort=self.effort, find=hunt)
        points = x.clone()
        for sample, z in proof.examples.items():
            points[sample] = z.to(x)
        return proof.certified.to(x.device), points

    def proves(self, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Return which samples are proven robust without any attack, (B,) bool on the CPU."""
        return proven(self.model, x, y, threat, effort=self.effort).cpu()


def prover_of(
    s: Setting, wanted: str | Smoothing | Certify | None, right: Tensor
) -> tuple[Certify | None, tuple[str, ...]]:
    """Return the function that certifies samples, and a sentence where there is none although one is wanted.

    Args:
        s: Setting of the audit.
        wanted: Name of an effort, a function, or None for none; none for the smoothed classifier, which is another.
        right: Samples that are right, (n,) bool.
    """
    if wanted is None or isinstance(wanted, Smoothing):
        return None, ()
    if not isinstance(wanted, str):
        return wanted, ()
    if s.subject.access is not Access.GRADIENTS:
        return None, (WITHOUT.format("the model is a black box, and bounds are read off its operations."),)
    effort = effort_of(wanted)
    if s.subject.random:
        return None, (WITHOUT.format("the model is random, and bounds are for a fixed function."),)
    model = s.subject.given if s.subject.probabilities else s.subject.model
    try:
        trace(model, s.x[:2]).network()
        Region.of(s.x[:1], s.threat.take(s.x.new_zeros(1).long()), s.x.dtype)
    except BadInput as error:
        return None, (WITHOUT.format(f"{error}."),)
    prover = Prover(model, effort, s.counted)
    return prover if wanted != QUICK else _unless_in_vain(s, prover, right), ()


def _unless_in_vain(s: Setting, prover: Prover, right: Tensor) -> Prover:
    """Return a prover; one that tries no sample, if it proves none of the first samples that are right."""
    at = s.at(right.nonzero()[:PROBED, 0])
    if len(at) == int(right.sum()):
        return prover

    def work() -> Rows:
        return {"proven": prover.proves(s.x[at], s.y[at], s.threat.take(at))}

    found = s.ledger.part(StageKey(Family.CASCADE, "first-proofs"), work)["proven"]
    return prover if bool(found.any()) else replace(prover, tried=len(at))


def refuted_proofs(s: Setting, certified: Tensor, points: Judged) -> Tensor:
    """Return the certified samples that are fooled at their points, moved clearly inside the threat, (n,) bool.

    A point counts as allowed up to a small tolerance; a proof does not speak of what lies beyond eps.
    """
    rows = (certified & points.success).nonzero()[:, 0]
    refuted = torch.zeros(s.n, dtype=torch.bool)
    if len(rows):
        at = s.at(rows)
        x, threat = s.x[at], s.threat.take(at)
        inside = threat.scaled(INSIDE).project(points.x_adv[rows].to(x.device), x)
        refuted[rows] = verify(s.subject.model, x, s.y[at], inside, threat, draws=s.draws, batch=s.batch).success.cpu()
    return refuted


def proven_reach(s: Setting, prover: Certify | None, certified: Tensor, right: Tensor) -> Tensor | None:
    """Return the largest radius in `REACHES` at which each sample is proven, (n,); 0 where there is none.

    At eps itself it is what was certified; at other radii proofs have the effort "quick", by halving, two for a sample.

    Args:
        s: Setting of the audit.
        prover: Function that certified samples. None, or no `Prover`: None is returned.
        certified: Samples proven at eps, (n,) bool.
        right: Samples that are right, (n,) bool.
    """
    if not isinstance(prover, Prover) or prover.tried is not None:
        return None
    reaches = torch.tensor(REACHES, dtype=torch.float64)
    cheap = replace(prover, effort=effort_of(QUICK))

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        own = REACHES.index(1.0)
        # Largest number of proven radii that is known, and the largest that is possible.
        low = torch.where(certified[rows], own + 1, 0)
        high = torch.where(certified[rows], len(REACHES), own)
        high = torch.where(right[rows], high, 0)
        while len(some := (low < high).nonzero()[:, 0]):
            beat(0)  # where the time is over, the rest is left out
            middle = (low[some] + high[some] + 1) // 2
            threat = s.threat.take(at[some]).scaled(reaches[middle - 1].to(s.x))
            proven = cheap.proves(s.x[at[some]], s.y[at[some]], threat)
            low[some] = torch.where(proven, middle, low[some])
            high[some] = torch.where(proven, high[some], middle - 1)
        return {"reach": torch.cat([reaches.new_zeros(1), reaches])[low]}

    return s.ledger.map(StageKey(Family.JUDGE, "proofs"), work, s.n)["reach"]


def figures_of_proofs(outcome: Outcome, y: Tensor, eps: float | Tensor, classes: int) -> dict[str, Any]:
    """Return certified accuracy, the share that is neither proven nor broken, both by class, and the curve over eps.

    Args:
        outcome: Results of the stages.
        y: Labels, (n,).
        eps: Radius of the threat, a number or (n,).
        classes: Number of classes.
    """
    if outcome.certified is None or outcome.random or (outcome.guard is not None and outcome.guard.missing):
        return {}
    left = outcome.right & ~outcome.fooled & ~outcome.no_answer
    undecided = left & ~outcome.certified
    return {
        "certified_accuracy": share(left & outcome.certified),
        "open": float(undecided.double().mean()) if len(left) else None,
        "proofs_tried": outcome.proofs_tried,
        "certified_curve": _proven_curve(outcome, left, eps),
        "certified_classes": _by_class(left, left & outcome.certified, y, classes),
    }


def _proven_curve(outcome: Outcome, left: Tensor, eps: float | Tensor) -> list[CurvePoint]:
    """Return certified accuracy at every radius, over the samples of the curve of the attack."""
    k = len(outcome.distance)
    if outcome.reach is None or not k:
        return []
    whole = torch.as_tensor(eps, dtype=torch.float64)
    size = float(whole.expand(len(left))[:k].mean())
    right, reach = outcome.right[:k], torch.where(left, outcome.reach, outcome.reach.clamp(max=0.75))[:k]
    at = [(0.0, right), *((radius, right & (reach >= radius)) for radius in REACHES)]
    return [CurvePoint(eps=radius * size, accuracy=share(proven)) for radius, proven in at]


def _by_class(left: Tensor, proven: Tensor, y: Tensor, classes: int) -> list[ClassEnds]:
    """Return both ends for every class that has samples; none where there are too many classes."""
    if classes > MAX_CLASSES_LISTED:
        return []
    count = [torch.bincount(y[rows], minlength=classes).tolist() for rows in (left | True, left, proven)]
    return [
        ClassEnds(label=k, n=n, unbroken=unbroken, certified=certified)
        for k, (n, unbroken, certified) in enumerate(zip(*count, strict=True))
        if n
    ]
