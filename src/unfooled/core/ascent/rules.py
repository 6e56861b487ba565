"""Step rules of `ascend`: constant, decaying, Polyak's, and Auto-PGD's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, Box, Threat, project_l1_box

State = dict[str, Tensor]
"""State of the samples that are still attacked, (b, ...) each.

at: index in x; t: step number; z: current point; value: objective at z; better: whether z is the best point so far;
best, best_value: the best point and its value. A rule adds entries of its own.
"""


def inward(g: Tensor, z: Tensor, box: Box) -> Tensor:
    """Zero the gradient of coordinates on the box that push out of it, so that the step's length is not wasted."""
    # In arithmetic, not in masks: comparisons of whole batches are several times slower on a CPU.
    up = (box.high - z).sign().clamp_min(0)
    down = (z - box.low).sign().clamp_min(0)
    masked = g.clamp_min(0) * up + g.clamp_max(0) * down
    return where_rows(flat(masked).abs().amax(1) > 0, masked, g)


class Rule(Protocol):
    """A step rule; its state is per sample, so that samples at different steps can share a batch."""

    def begin(self, z: Tensor, steps: int) -> State:
        """Return the rule's initial state for samples that start at z."""
        ...

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Return the next points from the state, the gradients and the centres; may update the rule's state."""
        ...


@dataclass(frozen=True)
class Constant:
    """Steps of constant size.

    Args:
        size: Step size, in multiples of eps.
    """

    size: float = 0.1

    def begin(self, z: Tensor, steps: int) -> State:
        """Return an empty state."""
        return {}

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Take one projected step."""
        return threat.project(state["z"] + self.size * per_sample(threat.eps, x) * threat.steepest(g), x)


@dataclass(frozen=True)
class Decaying:
    """Step sizes that fall along half a cosine.

    Args:
        first: First step size, in multiples of eps.
        last: Last step size.
        absolute: True: step sizes are in input units; False: in multiples of eps.
    """

    first: float = 1.0
    last: float = 0.01
    absolute: bool = False

    def begin(self, z: Tensor, steps: int) -> State:
        """Return an empty state."""
        return {}

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Take one projected step."""
        wave = 1 + torch.cos(math.pi * state["t"].to(x.dtype) / max(steps, 1))
        size = self.last + (self.first - self.last) * wave / 2
        size = size if self.absolute else size * threat.eps
        return threat.project(state["z"] + per_sample(size, x) * threat.steepest(g), x)


