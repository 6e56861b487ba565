"""FAB: steps along the linearised boundary, biased back towards x.

    d_t, d_0 <- to the plane v(z) + <g, . - z> = 0 inside the box, from z and from x
    alpha    <- min(|d_t| / (|d_t| + |d_0|), .1)
    z        <- box((1 - alpha)(z + 1.05 d_t) + alpha (x + 1.05 d_0));   z <- x + .9 (z - x) where adversarial

v is the margin towards a class, g its gradient. Both projections are exact, for every sample at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.ascent.nearest import DUAL, Nearest, check_minimal, clearly_fooled, replace_zero_gradients, unbounded
from unfooled.core.checks import input_gradient
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, logits_at, read_logits
from unfooled.core.losses import margin, margin_targeted, true_logit
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, UNIT, Box
from unfooled.core.types import Model

Linearise = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(leaf (b, *D), its logits (b, K), positions (b,)) -> margin (b,) and gradient (b, *D) of the selected boundary."""


def fab(
    model: Model,
    x: Tensor,
    y: Tensor,
    norm: float,
    *,
    targeted: bool = False,
    targets: int | Tensor | None = None,
    steps: int = 100,
    eps: float | Tensor | None = None,
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
        targets: Target classes of FAB-T, which steps towards the boundary of one class: one per sample, (B,), or the
            number of likeliest classes to try in turn. None: the nearest of all boundaries at each step.
        steps: Gradient evaluations for each target (cost: about steps + 1 forwards and steps backwards, 1 forward more
            for each step that ends adversarial; without `targets`, K - 1 times the backwards; 10 forwards at the end).
        eps: Distance within which a sample stops at its first adversarial point, a float or (B,), without the final
            search back towards x. None: search for the nearest.
        start: Starting points, such as those of another attack. None: x.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        Adversarial points, (B, *D); x itself where none was found. `verify` with eps = inf gives the distances.

    Raises:
        BadInput: Another norm, targets that are not classes, or inputs that cannot be used.

    References:
        Croce, Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020,
        arXiv:1907.02044.
        Differs from the published code: the forward that evaluates a step is reused by the next one, the weights get no
        gradient, samples leave once they are within `eps`, a zero gradient is replaced by a random one, and the result
        is moved back towards x. `targeted` (to hit a class, through the boundary of the likeliest other) is added.
    """
    x = check_minimal(model, x, y, steps)
    threat = unbounded(norm, (1, 2, math.inf))
    if targeted and targets is not None:
        raise BadInput("targeted hits y, targets are classes to leave y for; give one of them")
    best = Nearest(x, threat)
    with frozen(model):
        with torch.no_grad():
            logits = read_logits(model, x, y)
        best.record(x, fooled(logits, y, targeted=targeted))
        near = torch.as_tensor(0.0 if eps is None else eps, dtype=x.dtype, device=x.device).expand(len(x))
        goals = [None] if targets is None else _goals(logits, y, targets)
        for goal in goals:
            rows = (best.distance > near).nonzero()[:, 0]
            if goal is not None:
                rows = rows[goal[rows] != y[rows]]
            walk = _Walk(model, best, y, near, _boundary(y, goal, float(norm), targeted=targeted), targeted, generator)
            walk.run(rows, (x if start is None else start)[rows], steps)
        return best.z if eps is not None else best.pull_back(model, y, targeted=targeted)


def _goals(logits: Tensor, y: Tensor, targets: int | Tensor) -> list[Tensor | None]:
    """Return the target classes, a list of (B,) tensors."""
    k = logits.shape[1]
    if isinstance(targets, Tensor):
        if (
            targets.shape != y.shape
            or targets.dtype != torch.int64
            or int(targets.min()) < 0
            or int(targets.max()) >= k
        ):
            raise BadInput(f"targets must be classes from 0 to {k - 1}, int64, one for each of the {len(y)} samples")
        return [targets]
    if targets < 1:
        raise BadInput(f"targets is {targets}; it must be at least 1")
    order = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    return [order[:, j] for j in range(min(targets, k - 1))]


def _boundary(y: Tensor, goal: Tensor | None, norm: float, *, targeted: bool) -> Linearise:
    """Select the boundary: towards the goal, else the nearest by linear estimate; when targeted, into y."""

    def single(leaf: Tensor, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        loss = margin if goal is None else margin_targeted(goal[rows])
        value = loss(logits, y[rows])
        g = input_gradient(value, leaf)
        return value.detach(), g

    def nearest(leaf: Tensor, logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        label, count = y[rows], logits.shape[1] - 1
        others = logits.detach().scatter(1, label[:, None], torch.inf).argsort(dim=1, descending=True)[:, 1:]
        reach = torch.full_like(label, torch.inf, dtype=leaf.dtype)
        value, g = torch.zeros_like(reach), torch.zeros_like(leaf)
        for j in range(count):
            gap = true_logit(logits, others[:, j]) - true_logit(logits, label)
            part = input_gradient(gap, leaf, retain_graph=j + 1 < count)
            far = gap.detach().abs() / flat(part.nan_to_num()).norm(p=DUAL[norm], dim=1).clamp_min(TINY)
            nearer = far < reach
            reach, value = torch.where(nearer, far, reach), torch.where(nearer, gap.detach(), value)
            g = where_rows(nearer, part, g)
        return value, g

    return single if goal is not None or targeted else nearest


@dataclass(frozen=True)
class _Walk:
    """Iterations of FAB on the samples without an adversarial point within `eps`."""

    model: Model
    best: Nearest
    y: Tensor
    near: Tensor
    linearise: Linearise
    targeted: bool
    generator: torch.Generator | None

    def run(self, at: Tensor, z: Tensor, steps: int) -> None:
        """Take `steps` steps from z with the samples `at`; adversarial points go into `best`."""
        before = torch.zeros_like(at, dtype=torch.bool)
        for t in range(steps + 1):
            # Samples adversarial after the last step are likely so again: a forward pass first saves their gradient.
            forward_first, hit = before | (t == steps), torch.zeros_like(before)
            if forward_first.any():
                points, rows = z[forward_first], at[forward_first]
                with torch.no_grad():
                    hit[forward_first] = self.record(points, rows, logits_at(self.model, points))
            stay = self.unsolved(at)
            at, z, forward_first, hit = at[stay], z[stay], forward_first[stay], hit[stay]
            if t == steps or not len(at):
                return
            z = where_rows(hit, self.step_back(z, at), z)
            value, g, newly_hit = self.tangent(z, at)
            newly_hit &= ~forward_first
            if newly_hit.any():
                z = where_rows(newly_hit, self.step_back(z, at), z)
                value[newly_hit], g[newly_hit], _ = self.tangent(z[newly_hit], at[newly_hit])
            stay = self.unsolved(at)
            at, z, before = at[stay], z[stay], (hit | newly_hit)[stay]
            x = self.best.x[at]
            z = self.step(z, x, value[stay], replace_zero_gradients(g[stay], x, self.generator, t))

    def unsolved(self, at: Tensor) -> Tensor:
        """Return where there is no adversarial point within `eps` yet, (b,) bool."""
        return self.best.distance[at] > self.near[at]

    def record(self, z: Tensor, at: Tensor, logits: Tensor) -> Tensor:
        """Record adversarial points that are nearer; return which points are adversarial, (b,)."""
        hit = clearly_fooled(logits, self.y[at], targeted=self.targeted)
        self.best.record_at(z, hit, at)
        return hit

    def step_back(self, z: Tensor, at: Tensor) -> Tensor:
        """Go a tenth of the way towards x."""
        x = self.best.x[at]
        return x + 0.9 * (z - x)

    def tangent(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return margin, gradient and whether the point is adversarial. Cost: 1 forward, 1 backward per boundary."""
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            logits = logits_at(self.model, leaf)
            value, g = self.linearise(leaf, logits, at)
        return value.to(z.dtype).nan_to_num(), g.nan_to_num(0.0, 0.0, 0.0), self.record(z, at, logits.detach())

    def step(self, z: Tensor, x: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """Step to the plane from z, and a little from x."""
        threat = self.best.threat
        d, d0 = (to_plane(p, v, g, threat.norm) for p, v in ((z, value), (x, value + flat(g * (x - z)).sum(1))))
        size, size0 = (threat.size(change).clamp_min(1e-8) for change in (d, d0))
        alpha = per_sample((size / (size + size0)).clamp(max=0.1), z)
        return UNIT.clamp((1 - alpha) * (z + 1.05 * d) + alpha * (x + 1.05 * d0))


def to_plane(t: Tensor, value: Tensor, g: Tensor, norm: float, box: Box = UNIT) -> Tensor:
    """Find the smallest change d of t inside the box with value + <g, d> = 0, or as close to 0 as the box allows.

        Linf  |d_i| = min(r_i, lam)      L2  |d_i| = min(r_i, lam |g_i|)      L1  |d_i| = r_i, largest |g_i| first

    r_i is the room to the box on the side where the value shrinks. In Linf and L2 lam is the root of an increasing,
    concave, piecewise-linear sum: Newton's steps from 0 never pass it and end on it, a few steps in any dimension.

    Args:
        t: Points in the box, (B, *D).
        value: The linear function at t, (B,).
        g: Gradient of that function, (B, *D).
        norm: 1, 2 or math.inf.
        box: Bounds.

    Returns:
        Changes, (B, *D).
    """
    down = flat(g) * -per_sample(value.sign(), flat(g))
    gain, point = down.abs(), flat(t)
    peak = gain.amax(1, keepdim=True).clamp_min(torch.finfo(t.dtype).tiny)
    gain, want = gain / peak, value.abs()[:, None] / peak
    room = torch.where(down > 0, box.high - point, point - box.low).clamp_min(0)
    room = torch.where(down == 0, torch.zeros_like(room), room)
    worth = gain * room
    if norm == 1:
        order = gain.argsort(dim=1, descending=True)
        sorted_worth = worth.gather(1, order)
        left = (want - (sorted_worth.cumsum(1) - sorted_worth)).clamp_min(0)
        spent = torch.zeros_like(worth).scatter(1, order, torch.minimum(sorted_worth, left))
        length = torch.where(spent < worth, spent / gain.clamp_min(TINY), room)
        return (down.sign() * length).reshape(t.shape)
    speed = gain if norm == 2 else torch.ones_like(gain)
    slope, limit = gain * speed, room / speed.clamp_min(TINY)
    full = (worth.sum(1, keepdim=True) <= want) | (room == 0)
    lam = torch.zeros_like(want)
    while True:
        free = slope.masked_fill(full, 0).sum(1, keepdim=True)
        spent = torch.where(full, worth, 0.0).sum(1, keepdim=True)
        lam = torch.where(free > 0, (want - spent).clamp_min(0) / free, lam)
        reached = ~full & (limit <= lam)
        if not reached.any():
            break
        full |= reached
    return (down.sign() * torch.where(full, room, torch.minimum(lam * speed, room))).reshape(t.shape)
