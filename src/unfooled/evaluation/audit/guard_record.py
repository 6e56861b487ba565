"""Record of a model behind a purifier: accuracy without and with it, attack by attack, on the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.core.goals import logits_at
from unfooled.core.samples import per_block
from unfooled.core.shapes import flat, where_rows
from unfooled.core.types import Model, Purify
from unfooled.evaluation.audit.detection import choice_record, detectors
from unfooled.evaluation.audit.guard_fields import Guard, GuardRow, Submissions
from unfooled.evaluation.audit.guards import shares
from unfooled.evaluation.audit.purified_shown import class_clusters
from unfooled.evaluation.audit.values import Clean, Judged, PurifiedShown, Setting, ThroughPurifier
from unfooled.evaluation.checks.guards import NAMES, Way
from unfooled.purification.guard import purified_alike
from unfooled.purification.semantic import SemanticPurifier
from unfooled.runs.chunks import Rows
from unfooled.runs.records import Passes
from unfooled.statistics import intervals
from unfooled.statistics.intervals import Estimate, Mean

SUBMISSIONS = 10
"""Number of times that each point is submitted to a random purifier."""


def guard_record(
    s: Setting, through: ThroughPurifier | None, clean: Clean, points: Judged, shown: PurifiedShown | None
) -> Guard | None:
    """Return the record of a model behind a purifier; None where there is no purifier.

    Args:
        s: The audit.
        through: Result of the attacks on it.
        clean: Clean samples.
        points: Points of all attacks together, as judged.
        shown: Pictures of what the purifier does. None: there are none.
    """
    if through is None:
        return None
    missing = [str(way) for way in through.missing]
    if through.bare is None or through.guarded is None:
        return Guard(missing=missing)
    bare_clean = shares(s, through.bare, s.x, "bare-clean")
    if through.bare_points is None:
        return Guard(bare_clean=_estimate(s, bare_clean), missing=missing)
    bare = _bare_shares(s, through.bare, through.bare_points, points.x_adv)
    worst, static = _worst(s, clean, points), through.rows.get(Way.STATIC)
    left = _left(s, through.guarded.purify, points.x_adv)
    rows = [GuardRow(key=way, name=NAMES[way], accuracy=_estimate(s, right_share[: through.counted[way]]))
            for way, right_share in through.rows.items()]  # fmt: skip
    record = Guard(
        bare_clean=_estimate(s, bare_clean),
        bare_robust=_estimate(s, bare),
        static=None if static is None else _estimate(s, static),
        worst=None if missing else _estimate(s, worst),
        adds=None if missing else _difference(s, worst, bare),
        static_minus_worst=None if missing or static is None else _difference(s, static, worst),
        rows=rows,
        missing=missing,
        left=float(left.median()) if len(left) else None,
        left_n=len(left),
        own_cluster_clean=_own_cluster(s, through, s.x),
        own_cluster_attacked=_own_cluster(s, through, through.misassigned),
        differentiable=through.differentiable,
        submissions=None if missing or not s.subject.random else _submitted(s, points),
        choice=None if missing else choice_record(s, through),
        detectors=[] if missing else detectors(s, through, points.x_adv),
        examples=[] if shown is None else shown.examples,
        clusters=class_clusters(through),
    )
    forward, backward = (spent / s.n for spent in s.ledger.passes(Family.BARE, Family.ABLATION))
    return record.model_copy(update={"beside": Passes(forward=forward, backward=backward)})


def _bare_shares(s: Setting, bare: Model, own: Tensor, others: Tensor) -> Tensor:
    """Return the share of draws in which the bare model is right at the worse of two points of each sample, (n,).

    Where draws are random, that point has fresh ones: the lesser of two noisy shares would be too small.

    Args:
        s: The audit.
        bare: The model without the purifier.
        own: Points of the attack on it, (n, *D).
        others: Points of all attacks on the guarded model, (n, *D).
    """
    at_own, at_others = shares(s, bare, own, "bare"), shares(s, bare, others, "bare-points")
    if not s.subject.random:
        return torch.minimum(at_own, at_others)
    worse = where_rows((at_others < at_own).to(own.device), others.to(own), own)
    return shares(s, bare, worse, "bare-worse")


def _estimate(s: Setting, right_share: Tensor) -> Estimate:
    return intervals.mean_of_shares(right_share) if s.subject.random else intervals.share(right_share > 0.5)


def _difference(s: Setting, a: Tensor, b: Tensor) -> Mean:
    """Return the mean of paired differences, with its interval."""
    return intervals.mean(a - b, within=(-1, 1), seed=s.seed)


def _worst(s: Setting, clean: Clean, points: Judged) -> Tensor:
    """Return the share of draws that are right under all attacks together, (n,), as robust accuracy counts it."""
    if not s.subject.random:
        return (~points.success & ~points.undefined).double()
    attacked, before = points.right_share.double(), clean.right_share.double()
    return before if float(attacked.sum()) > float(before.sum()) else attacked


def _left(s: Setting, purify: Purify, x_adv: Tensor) -> Tensor:
    """Return the share of each perturbation's L2 length that the purifier leaves, for the samples that have one.

    Both are purified with the same draws; empty where a random purifier does not let these be repeated.
    """
    parts = []
    for rows in torch.arange(s.n).split(s.batch):
        x, z = s.x[s.at(rows)], x_adv[rows].to(s.x.device)
        length = flat(z - x).double().norm(dim=1)
        purified = purified_alike(purify, z, x)
        if purified is None:
            return torch.empty(0)
        after = flat(purified[0] - purified[1]).double().norm(dim=1)
        parts.append((after / length)[length > 0].cpu())
    return torch.cat(parts)


def _own_cluster(s: Setting, through: ThroughPurifier, points: Tensor | None) -> Estimate | None:
    """Return the share of the points whose nearest cluster is of the sample's class; None without clusters."""
    if points is None or through.misassigned is None or through.guarded is None:
        return None
    purify = through.guarded.purify
    assert isinstance(purify, SemanticPurifier)

    def hits(rows: Tensor) -> Tensor:
        with torch.no_grad():
            nearest = purify.distance(points[s.at(rows)]).argmin(1)
        return (purify.label.to(nearest.device)[nearest] == s.y[s.at(rows)]).cpu()

    return intervals.share(per_block(hits, torch.arange(s.n), s.x))


def _submitted(s: Setting, points: Judged) -> Submissions:
    """Submit the points found to a random purifier, with fresh draws each time."""

    def work(rows: Tensor) -> Rows:
        z, y = points.x_adv[rows].to(s.x.device), s.y[s.at(rows)]
        with torch.no_grad():
            right = [logits_at(s.subject.model, z, batch=s.batch).argmax(1) == y for _ in range(SUBMISSIONS)]
        return {"right": torch.stack(right, 1)}

    right = s.ledger.map(StageKey(Family.JUDGE, "submissions"), work, s.n)["right"]
    return Submissions(
        count=SUBMISSIONS, mean=intervals.mean_of_shares(right.double().mean(1)), worst=intervals.share(right.all(1))
    )
