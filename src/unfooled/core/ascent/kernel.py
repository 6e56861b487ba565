"""The ascent kernel: maximise a per-sample objective inside a threat, one steepest step at a time.

    z_{t+1} = P( z_t + s_t eps steepest(grad v(z_t)) )

PGD, the inner loops of adversarial training, attacks on explanations and feature inversion are choices of objective;
step sizes are choices of step rule:

    Constant(s)            s_t = s
    Decaying(first, last)  s_t = last + (first - last)(1 + cos(pi t / N)) / 2
    Polyak(cap)            s_t eps = min( (best possible v - v(z_t)) / <d, steepest(d)>, cap ),   d a mean of gradients
    Auto(rho, momentum)    APGD: s_0 = 2, momentum, halved at checkpoints that show no progress; sparse steps in L1

A sample that its objective reports as done leaves the batch at once, and a waiting sample takes its place. N steps
cost N + 1 forwards and N backwards per sample, fewer where it is done early.

References:
    Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018, arXiv:1706.06083.
    Croce, Hein, Reliable evaluation of adversarial robustness, ICML 2020, arXiv:2003.01690, algorithm 1 (Auto).
    Croce, Hein, Mind the box: l1-APGD, ICML 2021, arXiv:2103.01208, algorithm 2 (Auto in L1).
    Polyak, Introduction to optimization, Optimization Software 1987, section 5.3 (Polyak).
    Sherali, Ulular, A primal-dual conjugate subgradient algorithm for specially structured linear and convex
    programming problems, Applied Mathematics and Optimization 1989 (Polyak's directions).
    Differs from the published code of `Auto`: the first window's rises are counted from the loss at the start, where
    the code compares the oldest one with 0; `Auto(compat="reference")` keeps that for tests of parity. In L1 the
    number q D of entries is rounded down, so that a single one can be left, and entries that stand on the box and push
    out of it take no part in a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.ascent.rules import Constant, Rule, State, inward
from unfooled.core.checks import check_differentiable
from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Objective


@dataclass(frozen=True)
class Ascent:
    """Result of `ascend`, one entry per sample.

    Attributes:
        z: The point at which the objective reported done, else the best one (the last with `keep_best=False`), (B, *D).
        value: Objective at z, (B,).
        done: True where the objective reported done, (B,) bool.
        used: Number of gradients taken, (B,) int64.
        dead: Number of gradients that were zero or not finite and were replaced by a random direction, (B,) int64.
        moved: Number of steps taken, (B,) int64.
    """

    z: Tensor
    value: Tensor
    done: Tensor
    used: Tensor
    dead: Tensor
    moved: Tensor


STEADY = Constant()
"""The default rule: steps of constant length."""


def ascend(
    objective: Objective,
    x: Tensor,
    threat: Threat,
    *,
    steps: int,
    rule: Rule = STEADY,
    start: Tensor | None = None,
    keep_best: bool = True,
    revive: bool = True,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Ascent:
    """Maximise `objective` inside `threat` around each sample.

    Args:
        objective: `(z (b, *D), at (b,)) -> value (b,), done (b,)`; `at` are the positions in x of the live samples, so
            closures read `y[at]`. Samples must not depend on each other.
        x: Centres, (B, *D).
        threat: Threat model; its eps may be (B,).
        steps: Gradients per sample, at least 0 (cost: steps + 1 forwards, steps backwards).
        rule: Step rule: `Constant`, `Decaying`, `Polyak`, `Auto`, or any object with their two methods.
        start: Starting points, (B, *D), not projected: draw them from `threat.sample`. None: x.
        keep_best: True: return the best point; False: the last.
        revive: True: replace a zero gradient by a random direction; False: the sample stops there, with `dead` 1.
        batch: Samples computed at once. None: all.
        generator: Base seed of the directions that replace zero gradients.

    Returns:
        An `Ascent`. Points are inside the threat and detached; the arguments are not modified.

    Raises:
        BadInput: The objective is not differentiable with respect to z, the shapes of start and x
            differ, or steps is below 0.
    """
    if steps < 0:
        raise BadInput(f"steps is {steps}; it must be at least 0")
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    first = (x if start is None else start).detach()
    run = _Run(
        objective, x.detach(), threat.bounded(x), steps, rule, first, keep_best, revive, rng.base_seed(generator)
    )
    queue = torch.arange(len(x), device=x.device).split(batch or max(len(x), 1))
    waiting = list(queue[1:])
    s = run.fresh(queue[0]) if len(queue) else {}
    while s and len(s["at"]):
        s = run.step(s)
        room = (batch or len(x)) - len(s["at"])
        # Refill in pieces of half a batch: single samples would cost a copy of the whole state each.
        while waiting and room >= max((batch or 1) // 2, 1):
            rows, rest = waiting[0][:room], waiting[0][room:]
            waiting[:1] = [rest] if len(rest) else []
            fresh = run.fresh(rows)
            s = {name: torch.cat([s[name], fresh[name]]) for name in fresh} if len(s["at"]) else fresh
            room -= len(rows)
    return run.result


class _Run:
    """State of one ascent: the results so far, and a step of the live samples."""

    def __init__(
        self,
        objective: Objective,
        x: Tensor,
        threat: Threat,
        steps: int,
        rule: Rule,
        start: Tensor,
        keep_best: bool,
        revives: bool,
        seed: int,
    ) -> None:
        self.objective, self.x, self.threat, self.steps, self.rule = objective, x, threat, steps, rule
        self.start, self.keep_best, self.revives, self.seed = start, keep_best, revives, seed
        n, count = len(x), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.result = Ascent(
            z=start.clone(),
            value=torch.full((n,), -torch.inf, dtype=x.dtype, device=x.device),
            done=torch.zeros(n, dtype=torch.bool, device=x.device),
            used=count,
            dead=count.clone(),
            moved=count.clone(),
        )
        # Samples evaluated at each step, and how many were done: where most are, a forward pass first saves gradients.
        self.arrived = torch.zeros(steps + 1, device=x.device)
        self.finished = torch.zeros(steps + 1, device=x.device)

    def fresh(self, rows: Tensor) -> State:
        """Return the state of samples that start now."""
        z = self.start[rows]
        value = torch.full((len(rows),), -torch.inf, dtype=z.dtype, device=z.device)
        s = {"at": rows, "t": torch.zeros_like(rows), "z": z, "best": z, "best_value": value, "value": value}
        s["better"] = torch.ones_like(rows, dtype=torch.bool)
        return s | self.rule.begin(z, self.steps)

    def evaluate(self, s: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, done and gradient of the live samples; the gradient is computed only where it is needed."""
        z, at, t = s["z"], s["at"], s["t"]
        look = (t >= self.steps) | (self.finished[t] > 0.4 * self.arrived[t])
        value = torch.empty(len(z), dtype=z.dtype, device=z.device)
        done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        need = t < self.steps
        if look.any():
            with torch.no_grad():
                v, d = self.objective(z[look], at[look])
            value[look], done[look] = v.to(z.dtype), d
            need = need & ~done
        g = torch.zeros_like(z)
        if need.any():
            whole = bool(need.all())
            leaf = (z if whole else z[need]).detach().requires_grad_()
            with torch.enable_grad():
                v, d = self.objective(leaf, at if whole else at[need])
                check_differentiable(v)
                (part,) = torch.autograd.grad(v.sum(), leaf, allow_unused=True)
            part = torch.zeros_like(leaf) if part is None else part
            v = v.detach().to(z.dtype)
            if whole:
                value, done, g = v, d.detach(), part
            else:
                value[need], done[need], g[need] = v, d, part
            self.result.used[at] += need
        self.arrived.index_add_(0, t, torch.ones_like(t, dtype=self.arrived.dtype))
        self.finished.index_add_(0, t, done.to(self.finished.dtype))
        return value, done, g

    def unusable(self, g: Tensor) -> Tensor:
        """Return where the gradient is zero or not finite, (b,) bool."""
        peak = flat(g).abs().amax(1)  # NaN and infinity reach it
        return ~((peak > 0) & (peak < torch.inf))

    def revive(self, g: Tensor, s: State, x: Tensor) -> Tensor:
        """Replace unusable gradients by random directions, and count them."""
        dead = self.unusable(g)
        if not dead.any():
            return g
        self.result.dead[s["at"][dead]] += 1
        seed = rng.seeds(x[dead], self.seed, stage=rng.Stream.REVIVED)
        g = g.clone()
        g[dead] = rng.normal(seed, tuple(x.shape[1:]), draw=s["t"][dead], dtype=x.dtype)
        return g

    def step(self, s: State) -> State:
        """Evaluate the live samples, record their best points, remove those that are done, move the others."""
        value, done, g = self.evaluate(s)
        better = (value > s["best_value"]) | s["best_value"].isnan() | (s["t"] == 0)
        s["value"], s["better"] = value, better
        s["best"] = where_rows(better, s["z"], s["best"])
        s["best_value"] = torch.where(better, value, s["best_value"])
        leave = done | (s["t"] >= self.steps)
        if not self.revives:
            dead = ~leave & self.unusable(g)
            self.result.dead[s["at"]] += dead
            leave = leave | dead
        if leave.any():
            # Done samples return the point that is done; the others their best.
            current = done | torch.full_like(done, not self.keep_best)
            at = s["at"][leave]
            self.result.z[at] = where_rows(current, s["z"], s["best"])[leave]
            self.result.value[at] = torch.where(current, value, s["best_value"])[leave]
            self.result.done[at] = done[leave]
            self.result.moved[at] = s["t"][leave]
            stay = ~leave
            g, s = g[stay], {name: rows[stay] for name, rows in s.items()}
        if not len(s["at"]):
            return s
        whole = len(s["at"]) == len(self.x)
        x = self.x if whole else self.x.index_select(0, s["at"])
        threat = self.threat if whole else self.threat.take(s["at"])
        g = self.revive(g, s, x) if self.revives else g
        if self.threat.norm != math.inf:
            g = inward(g, s["z"], self.threat.box)
        s["z"] = self.rule.move(s, g, x, threat, self.steps)
        s["t"] = s["t"] + 1
        return s
