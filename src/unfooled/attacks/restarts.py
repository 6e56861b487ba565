"""Restarts of any attack on the samples that are not fooled yet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_attack, trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack, checked_once, fooled
from unfooled.core.losses import margin
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Model

Propose = Callable[[Tensor, Tensor, Threat, torch.Generator | None], Tensor]
"""`(x, y, threat, generator) -> x_adv`: one run of an attack whose other arguments are bound."""


def restarted(attack: Attack, restarts: int) -> BudgetAttack:
    """Repeat an attack with different seeds on the samples that are not fooled yet.

    Args:
        attack: `(model, x, y, threat, *, targeted, generator) -> x_adv`, options bound with `functools.partial`.
        restarts: Number of runs, at least 1.

    Returns:
        An attack with the same signature. Where no run succeeds, the point with the largest margin is returned.
        Cost: that of the attack, plus 1 forward, for each run of a sample.
    """
    check_restarts(restarts)

    def run(
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x = check_attack(x, y, threat)

        def propose(x: Tensor, y: Tensor, threat: Threat, source: torch.Generator | None) -> Tensor:
            return attack(model, x, y, threat, targeted=targeted, generator=source)

        return repeat(propose, restarts, model, x, y, threat, targeted=targeted, generator=generator)

    return run


def repeat(
    propose: Propose,
    restarts: int,
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    targeted: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Run an attack with several seeds; x, y and threat are checked already. See `restarted`."""
    check_restarts(restarts)
    best, left = x.clone(), torch.arange(len(x), device=x.device)
    top = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    reader = checked_once(model, y)
    for r in range(restarts):
        with trusted() if r else nullcontext():  # the first run checks the model's output
            z = propose(x[left], y[left], threat.take(left), source_of(generator, r))
        with torch.no_grad():
            logits = reader(z)
            value = margin(logits, y[left]).to(x.dtype) * (-1 if targeted else 1)
            value = value.masked_fill(value.isnan(), -torch.inf)
        hit = fooled(logits, y[left], targeted=targeted)
        better = hit | (value > top[left]) | (r == 0)
        best[left] = where_rows(better, z, best[left])
        top[left] = torch.where(better, value, top[left])
        left = left[~hit]
        if not len(left):
            break
    return best


def source_of(generator: torch.Generator | None, r: int) -> torch.Generator:
    """Return the generator of run r, with the base seed plus r as seed."""
    return torch.Generator().manual_seed((rng.base_seed(generator) + r) & 0x7FFFFFFFFFFFFFFF)


def check_restarts(restarts: int) -> None:
    """Refuse a number of runs below 1."""
    if restarts < 1:
        raise BadInput(f"restarts is {restarts}; it must be at least 1")
