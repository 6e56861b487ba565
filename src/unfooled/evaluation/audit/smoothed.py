"""Stage of an audit that smooths the classifier: what its majority under noise proves, beside the attack on itself.

The figures are those of another classifier, and no end of the verdict on the one that is audited.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.certification.smoothed import Smoothing
from unfooled.certification.smoothing import ABSTAINED, SmoothedRadius
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.records import CurvePoint, Smoothed
from unfooled.evaluation.audit.values import Setting
from unfooled.runs.records import Passes
from unfooled.runs.sealed import Rows
from unfooled.statistics.intervals import share

STAGE = StageKey(Family.SMOOTHED)


def smooth_samples(s: Setting, smoothing: Smoothing) -> SmoothedRadius:
    """Classify every sample by the majority under noise, and bound its radius; chunks are stored."""

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        found = smoothing.radii(s.counted, s.x[at], s.threat.take(at), batch=s.batch, seed=s.seed)
        return {"prediction": found.prediction, "radius": found.radius, "probability": found.probability}

    rows = s.ledger.map(STAGE, work, s.n, model=s.counted)
    ceiling = smoothing.ceiling(s.threat, tuple(s.x.shape[1:]))
    return SmoothedRadius(**rows, ceiling=ceiling, norm=s.threat.norm, failure=smoothing.failure)


def summarise_smoothed(
    found: SmoothedRadius,
    smoothing: Smoothing,
    y: Tensor,
    threat: Threat,
    radii: Sequence[float],
    ledger: Ledger,
    *,
    labels_predicted: bool,
) -> Smoothed:
    """Return the figures of the smoothed classifier.

    Args:
        found: Its answers, (n,).
        smoothing: Noise and draws.
        y: Labels, (n,).
        threat: Threat of the samples.
        radii: Radii of the curve, in multiples of eps, rounded down in L0; those above the ceiling of the draws are
            left out.
        ledger: Record of the passes.
        labels_predicted: True if there were no labels, so that clean accuracy is not stated.
    """
    right, n = found.prediction == y, max(len(y), 1)
    by_size = {float(e.mean()): e for e in (smoothing.radius_tried(threat, r) for r in sorted({*radii, 1.0}))}
    curve = [
        CurvePoint(eps=size, accuracy=share(found.certified(y, each)))
        for size, each in by_size.items()
        if 0 < size <= found.ceiling
    ]
    forward, backward = ledger.passes(Family.SMOOTHED)
    return Smoothed(
        size=smoothing.size, first=smoothing.first, draws=smoothing.draws, failure=found.failure, ceiling=found.ceiling,
        clean_accuracy=share(right[:0] if labels_predicted else right),
        certified_accuracy=share(found.certified(y, smoothing.radius_tried(threat, 1.0))),
        abstained=float((found.prediction == ABSTAINED).double().mean()) if len(y) else 0.0,
        curve=curve, passes=Passes(forward=forward / n, backward=backward / n),
    )  # fmt: skip
