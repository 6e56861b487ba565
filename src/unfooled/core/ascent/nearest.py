"""Shared parts of minimal-norm attacks: the nearest adversarial point so far, and a search from it back towards x.

The attacks themselves have the signature of `core.types.MinimalAttack`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_inputs, check_mode, input_gradient, is_trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, logits_at
from unfooled.core.losses import best_other, true_logit
from unfooled.core.model.precision import widened
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.core.types import Loss, Model

NORMS: dict[float, type[Threat]] = {0.0: L0, 1.0: L1, 2.0: L2, math.inf: Linf}
DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}
"""Norm -> its dual: the distance to a linear boundary is the margin divided by the dual norm of its gradient."""


def unbounded(norm: float, allowed: tuple[float, ...] = (0, 1, 2, math.inf)) -> Threat:
    """Return the threat of a norm with an infinite eps: only its size, steepest step and box are used.

    Raises:
        BadInput: The attack does not support this norm.
    """
    if norm not in allowed:
        known = ", ".join(str(n) for n in allowed)
        raise BadInput(f"norm is {norm}; this attack supports {known}")
    return NORMS[float(norm)](math.inf, free=_FREE.get())


_FREE: ContextVar[Tensor | None] = ContextVar("free", default=None)


@contextmanager
def moving_only(free: Tensor | None) -> Iterator[None]:
    """Let minimal-norm attacks called inside the context change only the entries `free`, (*D) bool; None: all."""
    token = _FREE.set(free)
    try:
        yield
    finally:
        _FREE.reset(token)


def check_minimal(model: Model, x: Tensor, y: Tensor, steps: int) -> Tensor:
    """Check the arguments of a minimal-norm attack, and return x, half precision widened to float32."""
    if not is_trusted():
        check_inputs(x, y)
        check_mode(model)
    if steps < 1:
        raise BadInput(f"steps is {steps}; it must be at least 1")
    return x if is_trusted() else widened(x)


def clearly_fooled(logits: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """Return where the label changes by a margin above rounding errors, (B,) bool, so that it does in any batch."""
    gap = best_other(logits, y) - true_logit(logits, y)
    slack = 1e-5 * logits.abs().amax(1)
    return fooled(logits, y, targeted=targeted) & ((-gap if targeted else gap) > slack)


class Nearest:
    """The nearest adversarial point queried so far; x itself, at distance inf, where there is none.

    Attributes:
        z: Points, (B, *D).
        distance: Their distances to x, (B,).
    """

    def __init__(self, x: Tensor, threat: Threat) -> None:
        self.x, self.threat = x, threat
        self.z = x.clone()
        self.distance = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)

    def record(self, z: Tensor, hit: Tensor) -> Tensor:
        """Record z where it is adversarial and nearer; return its distances to x, (B,)."""
        size = self.threat.size(z - self.x)
        nearer = hit & (size < self.distance)
        self.z = where_rows(nearer, z.detach(), self.z)
        self.distance = torch.where(nearer, size, self.distance)
        return size

    def record_at(self, z: Tensor, hit: Tensor, at: Tensor) -> None:
        """Record the points z of the samples `at` where they are adversarial and nearer."""
        size = self.threat.size(z - self.x[at])
        nearer = hit & (size < self.distance[at])
        self.z[at[nearer]], self.distance[at[nearer]] = z[nearer], size[nearer]

    @torch.no_grad()
    def pull_back(self, model: Model, y: Tensor, *, targeted: bool = False, halvings: int = 10) -> Tensor:
        """Bisect the segment from each point to x; in L0, undo changes instead. Cost: `halvings` forward passes.

        Returns:
            The nearest points, (B, *D).
        """
        if self.threat.norm == 0:
            return self._undo_changes(model, y, targeted=targeted, rounds=halvings)
        far, low, high = self.z, torch.zeros_like(self.distance), torch.ones_like(self.distance)
        for _ in range(halvings):
            middle = (low + high) / 2
            z = self.x + per_sample(middle, self.x) * (far - self.x)
            hit = clearly_fooled(logits_at(model, z), y, targeted=targeted)
            self.record(z, hit)
            low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
        return self.z

    def _undo_changes(self, model: Model, y: Tensor, *, targeted: bool, rounds: int) -> Tensor:
        """Undo a share of the smallest changes each round; halve the share where the point is no longer adversarial."""
        share = torch.full_like(self.distance, 0.5)
        for _ in range(rounds):
            delta = flat(self.z - self.x)
            changed = (delta != 0).sum(1)
            undo = (share * changed).floor().clamp_min(1)
            order = torch.where(delta != 0, delta.abs(), torch.inf).argsort(dim=1).argsort(dim=1)
            z = torch.where(order < undo[:, None], torch.zeros_like(delta), delta)
            z = self.x + z.reshape(self.x.shape)
            hit = clearly_fooled(logits_at(model, z), y, targeted=targeted)
            self.record(z, hit)
            share = torch.where(hit, share, share / 2)
        return self.z


def half_cosine(first: float, last: float, step: int, steps: int) -> float:
    """Return a step size between `first` and `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / max(steps, 1))) / 2


def loss_and_gradient(model: Model, z: Tensor, y: Tensor, sign: float, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, sign times the loss, and its gradient at z. Cost: 1 forward, 1 backward."""
    leaf = z.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_at(model, leaf)
        value = sign * loss(logits, y)
        g = input_gradient(value, leaf)
    # A NaN here would make the attack's radius NaN for all later steps.
    return logits.detach(), value.detach().nan_to_num(0.0, torch.inf, -torch.inf), g.nan_to_num(0.0, 0.0, 0.0)


def replace_zero_gradients(g: Tensor, x: Tensor, generator: torch.Generator | None, draw: int) -> Tensor:
    """Replace zero gradients by random directions, which depend only on the samples x, the generator and the draw."""
    dead = ~(flat(g) != 0).any(1)
    if not dead.any():
        return g
    seeds = rng.seeds(x, generator, stage=rng.Stream.REVIVED)
    noise, free = rng.normal(seeds, tuple(x.shape[1:]), draw=draw, dtype=x.dtype), _FREE.get()
    return where_rows(dead, noise if free is None else noise * free.to(noise), g)
