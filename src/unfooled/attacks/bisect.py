"""Bisection by budget attacks: the nearest adversarial example in L1, L2 or Linf, every sample at its own radius.

    eps_0 = |margin| / |grad|_dual;   fooled: eps <- s of the nearest, s = .95;   not: eps doubled, or s half-way to 1

Each round is one batch of short ascents whose eps is (B,), started from the last point on the new, smaller ball, and
from a random point of it where that has just failed. A sample that falls early has steps left for more rounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent import Auto, ascend
from unfooled.core.ascent.nearest import Nearest, check_minimal, decided, loss_and_gradient, unbounded
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import TINY
from unfooled.core.types import Model

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


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
    """Find near adversarial examples in L1, L2 or Linf.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs in the unit box, (B, *D).
        y: labels, or targets when `targeted`, (B,) int64.
        norm: 1, 2 or math.inf.
        targeted: hit y instead of leaving it.
        steps: forwards of the rounds, and as many gradients, a sample (cost: at most steps forwards and backwards and
            13 more forwards; where most of a batch falls at the same step, looking first can add a forward there).
        rounds: radii tried if none falls early; each has steps / rounds forwards.
        start: adversarial points to start from, such as another attack's.
        generator: base seed of the starts.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: another norm, or inputs that cannot be used.
    """
    check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2, math.inf))
    best, sign = Nearest(x, threat), -1.0 if targeted else 1.0
    worst = threat.size(torch.maximum(x - threat.box.low, threat.box.high - x))
    turn = max(1, steps // max(1, rounds) - 1)
    with frozen(model):
        logits, value, g = loss_and_gradient(model, x, y, sign, margin)
        best.see(x, fooled(logits, y, targeted=targeted))
        dual = flat(g).norm(p=DUAL[float(norm)], dim=1).clamp_min(TINY)
        eps = torch.minimum(1.02 * value.abs() / dual, worst / 4).clamp_min(1e-6)
        slack = 1e-5 * (1 + logits.abs().amax(1))  # a decision that rounding in another batch would undo is none
        z, share, again = x, torch.full_like(eps, 0.95), torch.zeros_like(eps, dtype=torch.bool)
        if start is not None:
            with torch.no_grad():
                best.see(start, decided(read_logits(model, start), y, targeted=targeted))
            z = start
        left = torch.full_like(y, steps)
        for r in range(steps):
            rows = ((left > turn) & (best.distance > 0)).nonzero()[:, 0]
            if not len(rows):
                break
            near = torch.isfinite(best.distance)
            eps = torch.where(near, share * best.distance, eps)
            ball, inner = threat.with_eps(eps[rows]), x[rows]
            first = ball.project(where_rows(near, best.z, z)[rows], inner)
            if again.any() or (r == 0 and start is None):
                stage = rng.Stream.BISECTION if r else rng.Stream.START
                fresh = ball.sample(inner, generator, draw=r, stage=stage)
                first = where_rows(again[rows] | (r == 0 and start is None), fresh, first)
            objective = fooling(model, y[rows], margin, targeted=targeted)
            found = ascend(objective, inner, ball, steps=turn, rule=Auto(share=None), start=first)
            hit = torch.zeros_like(again)
            hit[rows] = found.done & (found.value > slack[rows])
            z = z.index_copy(0, rows, found.z)
            best.see(z, hit)
            left[rows] -= found.used + 1
            # Too far: try once more from elsewhere, then ask for half as much.
            missed = torch.zeros_like(again)
            missed[rows] = ~hit[rows] & near[rows]
            share = torch.where(missed & again, (1 + share) / 2, share)
            again = torch.where(missed, ~again, again & ~hit)
            eps = torch.where(hit, eps, torch.minimum(2 * eps, worst))
        return best.pull_back(model, y, targeted=targeted)
