"""The one kernel: maximise a per-sample objective inside a threat, one steepest step at a time.

    z_{t+1} = P( z_t + s_t eps steepest(grad v(z_t)) )

PGD, the inner loops of adversarial training, attacks on explanations and feature inversion are choices of objective;
step sizes are choices of rule:

    Constant(s)            s_t = s
    Decaying(first, last)  s_t = last + (first - last)(1 + cos(pi t / N)) / 2
    Polyak(cap)            s_t eps = min( (best possible v - v(z_t)) / <d, steepest(d)>, cap ),   d a mean of gradients
    Auto(rho, momentum)    APGD: s_0 = 2, momentum, halved at checkpoints that show no progress; sparse steps in L1

A sample that its objective reports as done leaves the batch at once, and the next one waiting takes its place. N steps
cost N + 1 forwards and N backwards a sample, less where it is done early.

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
from typing import Protocol

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import BadInput, check_differentiable
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, Box, Threat, project_l1_box
from unfooled.core.types import Objective

State = dict[str, Tensor]
"""Rows of the live batch, each value (b, ...): at, t, z, value, better, best, best_value, and what the rule adds."""


@dataclass(frozen=True)
class Ascent:
    """What `ascend` found, one entry a sample.

    Attributes:
        z: where the objective was done, else the best point met (the last with `keep_best=False`), (B, *D).
        value: the objective there, (B,).
        done: whether the objective reported done, (B,).
        used: gradients taken, (B,) int64.
        dead: how many of them were zero or not finite; a random direction took their place, (B,) int64.
        moved: steps taken before the sample left, (B,) int64.
    """

    z: Tensor
    value: Tensor
    done: Tensor
    used: Tensor
    dead: Tensor
    moved: Tensor


def inward(g: Tensor, z: Tensor, box: Box) -> Tensor:
    """Drop coordinates that sit on the box and push out of it, so that the step's length is not wasted."""
    # In arithmetic, not in masks: comparisons of whole batches are several times slower on a CPU.
    up = (box.high - z).sign().clamp_min(0)
    down = (z - box.low).sign().clamp_min(0)
    masked = g.clamp_min(0) * up + g.clamp_max(0) * down
    return where_rows(flat(masked).abs().amax(1) > 0, masked, g)


