"""Bisection by budget attacks: the nearest adversarial example in L2 or Linf, every sample at its own radius.

    eps_0 = |margin| / |grad|_dual;   fooled: eps <- s of the nearest, s = .95;   not: eps doubled, or s half-way to 1

Each round is one batch of short ascents whose eps is (B,), started from the last point on the new, smaller ball.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core.ascent import Auto, ascend
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.losses import margin
from unfooled.core.modes import frozen
from unfooled.core.nearest import Nearest, check_minimal, loss_and_gradient, unbounded
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import TINY
from unfooled.core.types import Model

DUAL = {2.0: 2.0, math.inf: 1.0}


def bisect(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float,
    *,
    targeted: bool = False,
    steps: int = 500,
    rounds: int = 20,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Find near adversarial examples in L2 or Linf.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs in the unit box, (B, *D).
        y: labels, or targets when `targeted`, (B,) int64.
        norm: 2 or math.inf.
        targeted: hit y instead of leaving it.
        steps: gradient evaluations in all rounds (cost: at most steps forwards and backwards, 2 more forwards a round
            and 10 to end; less where a round succeeds early).
        rounds: radii tried.
        start: adversarial points to start from, such as another attack's.
        generator: base seed of the starts.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: another norm, or inputs that cannot be used.
    """
    check_minimal(model, x, y, steps)
    threat = unbounded(norm, (2, math.inf))
    best, sign = Nearest(x, threat), -1.0 if targeted else 1.0
    worst = threat.size(torch.maximum(x - threat.box.low, threat.box.high - x))
    rounds = max(1, min(rounds, steps))
    with frozen(model):
        logits, value, g = loss_and_gradient(model, x, y, sign, margin)
        best.see(x, fooled(logits, y, targeted=targeted))
        dual = flat(g).norm(p=DUAL[float(norm)], dim=1).clamp_min(TINY)
        eps = torch.minimum(1.02 * value.abs() / dual, worst / 4).clamp_min(1e-6)
        slack = 1e-5 * (1 + logits.abs().amax(1))  # a decision that rounding in another batch would undo is none
        z = x
        if start is not None:
            with torch.no_grad():
                best.see(start, fooled(read_logits(model, start), y, targeted=targeted))
            z = start
        share = torch.full_like(eps, 0.95)
        objective = fooling(model, y, margin, targeted=targeted)
        for r in range(rounds):
            near = torch.isfinite(best.distance)
            eps = torch.where(near, share * best.distance, eps)
            ball = threat.with_eps(eps)
            first = ball.project(where_rows(near, best.z, z), x)
            if r == 0 and start is None:
                first = ball.sample(x, generator)
            found = ascend(objective, x, ball, steps=max(1, steps // rounds - 1), rule=Auto(), start=first)
            hit = found.done & (found.value > slack)
            best.see(found.z, hit)
            z = found.z
            share = torch.where(near & ~hit, (1 + share) / 2, share)  # too far: ask for half as much
            eps = torch.where(hit, eps, torch.minimum(2 * eps, worst))
        return best.pull_back(model, y, targeted=targeted)
