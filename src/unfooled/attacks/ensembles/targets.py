"""Objectives of ascents: a smoothed margin, and single classes, in the order of their linearised boundaries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.attacks.ensembles.frontier import Problem
from unfooled.core import losses
from unfooled.core.ascent.nearest import DUAL
from unfooled.core.checks import input_gradient
from unfooled.core.goals import fooled, logits_at
from unfooled.core.model.batching import batched
from unfooled.core.shapes import flat
from unfooled.core.threats import TINY
from unfooled.core.types import Model, Objective

SMOOTH = 8.0
"""Margin of the clean sample, in nats of the scaled logits, at which the maximum over the other classes is smoothed."""


def smoothed(problem: Problem) -> Objective:
    """Build the objective of an ascent of the margin, smoothed over classes.

    The logits of a sample are scaled by its own clean margin, so that the scale of the model does not matter; where
    that is no positive number, as where the other classes have a probability of 0, the margin is not smoothed. Cost: 1
    forward of each sample.
    """
    gap = -losses.margin(problem.logits(problem.x, problem.attacked), problem.y)
    usable = (gap > SMOOTH * torch.finfo(gap.dtype).tiny) & (gap < torch.inf)
    scale = SMOOTH / torch.where(usable, gap, 1.0)

    def objective(z: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        logits, y = logits_at(problem.attacked, z), problem.y[live]
        smooth, hard = losses.soft_margin(scale[live])(logits, y), losses.margin(logits, y)
        return torch.where(usable[live], smooth, hard), fooled(logits.detach(), y) & problem.decisive

    return objective


def towards(problem: Problem, goal: Tensor, loss: Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]]) -> Objective:
    """Build the objective of an ascent towards single classes.

    Args:
        problem: Samples.
        goal: Target classes, one per sample, (b,).
        loss: `goal -> (logits, y) -> (b,)`, such as `losses.margin_targeted`.
    """

    def objective(z: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        logits, y = logits_at(problem.attacked, z), problem.y[live]
        return loss(goal[live])(logits, y), fooled(logits.detach(), y) & problem.decisive

    return objective


def targets(model: Model, z: Tensor, y: Tensor, norm: float, count: int, batch: int) -> Tensor:
    """Return the classes with the nearest linearised boundary at z, nearest first, (B, count).

        score_c = (f_y - f_c) / |grad (f_y - f_c)|_dual     f: logits at z; c: at most the 12 likeliest wrong classes

    Cost: 1 forward, and 1 backward per class scored.
    """
    dual = DUAL.get(float(norm), 2.0)

    def nearest(z: Tensor, y: Tensor) -> Tensor:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = logits_at(model, leaf)
            k = logits.shape[1]
            others = logits.detach().scatter(1, y[:, None], -torch.inf).topk(min(k - 1, 12), dim=1).indices
            scores = []
            for j in range(others.shape[1]):
                gap = losses.true_logit(logits, y) - losses.true_logit(logits, others[:, j])
                g = input_gradient(gap, leaf, retain_graph=j + 1 < others.shape[1])
                scores.append(gap.detach() / flat(g.nan_to_num()).norm(p=dual, dim=1).clamp_min(TINY))
        order = torch.stack(scores, 1).argsort(dim=1, stable=True)[:, :count]
        return others.gather(1, order)

    return batched(nearest, batch)(z, y)
