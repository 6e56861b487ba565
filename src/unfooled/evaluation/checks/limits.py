"""Checks of the attack itself: with the whole box allowed it must fool every sample, and the losses must agree."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unfooled.attacks.apgd import apgd
from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.core import losses
from unfooled.core.ascent import Constant, ascend
from unfooled.core.goals import fooled, logits_at
from unfooled.evaluation.checks.draws import right_draws
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import CHECKS, Finding, above, finding

BOX_STEPS, BOX_STEP = 60, 1 / 30
"""Steps through the whole box, and their length as a share of it: too short to reach a random image in one."""

GRADIENT_FREE_NEXT = "gradients are not trusted: attacks that need none follow"
"""Consequence of a check that finds gradients of no use."""


def right_when_clean(problem: Problem, frontier: Frontier, count: int) -> Tensor:
    """Return the first samples that are right when clean, in the order of a hash of their content.

    The attack has judged them already; a random model is asked again.
    """
    rows = frontier.keys.argsort()[: 4 * count]
    if problem.decisive:
        wrong = frontier.fooled.index_fill(0, frontier.fooled_by_attack(problem.x), False)
        return rows[~wrong[rows]][:count]
    with torch.no_grad():
        logits = logits_at(problem.model, problem.x[rows])
    return rows[~fooled(logits, problem.y[rows])][:count]


def whole_box(problem: Problem, frontier: Frontier) -> Finding:
    """D18: an attack that starts from samples that are right, and may use the whole box, must fool every one.

    Cost: at most 61 F + 60 B for each of 12 samples.
    """
    rows = right_when_clean(problem, frontier, 12)
    if (
        not len(rows) or problem.threat.norm == 0 or problem.threat.free is not None
    ):  # else what may not change may decide alone
        return finding("D18", False, "not tried")
    free = replace(problem.take(rows), threat=problem.threat.with_eps(torch.inf).bounded(problem.x))
    points = ascend(
        free.objective, free.x, free.threat, steps=BOX_STEPS, rule=Constant(BOX_STEP), revive=False,
        batch=problem.batch,
    ).z  # fmt: skip
    limit = CHECKS["D18"].limit
    if not problem.decisive:  # some samples may be right by chance wherever they are
        clean, moved = (float(right_draws(free, z, 20).double().mean()) for z in (free.x, points))
        return above(
            "D18", moved, f"an adversary who may change anything leaves {moved:.0%} of the draws right on {len(rows)} "
            f"samples, of {clean:.0%} before", GRADIENT_FREE_NEXT, limit=0.5 * clean,
        )  # fmt: skip
    withstood = int((~free.evaluate(points)[1]).sum())
    return finding(
        "D18", withstood > max(1, limit * len(rows)), f"{withstood} of {len(rows)} samples withstand an adversary who "
        "may change anything", GRADIENT_FREE_NEXT, withstood / len(rows), limit,
    )  # fmt: skip


def saturated(problem: Problem, frontier: Frontier, gradients: Gradients) -> Finding:
    """D19: the cross-entropy fools fewer samples than the margin or the cross-entropy of logits / 100."""
    rows = right_when_clean(problem, frontier, 24)
    if not len(rows) or not problem.decisive or problem.threat.norm == 0 or gradients.missing:
        return finding("D19", False, "not tried")
    p = problem.take(rows)

    def tempered(logits: Tensor, y: Tensor) -> Tensor:
        return losses.cross_entropy(logits / 100, y)

    share = [
        float(p.evaluate(apgd(p.attacked, p.x, p.y, p.threat, steps=7, loss=loss))[1].double().mean())
        for loss in (losses.cross_entropy, losses.margin, tempered)
    ]
    return above(
        "D19", max(share[1], share[2]) - share[0], f"seven steps fool {share[0]:.0%} by the cross-entropy, "
        f"{share[1]:.0%} by the margin, {share[2]:.0%} by the cross-entropy of logits / 100",
        "the margin is attacked", limit=max(0.02, 2.5 / len(rows)),
    )  # fmt: skip
