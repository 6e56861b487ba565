"""Minimal-norm attack in L1, L2 or Linf by bisection of the radius of budget attacks, per sample.

    eps_0 = |margin| / |grad|_dual
    fooled      eps <- s times the nearest distance, at first s = .95
    not fooled  eps <- 2 eps; after a success, s <- (1 + s) / 2 instead

Each round is one batch of short ascents whose eps is (B,), started from the last point projected onto the new, smaller
ball, and from a random point of the ball where that has just failed. A sample that is fooled early has steps left for
more rounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent import Auto, ascend
from unfooled.core.ascent.nearest import DUAL, Nearest, check_minimal, clearly_fooled, loss_and_gradient, unbounded
from unfooled.core.goals import checked_once, fooled, fooling, logits_at
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import TINY
from unfooled.core.types import Model


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
    """Search for the nearest adversarial examples in L1, L2 or Linf.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, or targets when `targeted`, (B,) int64.
        norm: 1, 2 or math.inf.
        targeted: True: y are target classes.
        steps: Forwards, and as many gradients, of all rounds per sample (cost: at most steps forwards and backwards and
            13 more forwards; one more at a step at which most of a batch is fooled).
        rounds: Number of radii if no sample is fooled early; each has steps / rounds forwards.
        start: Adversarial starting points, such as those of another attack. None: x.
        generator: Base seed of the starts.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2, math.inf))
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    round_steps = max(1, steps // max(1, rounds) - 1)
    with frozen(model):
        logits, value, g = loss_and_gradient(reader, x, y, sign, margin)
        best.record(x, fooled(logits, y, targeted=targeted))
        radii = _Radii(best, 1.02 * value.abs() / flat(g).norm(p=DUAL[float(norm)], dim=1).clamp_min(TINY))
        slack = 1e-5 * (1 + logits.abs().amax(1))  # decisions within rounding error do not count
        z = x if start is None else start
        if start is not None:
            with torch.no_grad():
                best.record(start, clearly_fooled(logits_at(reader, start), y, targeted=targeted))
        left = torch.full_like(y, steps)
        for round_number in range(steps):
            rows = ((left > round_steps) & (best.distance > 0)).nonzero()[:, 0]
            if not len(rows):
                break
            succeeded = torch.isfinite(best.distance)
            ball, inner = threat.with_eps(radii.now(succeeded)[rows]), x[rows]
            first = ball.project(where_rows(succeeded, best.z, z)[rows], inner)
            fresh = radii.again[rows] | (round_number == 0 and start is None)
            if bool(fresh.any()):
                stage = rng.Stream.BISECTION if round_number else rng.Stream.START
                first = where_rows(fresh, ball.sample(inner, generator, draw=round_number, stage=stage), first)
            objective = fooling(reader, y[rows], margin, targeted=targeted)
            result = ascend(objective, inner, ball, steps=round_steps, rule=Auto(share=None), start=first)
            hit = torch.zeros_like(succeeded).index_copy(0, rows, result.done & (result.value > slack[rows]))
            z = z.index_copy(0, rows, result.z)
            best.record(z, hit)
            left[rows] -= result.used + 1
            radii.update(rows, hit, succeeded)
        return best.pull_back(reader, y, targeted=targeted)


def between(
    model: Model,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    norm: float,
    *,
    steps: int = 6,
    rounds: int = 5,
    halvings: int = 4,
) -> Tensor:
    """Bisect the radius between the linear estimate of the distance and adversarial points that are known.

    The first ascent starts from x, which leads to the class that is nearest, whichever that of the known point is; each
    later one from where the last has ended, or from the nearest point so far after a success.

        low <- |margin| / |grad|_dual,  high <- the known distance,  eps = (low high)^.5
        fooled      high <- the nearest distance
        not fooled  low <- eps

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.
        start: Adversarial points, (B, *D).
        norm: 1, 2 or math.inf.
        steps: Gradients of an ascent.
        rounds: Number of radii.
        halvings: Forwards of a search from the start back towards x (cost in all: at most rounds * steps + 1
            gradients, and rounds * (steps + 1) + halvings + 2 forwards).

    Returns:
        The nearest adversarial points, (B, *D); x itself where none was found.
    """
    threat, reader = unbounded(norm, (1, 2, math.inf)), checked_once(model, y)
    best = Nearest(x, threat)
    with frozen(model):
        logits, value, g = loss_and_gradient(reader, x, y, 1.0, margin)
        slack = 1e-5 * (1 + logits.abs().amax(1))
        with torch.no_grad():
            best.record(start, clearly_fooled(logits_at(reader, start), y))
        best.pull_back(reader, y, halvings=halvings)
        high = torch.where(best.distance.isinf(), threat.size(start - x), best.distance)
        low = (value.abs() / flat(g).norm(p=DUAL[float(norm)], dim=1).clamp_min(TINY)).clamp(high / 8, high)
        z, objective = x, fooling(reader, y, margin)
        for _ in range(rounds):
            radius = (low * high).sqrt()
            ball = threat.with_eps(radius)
            result = ascend(objective, x, ball, steps=steps, rule=Auto(share=None), start=ball.project(z, x))
            hit = result.done & (result.value > slack)
            best.record(result.z, hit)
            z = where_rows(hit, best.z, result.z)
            high = torch.minimum(high, best.distance)
            low = torch.minimum(torch.where(hit, low, radius), 0.98 * high)
    return best.z


class _Radii:
    """Next radius of each sample, (B,).

    Attributes:
        again: Samples that failed below their nearest point and start from a random one next, (B,) bool.
    """

    def __init__(self, best: Nearest, estimate: Tensor) -> None:
        box, x = best.threat.box, best.x
        self.best, self.worst = best, best.threat.size(torch.maximum(x - box.low, box.high - x))
        self.eps = torch.minimum(estimate, self.worst / 4).clamp_min(1e-6)
        self.share, self.again = torch.full_like(self.eps, 0.95), torch.zeros_like(self.eps, dtype=torch.bool)

    def now(self, succeeded: Tensor) -> Tensor:
        """Return the radii of a round, (B,): a share of the best distance for samples that have `succeeded` before."""
        self.eps = torch.where(succeeded, self.share * self.best.distance, self.eps)
        return self.eps

    def update(self, rows: Tensor, hit: Tensor, succeeded: Tensor) -> None:
        """Update the radii of the samples `rows`; after a miss retry once, then halve the reduction."""
        missed = torch.zeros_like(self.again)
        missed[rows] = ~hit[rows] & succeeded[rows]
        self.share = torch.where(missed & self.again, (1 + self.share) / 2, self.share)
        self.again = torch.where(missed, ~self.again, self.again & ~hit)
        self.eps = torch.where(hit, self.eps, torch.minimum(2 * self.eps, self.worst))
