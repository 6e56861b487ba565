"""PDPGD: a primal-dual search for the nearest adversarial example in L1, L2 or Linf.

    min_d  max_{0 <= m <= 1}  (1 - m) |d|_p + m softplus(-margin(x + d))

Adam descends the second term, a proximal step for the first one follows in Adam's own metric H = diag(sqrt(v)):

    d <- prox_{a (1 - m) / m |.|_p}^H ( d - a H^-1 g ),   log(m / (1 - m)) <- the same + theta sign(-margin)

with g the gradient over its largest entry, a the step size and theta a constant. The weight of the distance grows where
the point is adversarial, and falls where it is not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.ascent.nearest import Nearest, check_minimal, clearly_fooled, loss_and_gradient, unbounded
from unfooled.core.goals import checked_once
from unfooled.core.losses import margin
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample
from unfooled.core.threats import TINY
from unfooled.core.types import Model


def proximal(u: Tensor, h: Tensor, c: Tensor, norm: float) -> Tensor:
    """Solve argmin_d  sum_i h_i (d_i - u_i)^2 / 2 + c |d|_p  for each sample.

        L1     d_i = sign(u_i) max(|u_i| - c / h_i, 0)
        L2     d_i = u_i h_i r / (h_i r + c),   r = |d|_2
        Linf   d_i = sign(u_i) min(|u_i|, r),   sum_i h_i max(|u_i| - r, 0) = c

    Args:
        u: Points, (B, *D).
        h: Positive weights, (B, *D).
        c: Factor of the norm, (B,).
        norm: 1, 2 or math.inf.

    Returns:
        The minimisers, (B, *D).
    """
    shape, u, h, c = u.shape, flat(u), flat(h), c[:, None]
    size = u.abs()
    if norm == 1:
        return (u.sign() * (size - c / h).clamp_min(0)).reshape(shape)
    if norm == 2:
        # Newton on 1 / |u h / (h r + c)| = 1, concave in r: from 0 it climbs to the root and never passes it.
        r, push = torch.zeros_like(c), (u * h).square()
        for _ in range(12):
            down = h * r + c.clamp_min(TINY)
            total = (push / down.square()).sum(1, keepdim=True)
            slope = (push * h / down.pow(3)).sum(1, keepdim=True).clamp_min(TINY)
            r = torch.where(total > 0, (r + total * (total.sqrt() - 1) / slope).clamp_min(0), r)
        return (u * h * r / (h * r + c).clamp_min(TINY)).reshape(shape)
    top, order = size.sort(dim=1, descending=True)
    weight = h.gather(1, order).cumsum(1)
    r = ((h.gather(1, order) * top).cumsum(1) - c) / weight  # the level if the first k entries are cut
    below = torch.cat([top[:, 1:], torch.zeros_like(c)], 1)
    last = (r >= below).to(torch.int64).argmax(1, keepdim=True)
    level = torch.where((r >= below).any(1, keepdim=True), r.gather(1, last), torch.zeros_like(c))
    return (u.sign() * torch.minimum(size, level)).reshape(shape)


def pdpgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float = 1,
    *,
    targeted: bool = False,
    steps: int = 500,
    rate: float = 1.0,
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
        steps: Gradient evaluations (cost: steps forwards and backwards, 10 more forwards at the end).
        rate: First step size of Adam; it falls to a hundredth of this.
        start: Starting points, such as those of another attack. None: x.
        generator: Unused; the attack is deterministic.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, or inputs that cannot be used.

    References:
        Matyasko, Chau, PDPGD: primal-dual proximal gradient descent adversarial attack, 2021, arXiv:2106.01538.
        Differs from the paper: the gradient is divided by its largest entry, as sigma-zero does, which with a rate of 1
        instead of .1 leads out of many local minima; the proximal step is solved exactly in Adam's metric, instead of
        by five iterations; and the result is moved back towards x.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2, math.inf))
    best, sign, reader = Nearest(x, threat), -1.0 if targeted else 1.0, checked_once(model, y)
    delta = torch.zeros_like(x) if start is None else (start - x).detach()
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    weight = torch.full((len(x),), math.log(100.0), dtype=x.dtype, device=x.device)  # log of m / (1 - m)
    smooth = weight.sigmoid()

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.softplus(-sign * margin(logits, y))

    with frozen(model):
        for t in range(steps):
            z = x + delta
            logits, _, g = loss_and_gradient(reader, z, y, 1.0, loss)
            hit = clearly_fooled(logits, y, targeted=targeted)
            best.record(z, hit)
            g = g / per_sample(flat(g).abs().amax(1).clamp_min(TINY), g)
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g.square()
            metric = (second / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
            a = rate * 0.01 ** (t / steps)
            u = threat.box.clamp(z - a * first / (1 - 0.9 ** (t + 1)) / metric) - x
            delta = threat.box.clamp(x + proximal(u, metric, a * (1 - smooth) / smooth, float(norm))) - x
            theta = 0.1 * (1 - 0.9 * t / max(steps - 1, 1))
            weight = (weight + theta * torch.where(hit, -1.0, 1.0)).clamp(-math.log(1e6), math.log(1e6))
            smooth = 0.9 * smooth + 0.1 * weight.sigmoid()
        return best.pull_back(reader, y, targeted=targeted)
