"""APGD written out for one sample at a time, from algorithm 1 of Croce and Hein (2020); slow and plain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]
"""A point -> its loss, a scalar with a graph."""


@dataclass
class Path:
    """Course of a run: the points and losses in order, the steps at which the step size was halved."""

    points: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    halved: list[int] = field(default_factory=list)
    best: int = 0


def checkpoints(steps: int) -> list[int]:
    """w_0 = 0, w_1, w_2, ...: the windows shrink by 3 % of the steps, to no less than 6 %."""
    at, window, shrink, least = [0], max(int(0.22 * steps), 1), max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)
    while at[-1] + window <= steps:
        at.append(at[-1] + window)
        window = max(window - shrink, least)
    return at


def project(z: Tensor, x: Tensor, eps: float, norm: float) -> Tensor:
    """The ball around x, then the unit box."""
    if norm == math.inf:
        z = torch.minimum(torch.maximum(z, x - eps), x + eps)
    elif float((z - x).norm()) > eps:
        z = x + eps * (z - x) / (z - x).norm()
    return z.clamp(0, 1)


def direction(g: Tensor, z: Tensor, norm: float) -> Tensor:
    """The steepest unit step; in L2 without the coordinates that push out of the box where they stand on it."""
    if norm == math.inf:
        return g.sign()
    held = torch.where(((z <= 0) & (g < 0)) | ((z >= 1) & (g > 0)), 0.0, g)
    g = held if bool(held.any()) else g
    return g / g.norm()


def apgd_slow(
    value: Value, x: Tensor, eps: float, norm: float, start: Tensor, steps: int, *, from_zero: bool = False
) -> Path:
    """Ascend from `start`; `from_zero` compares the first loss of the run with 0, as the published code does."""
    path = Path()

    def visit(z: Tensor) -> None:
        leaf = z.detach().clone().requires_grad_()
        loss = value(leaf)
        (g,) = torch.autograd.grad(loss, leaf)
        path.points.append(z)
        path.losses.append(float(loss.detach()))
        path.gradients.append(g)
        if path.losses[-1] > path.losses[path.best]:
            path.best = len(path.losses) - 1

    visit(start)
    w = checkpoints(steps)
    eta, z, previous, g = 2 * eps, start, start, path.gradients[0]
    halved_last, best_last = True, -math.inf
    for t in range(steps):
        if t in w[1:]:
            opened = w[w.index(t) - 1]
            losses = list(path.losses)
            if from_zero:
                losses[0] = 0.0
            rises = sum(losses[i + 1] > losses[i] for i in range(opened, t))
            best_now = path.losses[path.best]
            stuck = not halved_last and best_now <= best_last
            halved_last, best_last = rises <= 0.75 * (t - opened) or stuck, best_now
            if halved_last:
                path.halved.append(t)
                eta, z, g = eta / 2, path.points[path.best], path.gradients[path.best]
        u = project(z + eta * direction(g, z, norm), x, eps, norm)
        a = 0.75 if t else 1.0
        z, previous = project(z + a * (u - z) + (1 - a) * (z - previous), x, eps, norm), z
        visit(z)
        g = path.gradients[-1]
    return path
