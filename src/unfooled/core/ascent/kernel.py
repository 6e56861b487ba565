"""The ascent kernel: maximise a per-sample objective inside a threat, one steepest step at a time.

    z_{t+1} = P( z_t + s_t eps steepest(grad v(z_t)) )

v is the objective, P the threat's projection, s_t the step size in multiples of eps, N the number of steps. PGD, the
inner loops of adversarial training, attacks on explanations and feature inversion are choices of objective; step sizes
are choices of step rule:

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
    Differs from the published code of `Auto`: in the first window, the loss after the first step is compared with the
    loss at the start instead of with 0; `Auto(compat="reference")` compares with 0, for tests of parity. In L1 the
    number q D of entries is rounded down, so that a single entry can remain, and entries at the edge of the box that
    push out of it take no part in a step.
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


CONSTANT_STEPS = Constant()
"""The default rule: steps of constant length."""


def ascend(
    objective: Objective,
    x: Tensor,
    threat: Threat,
    *,
    steps: int,
    rule: Rule = CONSTANT_STEPS,
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
        rule: Step rule: `Constant`, `Decaying`, `Polyak`, `Auto`, or any other `Rule`.
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
    state = run.fresh(queue[0]) if len(queue) else {}
    while state and len(state["at"]):
        state = run.step(state)
        room = (batch or len(x)) - len(state["at"])
        # Refill in pieces of half a batch: single samples would cost a copy of the whole state each.
        while waiting and room >= max((batch or 1) // 2, 1):
            rows, rest = waiting[0][:room], waiting[0][room:]
            waiting[:1] = [rest] if len(rest) else []
            fresh = run.fresh(rows)
            state = {name: torch.cat([state[name], fresh[name]]) for name in fresh} if len(state["at"]) else fresh
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
        state = {"at": rows, "t": torch.zeros_like(rows), "z": z, "best": z, "best_value": value, "value": value}
        state["better"] = torch.ones_like(rows, dtype=torch.bool)
        return state | self.rule.begin(z, self.steps)

    def evaluate(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Return value, done and gradient of the live samples; the gradient is computed only where it is needed."""
        z, at, t = state["z"], state["at"], state["t"]
        forward_first = (t >= self.steps) | (self.finished[t] > 0.4 * self.arrived[t])
        value = torch.empty(len(z), dtype=z.dtype, device=z.device)
        done = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        needs_gradient = t < self.steps
        if forward_first.any():
            with torch.no_grad():
                v, d = self.objective(z[forward_first], at[forward_first])
            value[forward_first], done[forward_first] = v.to(z.dtype), d
            needs_gradient = needs_gradient & ~done
        g = torch.zeros_like(z)
        if needs_gradient.any():
            whole = bool(needs_gradient.all())
            leaf = (z if whole else z[needs_gradient]).detach().requires_grad_()
            with torch.enable_grad():
                v, d = self.objective(leaf, at if whole else at[needs_gradient])
                check_differentiable(v)
                (part,) = torch.autograd.grad(v.sum(), leaf, allow_unused=True)
            part = torch.zeros_like(leaf) if part is None else part
            v = v.detach().to(z.dtype)
            if whole:
                value, done, g = v, d.detach(), part
            else:
                value[needs_gradient], done[needs_gradient], g[needs_gradient] = v, d, part
            self.result.used[at] += needs_gradient
        self.arrived.index_add_(0, t, torch.ones_like(t, dtype=self.arrived.dtype))
        self.finished.index_add_(0, t, done.to(self.finished.dtype))
        return value, done, g

    def unusable(self, g: Tensor) -> Tensor:
        """Return where the gradient is zero or not finite, (b,) bool."""
        peak = flat(g).abs().amax(1)  # NaN and infinity reach it
        return ~((peak > 0) & (peak < torch.inf))

    def revive(self, g: Tensor, state: State, x: Tensor) -> Tensor:
        """Replace unusable gradients by random directions, and count them."""
        dead = self.unusable(g)
        if not dead.any():
            return g
        self.result.dead[state["at"][dead]] += 1
        seed = rng.seeds(x[dead], self.seed, stage=rng.Stream.REVIVED)
        g = g.clone()
        g[dead] = rng.normal(seed, tuple(x.shape[1:]), draw=state["t"][dead], dtype=x.dtype)
        return g

    def step(self, state: State) -> State:
        """Evaluate the live samples, record their best points, remove those that are done, move the others."""
        value, done, g = self.evaluate(state)
        better = (value > state["best_value"]) | state["best_value"].isnan() | (state["t"] == 0)
        state["value"], state["better"] = value, better
        state["best"] = where_rows(better, state["z"], state["best"])
        state["best_value"] = torch.where(better, value, state["best_value"])
        leave = done | (state["t"] >= self.steps)
        if not self.revives:
            dead = ~leave & self.unusable(g)
            self.result.dead[state["at"]] += dead
            leave = leave | dead
        if leave.any():
            # Done samples return the point that is done; the others their best.
            current = done | torch.full_like(done, not self.keep_best)
            at = state["at"][leave]
            self.result.z[at] = where_rows(current, state["z"], state["best"])[leave]
            self.result.value[at] = torch.where(current, value, state["best_value"])[leave]
            self.result.done[at] = done[leave]
            self.result.moved[at] = state["t"][leave]
            stay = ~leave
            g, state = g[stay], {name: rows[stay] for name, rows in state.items()}
        if not len(state["at"]):
            return state
        whole = len(state["at"]) == len(self.x)
        x = self.x if whole else self.x.index_select(0, state["at"])
        threat = self.threat if whole else self.threat.take(state["at"])
        g = self.revive(g, state, x) if self.revives else g
        if self.threat.norm != math.inf:
            g = inward(g, state["z"], self.threat.box)
        state["z"] = self.rule.move(state, g, x, threat, self.steps)
        state["t"] = state["t"] + 1
        return state
