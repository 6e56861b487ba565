"""The stage of an audit that explains a few nearest adversarial examples, from the nearest to the farthest."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.core.goals import logits_at
from unfooled.core.types import Model
from unfooled.evaluation.audit.plan import Explaining
from unfooled.evaluation.audit.records import Example
from unfooled.evaluation.audit.values import Attacked, NearestShown, Setting, finite
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.runs.chunks import Rows

MOST = 8
"""Largest number of nearest examples that are explained."""


def explain_nearest(
    s: Setting, plan: Explaining, attacked: Attacked, right: Tensor, gradients: Gradients, known: Tensor
) -> NearestShown | None:
    """Explain nearest adversarial examples in the threat's norm, spread over their distances; None without any.

    Cost: one explanation and one forward per example, of at most `MOST` and of the plan's gallery, and another
    explanation where the sample itself is not explained yet.

    Args:
        s: Setting of the audit.
        plan: The explanation.
        attacked: Result of the attack on the label.
        right: Samples that are right, (n,) bool.
        gradients: Gradients of the model.
        known: Explanations of the first samples, (k, *D).
    """
    points, distance = attacked.nearest_points, attacked.nearest.get(s.threat.norm)
    if points is None or distance is None or s.subject.random:
        return None
    samples = _spread(distance, right[: len(distance)], min(MOST, plan.gallery))
    if not len(samples):
        return None
    twin = gradients.twin if gradients.missing else None
    model: Model = gradients.own if twin is None else twin
    known = known if s.threat.free is None else known[:0]  # else these are what is shown of them

    def work(rows: Tensor) -> Rows:
        at = s.at(samples[rows])
        x, z, y = s.x[at], points[samples[rows]].to(s.x.device), s.y[at]
        new = samples[rows] >= len(known)
        before = torch.empty_like(x) if bool(new.all()) else known[samples[rows].clamp(max=len(known) - 1)].to(x)
        if bool(new.any()):
            before[new] = plan.explain(model, x[new], y[new]).to(x)
        maps = {"before": before, "after": plan.explain(model, z, y)}
        with torch.no_grad():
            chance = logits_at(s.subject.model, z, batch=s.batch).softmax(1)
        shown = {name: s.subject.shown(value) for name, value in {"x": x, "x_adv": z, **maps}.items()}
        return shown | {"prediction": chance.argmax(1), "confidence": chance.amax(1)}

    rows = s.ledger.map(StageKey(Family.EXPLAIN, "nearest"), work, len(samples), model=s.counted)
    return NearestShown(samples, distance[samples], rows)


def _spread(distance: Tensor, right: Tensor, most: int) -> Tensor:
    """Return samples at evenly spaced ranks of the distance, of those that are right and have a nearest example."""
    found = (torch.isfinite(distance) & right).nonzero()[:, 0]
    order = found[distance[found].argsort(stable=True)]
    if not len(order) or most < 1:
        return order[:0]
    return order[torch.linspace(0, len(order) - 1, min(most, len(order))).round().long()]


def nearest_records(shown: NearestShown | None, y: Tensor, confidence: Tensor) -> list[Example]:
    """Return the examples as records, from the nearest to the farthest.

    Args:
        shown: Result of the stage.
        y: Labels, (n,).
        confidence: Confidence on the clean samples, (n,).
    """
    if shown is None:
        return []
    rows = zip(shown.samples.tolist(), shown.distance.tolist(), strict=True)
    return [
        Example(
            index=i,
            label=int(y[i]),
            clean=int(y[i]),
            adversarial=int(shown.rows["prediction"][k]),
            clean_confidence=finite(confidence[i]),
            adversarial_confidence=finite(shown.rows["confidence"][k]),
            fooled=True,
            distance=distance,
            psnr=None,
            similarity=None,
        )
        for k, (i, distance) in enumerate(rows)
    ]
