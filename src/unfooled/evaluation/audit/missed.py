"""Comparison of an attack with the nearest points: samples that the attack had not fooled (check D17)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.core.samples import replaced
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.draws import compared, count_text, gained
from unfooled.evaluation.checks.table import CHECKS, CheckId, Finding, above, finding


def missed_by(
    s: Setting, problem: Problem, frontier: Frontier, near: Mapping[str, Tensor] | None, *, whole: bool = True
) -> tuple[Finding, Frontier]:
    """D17: nearest points that lie inside the threat on samples that the attack had not fooled; they are stored.

    Args:
        s: Setting of the audit.
        problem: Problem of the attack.
        frontier: Best points that the attack found.
        near: Points and distances of the first samples in the threat's norm. None: there was no such search.
        whole: False if the search was cut short, so that a later start has more samples to compare.
    """
    if not near:
        return finding("D17", False, "no nearest points in the threat's norm"), frontier
    k = len(near["distance"])
    eps = each_eps(s.threat, s.x)[:k].to(s.x.device)
    wrong, no_answer = near["distance"].to(eps), near["unanswered"].to(eps)
    points = near["z"].to(s.x.device)
    rows = ((wrong <= eps) & (wrong <= no_answer) & ~frontier.fooled[:k]).nonzero()[:, 0]
    with_point = ((no_answer <= eps) & (no_answer < wrong)).nonzero()[:, 0]
    if len(with_point):
        frontier = frontier.with_unanswered(with_point, points[with_point])
    count: float = len(rows)
    if s.subject.random and len(rows):  # a sample that is wrong by chance has distance 0, wherever its point is
        rows = rows[s.threat.take(rows).size(points[rows] - s.x[rows]) <= eps[rows]]
        new = replaced(frontier.points, rows, points[rows])
        key = StageKey(Family.CHECKS, "nearest" if whole else f"nearest of {k}", check=CheckId.NEAREST)
        before, after = compared(problem, s.ledger, rows, frontier.points, new, key)
        count = gained(before, after)
        rows = rows[(after.sum(1) < before.sum(1)).to(rows.device)] if count else rows[:0]
    d17 = above(
        "D17", count / k, f"the nearest-point attacks fooled {count_text(count)} of {k} samples that the attack had "
        "not", "the attack goes on; these points count", limit=max(CHECKS["D17"].limit, 1.5 / k),
    )  # fmt: skip
    return d17, frontier.with_fooled(rows, points[rows])


def each_eps(threat: Threat, x: Tensor) -> Tensor:
    """Return the eps of every sample, (n,), on the CPU."""
    return torch.as_tensor(threat.eps, dtype=x.dtype).expand(len(x)).cpu()