class Rule(Protocol):
    """A step rule: per-row state, so that rows of different age can share a batch."""

    def begin(self, z: Tensor, steps: int) -> State:
        """State of fresh rows, beside what the kernel keeps."""
        ...

    def move(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """The next points, from the state, the gradients and the centres; may update the rule's own state."""
        ...


@dataclass(frozen=True)
class Constant:
    """Every step has size `size` times eps."""

    size: float = 0.1

    def begin(self, z: Tensor, steps: int) -> State:
        """No state."""
        return {}

    def move(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """One projected step."""
        return threat.project(s["z"] + self.size * per_sample(threat.eps, x) * threat.steepest(g), x)


@dataclass(frozen=True)
class Decaying:
    """Step sizes fall from `first` to `last` times eps along half a cosine; `absolute`, they are not times eps."""

    first: float = 1.0
    last: float = 0.01
    absolute: bool = False

    def begin(self, z: Tensor, steps: int) -> State:
        """No state."""
        return {}

    def move(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """One projected step."""
        wave = 1 + torch.cos(math.pi * s["t"].to(x.dtype) / max(steps, 1))
        size = self.last + (self.first - self.last) * wave / 2
        size = size if self.absolute else size * threat.eps
        return threat.project(s["z"] + per_sample(size, x) * threat.steepest(g), x)


@dataclass(frozen=True)
class Polyak:
    """The step that would reach the optimum if the objective were linear, where the best possible value is known.

        d_t = g_t + |g_t| / |d_{t-1}| d_{t-1},        size_t = min( (optimum - v(z_t)) / <d_t, steepest(d_t)>, cap )

    d_t halves the angle between the gradient and the last direction, which ends the zigzag of plain gradients in narrow
    valleys; the denominator is its dual norm. Coordinates that push out of the box are dropped from both. Sizes are in
    input units, not in multiples of eps, so that they have a meaning where eps is infinite.

    Args:
        cap: the longest step, in the threat's norm.
        optimum: the best possible value of the objective; 0 for minus a distance that can vanish.
        average: d as above; else d_t = g_t, and in L2 no step moves away from an optimum of a concave objective.
    """

    cap: float = 1.0
    optimum: float = 0.0
    average: bool = True

    def begin(self, z: Tensor, steps: int) -> State:
        """The last direction."""
        return {"d": torch.zeros_like(z)} if self.average else {}

    def move(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """One projected step."""
        if self.average:
            inside = threat.norm == math.inf
            last = s["d"] if inside else inward(s["d"], s["z"], threat.box)
            ratio = flat(g).norm(dim=1) / flat(last).norm(dim=1).clamp_min(TINY)
            mean = g + per_sample(ratio, g) * last
            s["d"] = mean = mean if inside else inward(mean, s["z"], threat.box)
            # Two that cancel, or overflow, leave nothing to go by.
            g = where_rows(flat(mean).abs().amax(1) > 0, mean.nan_to_num(0.0, 0.0, 0.0), g)
        way = threat.steepest(g)
        slope = (flat(g) * flat(way)).sum(1)
        # A slope too small to divide by asks for more than the cap. NaN values, which are survived elsewhere, as well.
        size = ((self.optimum - s["value"]) / slope).nan_to_num(nan=self.cap).clamp(0, self.cap)
        return threat.project(s["z"] + per_sample(size, x) * way, x)


@dataclass(frozen=True)
class Auto:
    """APGD's rule for Linf, L2 and L1.

        u = P(z_t + s steepest(g_t)),   z_{t+1} = P(z_t + a (u - z_t) + (1 - a)(z_t - z_{t-1})),   a = .75, at first 1

    At a checkpoint s is halved and the row returns to its best point if the loss rose in at most `rho` of the steps
    since the last one, or if s was not halved there and the best loss has not improved since.

    In L1 a step spreads over the q D largest entries of the gradient, has no momentum, and P is exact for ball and box:

        z_{t+1} = P(z_t + s sign(g_q) / n(g_q)),   n = number of entries that are not 0,   at first s = eps, q = .2

    Every .04 N steps q becomes n(best - x) / (1.5 D). Where that number fell by more than a twentieth, s returns to eps
    and the row to its best point; else s is divided by 1.5, down to eps / 10.

    Args:
        rho: share of rising steps below which a row is said to oscillate.
        momentum: a above.
        first: the first step, in multiples of eps; half of it in L1.
        share: q at first, in L1; where None from the entries in which the start differs from x.
        compat: "reference" keeps the published code's comparison with 0 (tests of parity only).
    """

    rho: float = 0.75
    momentum: float = 0.75
    first: float = 2.0
    share: float | None = 0.2
    compat: str = ""

    def begin(self, z: Tensor, steps: int) -> State:
        """Step size, last point and value, gradient at the best point, and the window's counters."""
        count = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        number = count.to(z.dtype)
        return {
            "s": number + self.first,
            "previous": z.clone(),
            "last_value": number.clone(),
            "best_g": torch.zeros_like(z),
            "k": count + max(int(0.22 * steps), 1),
            "in_window": count.clone(),
            "rises": count.clone(),
            "halved": torch.ones_like(count, dtype=torch.bool),
            "best_at_check": number - torch.inf,
            "q": number + (self.share or 0.0),
            "support": number + z[0].numel() if len(z) else number,
        }

    def _checkpoint(self, s: State, g: Tensor, steps: int) -> Tensor:
        """Halve and return where a window has closed without progress; the gradient to go on with."""
        due = s["in_window"] == s["k"]
        if not due.any():
            return g
        stuck = ~s["halved"] & (s["best_at_check"] >= s["best_value"])
        halve = due & ((s["rises"] <= self.rho * s["k"]) | stuck)
        s["halved"] = torch.where(due, halve, s["halved"])
        s["best_at_check"] = torch.where(due, s["best_value"], s["best_at_check"])
        s["s"] = torch.where(halve, s["s"] / 2, s["s"])
        s["z"] = where_rows(halve, s["best"], s["z"])
        g = where_rows(halve, s["best_g"], g)
        shorter = (s["k"] - max(int(0.03 * steps), 1)).clamp_min(max(int(0.06 * steps), 1))
        s["k"] = torch.where(due, shorter, s["k"])
        s["in_window"] = s["in_window"].masked_fill(due, 0)
        s["rises"] = s["rises"].masked_fill(due, 0)
        return g

    def move(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """One step with momentum, after the checkpoint if one is due."""
        if threat.norm not in (1.0, 2.0, math.inf):
            raise ValueError(f"Auto is made for Linf, L2 and L1, the threat is {threat}; use Decaying")
        if threat.norm == 1.0:
            return self._sparse(s, g, x, threat, steps)
        s["best_g"] = where_rows(s["better"], g, s["best_g"])
        old = s["t"] > 0
        rise = s["value"] > s["last_value"]
        s["rises"] = s["rises"] + (old & rise)
        s["in_window"] = s["in_window"] + old
        first_value = torch.zeros_like(s["value"]) if self.compat == "reference" else s["value"]
        s["last_value"] = torch.where(old, s["value"], first_value)
        g = self._checkpoint(s, g, steps)
        z = s["z"]
        u = threat.project(z + per_sample(s["s"] * threat.eps, x) * threat.steepest(g), x)
        a = per_sample(torch.where(old, self.momentum, 1.0), x)
        step = threat.project(z + a * (u - z) + (1 - a) * (z - s["previous"]), x)
        s["previous"] = z
        return step

    def _sparse(self, s: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """One step in L1, over the share q of the entries, after the checkpoint if one is due."""
        d, old, top = x[0].numel(), s["t"] > 0, self.first / 2
        s["best_g"] = where_rows(s["better"], g, s["best_g"])
        s["in_window"] = s["in_window"] + old
        support = (flat(s["best"] - x) != 0).sum(1).to(x.dtype)
        if self.share is None:
            s["q"] = torch.where(old, s["q"], support / (1.5 * d))
            s["support"] = torch.where(old, s["support"], support)
        s["s"] = torch.where(old, s["s"], top)
        due = s["in_window"] == max(int(0.04 * steps), 1)
        if due.any():
            sparser = due & (support < 0.95 * s["support"])
            smaller = (s["s"] / 1.5).clamp_min(top / 10)
            s["s"] = torch.where(sparser, top, torch.where(due, smaller, s["s"]))
            s["z"], g = where_rows(sparser, s["best"], s["z"]), where_rows(sparser, s["best_g"], g)
            s["q"] = torch.where(due, support / (1.5 * d), s["q"])
            s["support"] = torch.where(due, support, s["support"])
            s["in_window"] = s["in_window"].masked_fill(due, 0)
        size = flat(g).abs()
        count = (s["q"] * d + 1e-3).to(torch.int64).clamp(1, d)  # 1e-3: n / 1.5 may be whole
        least = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
        sign = torch.where(size >= least, flat(g).sign(), torch.zeros_like(size))
        sign = sign / sign.abs().sum(1, keepdim=True).clamp_min(1)
        far = s["z"] + per_sample(s["s"] * threat.eps, x) * sign.reshape(x.shape)
        return project_l1_box(far, x, threat.eps, threat.box)


def ascend(
    objective: Objective,
    x: Tensor,
    threat: Threat,
    *,
    steps: int,
    rule: Rule = Constant(),
    start: Tensor | None = None,
    keep_best: bool = True,
    revive: bool = True,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Ascent:
    """Maximise `objective` inside `threat` around each sample.

    Args:
        objective: `(z (b, *D), at (b,)) -> value (b,), done (b,)`; `at` are the positions in x of the live rows, so
            closures read `y[at]`. Rows must not depend on each other.
        x: centres, (B, *D).
        threat: constraint set; its eps may be (B,).
        steps: gradients a sample, at least 0 (cost: steps + 1 forwards, steps backwards).
        rule: `Constant`, `Decaying`, `Polyak`, `Auto`, or anything with their two methods.
        start: first points, (B, *D); x where None. Used as they are: draw them from `threat.sample`.
        keep_best: return the best point met; else the last.
        revive: a zero gradient gives way to a random direction; else its sample leaves, `dead` being 1.
        batch: samples alive at once; all where None.
        generator: base seed of the directions that replace zero gradients.

    Returns:
        An `Ascent`. Points are inside the threat and detached; nothing else is touched.

    Raises:
        BadInput: the objective carries no gradient to z, start is not of x's shape, or steps is below 0.
    """
    if steps < 0:
        raise BadInput(f"steps is {steps}; it must be at least 0")
    if start is not None and start.shape != x.shape:
        raise BadInput(f"start has shape {tuple(start.shape)}, x has {tuple(x.shape)}; they must agree")
    run = _Run(
        objective, x.detach(), threat.bounded(x), steps, rule, (x if start is None else start).detach(), keep_best
    )
    run.revives = revive
    run.base = rng.base_seed(generator)
    queue = torch.arange(len(x), device=x.device).split(batch or max(len(x), 1))
    waiting = list(queue[1:])
    s = run.fresh(queue[0]) if len(queue) else {}
    while s and len(s["at"]):
        s = run.step(s)
        room = (batch or len(x)) - len(s["at"])
        # Refill in pieces of half a batch: single rows would cost a copy of the whole state each.
        while waiting and room >= max((batch or 1) // 2, 1):
            rows, rest = waiting[0][:room], waiting[0][room:]
            waiting[:1] = [rest] if len(rest) else []
            fresh = run.fresh(rows)
            s = {name: torch.cat([s[name], fresh[name]]) for name in fresh} if len(s["at"]) else fresh
            room -= len(rows)
    return run.found


class _Run:
    """One ascent under way: the results so far, and one step of the live rows."""

    base = 0
    revives = True

    def __init__(
        self, objective: Objective, x: Tensor, threat: Threat, steps: int, rule: Rule, start: Tensor, keep_best: bool
    ) -> None:
        self.objective, self.x, self.threat, self.steps, self.rule = objective, x, threat, steps, rule
        self.start, self.keep_best = start, keep_best
        n, count = len(x), torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.found = Ascent(
            z=start.clone(),
            value=torch.full((n,), -torch.inf, dtype=x.dtype, device=x.device),
            done=torch.zeros(n, dtype=torch.bool, device=x.device),
            used=count,
            dead=count.clone(),
            moved=count.clone(),
        )
        # How many rows of each age were done on arrival: where most are, looking first saves their gradient.
        self.seen = torch.zeros(steps + 1, device=x.device)
        self.fell = torch.zeros(steps + 1, device=x.device)

    def fresh(self, rows: Tensor) -> State:
        """State of rows that start now."""
        z = self.start[rows]
        value = torch.full((len(rows),), -torch.inf, dtype=z.dtype, device=z.device)
        s = {"at": rows, "t": torch.zeros_like(rows), "z": z, "best": z, "best_value": value, "value": value}
        s["better"] = torch.ones_like(rows, dtype=torch.bool)
        return s | self.rule.begin(z, self.steps)

    def evaluate(self, s: State) -> tuple[Tensor, Tensor, Tensor]:
        """Value, done and gradient of the live rows; rows that need no gradient get none taken."""
        z, at, t = s["z"], s["at"], s["t"]
        look = (t >= self.steps) | (self.fell[t] > 0.4 * self.seen[t])
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
            self.found.used[at] += need
        self.seen.index_add_(0, t, torch.ones_like(t, dtype=self.seen.dtype))
        self.fell.index_add_(0, t, done.to(self.fell.dtype))
        return value, done, g

    def unusable(self, g: Tensor) -> Tensor:
        """Rows whose gradient is zero or not finite, (b,) bool."""
        peak = flat(g).abs().amax(1)  # NaN and infinity reach it
        return ~((peak > 0) & (peak < torch.inf))

    def revive(self, g: Tensor, s: State, x: Tensor) -> Tensor:
        """Give rows without a usable gradient a random direction, and count them."""
        dead = self.unusable(g)
        if not dead.any():
            return g
        self.found.dead[s["at"][dead]] += 1
        seed = rng.seeds(x[dead], self.base, stage=-1)
        g = g.clone()
        g[dead] = rng.normal(seed, tuple(x.shape[1:]), draw=s["t"][dead], dtype=x.dtype)
        return g

    def step(self, s: State) -> State:
        """Evaluate the live rows, keep their best, let go of those that are done, move the others."""
        value, done, g = self.evaluate(s)
        better = (value > s["best_value"]) | s["best_value"].isnan() | (s["t"] == 0)
        s["value"], s["better"] = value, better
        s["best"] = where_rows(better, s["z"], s["best"])
        s["best_value"] = torch.where(better, value, s["best_value"])
        leave = done | (s["t"] >= self.steps)
        if not self.revives:
            dead = ~leave & self.unusable(g)
            self.found.dead[s["at"]] += dead
            leave = leave | dead
        if leave.any():
            # Done rows return the point that is done; the others their best.
            kept = done | torch.full_like(done, not self.keep_best)
            at = s["at"][leave]
            self.found.z[at] = where_rows(kept, s["z"], s["best"])[leave]
            self.found.value[at] = torch.where(kept, value, s["best_value"])[leave]
            self.found.done[at] = done[leave]
            self.found.moved[at] = s["t"][leave]
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
