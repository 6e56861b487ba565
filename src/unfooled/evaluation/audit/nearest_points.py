"""The stage of an audit that searches nearest points, for as many samples as their median needs, and its record."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.shapes import where_rows
from unfooled.core.threat_text import norm_name
from unfooled.core.threats import Threat
from unfooled.core.unanswered import Unanswered
from unfooled.evaluation.audit.plan import NearestPoints
from unfooled.evaluation.audit.records import Nearness
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Rows
from unfooled.statistics import intervals

FIRST_BLOCK, BLOCK = 64, 32
"""Samples whose nearest points are searched in any case, and samples between two later decisions to go on."""

MAX_CLASSES_LISTED = 100
"""Classes above which figures are not listed by class, and of confusions only those that occur."""


def nearest(s: Setting, plan: NearestPoints, gradients: Gradients, fooled: Tensor) -> dict[float, Rows]:
    """Find the nearest adversarial examples of the first samples: points and distances by norm.

    Samples are searched in blocks, and no further ones once the median's interval is narrow, if the attack has fooled
    all that are left: then there is nothing that it could have missed.
    """
    points = {}
    for norm in plan.norms or (s.threat.norm,):
        own = norm == s.threat.norm
        everything = (s.threat if own else NORMS[float(norm)](1.0, free=s.threat.free)).with_eps(math.inf)

        def work(rows: Tensor, norm: float = norm, everything: Threat = everything) -> Rows:
            x, y = s.x[s.at(rows)], s.y[s.at(rows)]
            source = torch.Generator().manual_seed(s.seed)
            observer = Unanswered(x, everything)
            best, distance = x, torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
            for model in gradients.followed:
                left = torch.arange(len(x), device=x.device)
                # A point that fools a copy of the model may, by rounding, not fool the model, which is asked then.
                for one in (model, gradients.averaged) if model is gradients.faster else (model,):
                    near, label = x[left], y[left]
                    with s.counted.watched(observer):
                        made = envelope(one, near, label, (norm,), budget=plan.budget, batch=s.batch, generator=source)
                    found = verify(s.subject.model, near, label, made[norm], everything, draws=s.draws, batch=s.batch)
                    better = found.distance <= distance[left]
                    best = best.index_copy(0, left, where_rows(better, made[norm], best[left]))
                    distance = distance.index_copy(0, left, torch.minimum(distance[left], found.distance))
                    left = left[found.distance.isinf()]
                    if not len(left):
                        break
            z, _ = observer.substitute(best, distance <= observer.distance)  # the nearer of the two
            return {"z": z, "distance": distance, "unanswered": observer.distance}

        points[norm] = _in_blocks(s, plan, norm_name(norm), work, fooled[: plan.n])
    return points


def _in_blocks(s: Setting, plan: NearestPoints, name: str, work: Callable[[Tensor], Rows], fooled: Tensor) -> Rows:
    """Search block by block; names of the later blocks end with their samples."""
    blocks = [min(len(fooled), FIRST_BLOCK), *(len(b) for b in fooled[FIRST_BLOCK:].split(BLOCK) if len(b))]
    parts: list[Rows] = []
    done = 0
    for size in blocks:
        key = StageKey(Family.NEAREST, name if not done else f"{name} {done + 1}-{done + size}")
        parts.append(s.ledger.map(key, partial(_shifted, work, done), size, model=s.counted))
        done += size
        distance = torch.cat([part["distance"] for part in parts])
        if bool(fooled[done:].all()) and _narrow(distance, plan.precision):
            break
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}


def _shifted(work: Callable[[Tensor], Rows], by: int, rows: Tensor) -> Rows:
    """Compute rows counted from another one."""
    return work(rows + by)


def _narrow(distance: Tensor, precision: float) -> bool:
    """Return whether half the interval of the median is at most this share of the median."""
    low, value, high = intervals.median_limits(distance.double())
    return value > 0 and high < math.inf and high - low <= 2 * precision * value


def nearness(norm: float, distance: Tensor, unanswered: Tensor, y: Tensor, k: int) -> Nearness:
    """Return statistics of the distances of the nearest adversarial examples, overall and by class."""
    distance = distance.double()
    right_up_to = torch.minimum(distance, unanswered.double())
    label = y[: len(distance)]

    def at(values: Tensor, q: float) -> float | None:
        if not len(values):
            return None
        value = float(values.sort().values[min(len(values) - 1, math.ceil(q * len(values)) - 1 if q else 0)])
        return value if math.isfinite(value) else None

    finite = right_up_to[torch.isfinite(right_up_to)].sort().values
    levels = finite[torch.linspace(0, len(finite) - 1, min(64, len(finite))).round().long()] if len(finite) else finite
    return Nearness(
        norm=norm_name(norm),
        n=len(distance),
        reached=intervals.share(torch.isfinite(distance)),
        quartiles=(at(distance, 0.25), at(distance, 0.5), at(distance, 0.75)),
        classes=[at(distance[label == c], 0.5) for c in range(k)] if k <= MAX_CLASSES_LISTED else [],
        curve=[(float(d), float((right_up_to > d).double().mean())) for d in levels],
        interval=None if torch.equal(right_up_to, distance) else _interval(distance),
    )


def _interval(distance: Tensor) -> tuple[float, float | None] | None:
    """Return the ends of the median's interval, the upper one None where it is not finite; None: neither is."""
    low, _, high = intervals.median_limits(distance)
    return (max(low, 0.0), high if math.isfinite(high) else None) if low < math.inf else None
