"""APGD in L1 written out for one sample at a time, from algorithm 2 of Croce and Hein (2021); slow and plain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]
"""A point -> its loss, a scalar with a graph."""


@dataclass
class Path:
    """Course of a run: points and losses in order, and (step size, share) after each checkpoint."""

    points: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    reduced: list[int] = field(default_factory=list)
    best: int = 0


def project(z: Tensor, x: Tensor, eps: float) -> Tensor:
    """The nearest point of ball and unit box: the threshold by bisection."""
    u = z - x
    room = torch.where(u > 0, 1 - x, x)
    low, high = 0.0, float(u.abs().max())

    def moved(lam: float) -> Tensor:
        return torch.minimum(room, (u.abs() - lam).clamp_min(0))

    if float(moved(0.0).sum()) > eps:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if float(moved(middle).sum()) > eps else (low, middle)
        return x + u.sign() * moved(high)
    return x + u.sign() * moved(0.0)


def direction(g: Tensor, z: Tensor, share: float) -> Tensor:
    """Signs of the largest entries, of unit length in L1, without those that push out of the box where they stand."""
    held = torch.where(((z <= 0) & (g < 0)) | ((z >= 1) & (g > 0)), 0.0, g)
    g = held if bool(held.any()) else g
    d = g.numel()
    least = float(g.abs().flatten().sort().values[d - min(max(int(share * d + 1e-3), 1), d)])
    step = torch.where(g.abs() >= least, g.sign(), 0.0)
    return step / max(float(step.abs().sum()), 1.0)


def apgd_l1_slow(value: Value, x: Tensor, eps: float, start: Tensor, steps: int, share: float | None = 0.2) -> Path:
    """Ascend from `start` in the ball of radius eps; a share of None is read from the start."""
    path, d = Path(), x.numel()

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
    window, s = max(int(0.04 * steps), 1), eps
    before = d if share is not None else int((start != x).sum())
    q = share if share is not None else before / (1.5 * d)
    z, g = start, path.gradients[0]
    for t in range(steps):
        if t and t % window == 0:
            entries = int((path.points[path.best] != x).sum())
            if entries < 0.95 * before:
                s, z, g = eps, path.points[path.best], path.gradients[path.best]
                path.returned.append(t)
            else:
                s = max(s / 1.5, eps / 10)
                path.reduced.append(t)
            q, before = entries / (1.5 * d), entries
        z = project(z + s * direction(g, z, q), x, eps)
        visit(z)
        g = path.gradients[-1]
    return path


def apgd_l1_phases(value: Value, x: Tensor, eps: float, start: Tensor, steps: int) -> tuple[Tensor, bool]:
    """Balls of 3, 2 and 1 eps; the first fooling point inside eps ends it: the point, whether it fools."""
    turns = [int(0.3 * steps), int(0.3 * steps)]
    turns.append(steps - sum(turns))
    z = start
    for phase, (factor, turn) in enumerate(zip((3.0, 2.0, 1.0), turns, strict=True)):
        path = apgd_l1_slow(value, x, factor * eps, project(z, x, factor * eps), turn, None if phase else 0.2)
        for point, loss in zip(path.points, path.losses, strict=True):
            if loss > 0 and float((point - x).abs().sum()) <= eps + (0 if phase < 2 else 1e-9):
                return point, True
        z = path.points[path.best]
    return z, False