@dataclass(frozen=True)
class Polyak:
    """Steps that would reach the optimum if the objective were linear, where the best possible value is known.

        d_t = g_t + |g_t| / |d_{t-1}| d_{t-1},        size_t = min( (optimum - v(z_t)) / <d_t, steepest(d_t)>, cap )

    d_t halves the angle between the gradient and the last direction, which ends the zigzag of plain gradients in narrow
    valleys; <d_t, steepest(d_t)> is the dual norm of d_t. Except in Linf, coordinates that push out of the box are set
    to 0 in d_t and d_{t-1}. Sizes are in input units, not in multiples of eps, so that they also work with an
    infinite eps.

    Args:
        cap: Longest step, in the threat's norm.
        optimum: Best possible value of the objective, such as 0 where it is minus a distance.
        average: True: average directions as above. False: d_t = g_t; in L2, no step on a concave objective then moves
            away from its optimum.
    """

    cap: float = 1.0
    optimum: float = 0.0
    average: bool = True

    def begin(self, z: Tensor, steps: int) -> State:
        """Return the last direction, zero at first."""
        return {"d": torch.zeros_like(z)} if self.average else {}

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Take one projected step."""
        if self.average:
            linf = threat.norm == math.inf  # coordinates that push out of the box cost the others nothing there
            last = state["d"] if linf else inward(state["d"], state["z"], threat.box)
            ratio = flat(g).norm(dim=1) / flat(last).norm(dim=1).clamp_min(TINY)
            mean = g + per_sample(ratio, g) * last
            state["d"] = mean = mean if linf else inward(mean, state["z"], threat.box)
            # Directions that cancel or overflow: fall back to the gradient.
            g = where_rows(flat(mean).abs().amax(1) > 0, mean.nan_to_num(0.0, 0.0, 0.0), g)
        way = threat.steepest(g)
        slope = (flat(g) * flat(way)).sum(1)
        # A slope too small to divide by, or a NaN value, gives a step of length `cap`.
        size = ((self.optimum - state["value"]) / slope).nan_to_num(nan=self.cap).clamp(0, self.cap)
        return threat.project(state["z"] + per_sample(size, x) * way, x)


@dataclass(frozen=True)
class Auto:
    """The step rule of APGD for Linf, L2 and L1.

        u = P(z_t + s steepest(g_t)),   z_{t+1} = P(z_t + a (u - z_t) + (1 - a)(z_t - z_{t-1})),   a = .75, at first 1

    s is the step size, g_t the gradient, P the projection. At a checkpoint s is halved and the sample returns to its
    best point if the loss rose in at most `rho` of the steps since the last checkpoint, or if s was not halved at the
    last checkpoint and the best loss has not improved since.

    In L1 a step changes only the q D largest of the D entries of the gradient, g_q, has no momentum, and P is exact for
    ball and box:

        z_{t+1} = P(z_t + s sign(g_q) / n(g_q)),   n = number of entries that are not 0,   at first s = eps, q = .2

    Every .04 N of the N steps q becomes n(best - x) / (1.5 D). Where n(best - x) fell by more than a twentieth, s
    returns to eps and the sample to its best point; else s is divided by 1.5, down to eps / 10.

    Args:
        rho: Largest share of rising steps at which a sample still counts as oscillating.
        momentum: Weight a of the new step.
        first: First step, in multiples of eps; half of it in L1.
        share: First q in L1. None: computed from the number of entries in which the start differs from x.
        compat: "reference" compares the loss after the first step with 0, as the published code does (for tests of
            parity only).
    """

    rho: float = 0.75
    momentum: float = 0.75
    first: float = 2.0
    share: float | None = 0.2
    compat: str = ""

    def begin(self, z: Tensor, steps: int) -> State:
        """Return the initial state: step size, last point and value, gradient at the best point, window counters."""
        count = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        number = count.to(z.dtype)
        return {
            "size": number + self.first,
            "previous": z.clone(),
            "last_value": number.clone(),
            "best_g": torch.zeros_like(z),
            "window": count + max(int(0.22 * steps), 1),
            "in_window": count.clone(),
            "rises": count.clone(),
            "halved": torch.ones_like(count, dtype=torch.bool),
            "best_at_check": number - torch.inf,
            "q": number + (self.share or 0.0),
            "support": number + z[0].numel() if len(z) else number,
        }

    def _checkpoint(self, state: State, g: Tensor, steps: int) -> Tensor:
        """Halve s where a window has closed without progress; return the gradient to continue with."""
        due = state["in_window"] == state["window"]
        if not due.any():
            return g
        stuck = ~state["halved"] & (state["best_at_check"] >= state["best_value"])
        halve = due & ((state["rises"] <= self.rho * state["window"]) | stuck)
        state["halved"] = torch.where(due, halve, state["halved"])
        state["best_at_check"] = torch.where(due, state["best_value"], state["best_at_check"])
        state["size"] = torch.where(halve, state["size"] / 2, state["size"])
        state["z"] = where_rows(halve, state["best"], state["z"])
        g = where_rows(halve, state["best_g"], g)
        shorter = (state["window"] - max(int(0.03 * steps), 1)).clamp_min(max(int(0.06 * steps), 1))
        state["window"] = torch.where(due, shorter, state["window"])
        state["in_window"] = state["in_window"].masked_fill(due, 0)
        state["rises"] = state["rises"].masked_fill(due, 0)
        return g

    def move(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Take one step with momentum, after the checkpoint if one is due."""
        if threat.norm not in (1.0, 2.0, math.inf):
            raise ValueError(f"Auto is made for Linf, L2 and L1, the threat is {threat}; use Decaying")
        if threat.norm == 1.0:
            return self._sparse(state, g, x, threat, steps)
        state["best_g"] = where_rows(state["better"], g, state["best_g"])
        old = state["t"] > 0
        rise = state["value"] > state["last_value"]
        state["rises"] = state["rises"] + (old & rise)
        state["in_window"] = state["in_window"] + old
        first_value = torch.zeros_like(state["value"]) if self.compat == "reference" else state["value"]
        state["last_value"] = torch.where(old, state["value"], first_value)
        g = self._checkpoint(state, g, steps)
        z = state["z"]
        u = threat.project(z + per_sample(state["size"] * threat.eps, x) * threat.steepest(g), x)
        a = per_sample(torch.where(old, self.momentum, 1.0), x)
        step = threat.project(z + a * (u - z) + (1 - a) * (z - state["previous"]), x)
        state["previous"] = z
        return step

    def _sparse(self, state: State, g: Tensor, x: Tensor, threat: Threat, steps: int) -> Tensor:
        """Take one step in L1 over the share q of the entries, after the checkpoint if one is due."""
        d, old, largest = x[0].numel(), state["t"] > 0, self.first / 2
        state["best_g"] = where_rows(state["better"], g, state["best_g"])
        state["in_window"] = state["in_window"] + old
        support = (flat(state["best"] - x) != 0).sum(1).to(x.dtype)
        if self.share is None:
            state["q"] = torch.where(old, state["q"], support / (1.5 * d))
            state["support"] = torch.where(old, state["support"], support)
        state["size"] = torch.where(old, state["size"], largest)
        due = state["in_window"] == max(int(0.04 * steps), 1)
        if due.any():
            sparser = due & (support < 0.95 * state["support"])
            smaller = (state["size"] / 1.5).clamp_min(largest / 10)
            state["size"] = torch.where(sparser, largest, torch.where(due, smaller, state["size"]))
            state["z"], g = where_rows(sparser, state["best"], state["z"]), where_rows(sparser, state["best_g"], g)
            state["q"] = torch.where(due, support / (1.5 * d), state["q"])
            state["support"] = torch.where(due, support, state["support"])
            state["in_window"] = state["in_window"].masked_fill(due, 0)
        size = flat(g).abs()
        # 1e-3: n / 1.5 may be a whole number up to rounding.
        count = (state["q"] * d + 1e-3).to(torch.int64).clamp(1, d)
        least = size.sort(dim=1, descending=True).values.gather(1, count[:, None] - 1)
        sign = torch.where(size >= least, flat(g).sign(), torch.zeros_like(size))
        sign = sign / sign.abs().sum(1, keepdim=True).clamp_min(1)
        far = state["z"] + per_sample(state["size"] * threat.eps, x) * sign.reshape(x.shape)
        return project_l1_box(far, x, threat.eps, threat.box)
