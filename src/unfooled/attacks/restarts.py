"""Any attack, several times: what one start missed, the next may find."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_attack
from unfooled.core.goals import Attack, fooled, read_logits
from unfooled.core.losses import margin
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Model


def restarted(attack: Attack, restarts: int) -> BudgetAttack:
    """Repeat an attack from other seeds on the samples that it has not fooled yet.

    Args:
        attack: `(model, x, y, threat, *, targeted, generator) -> x_adv`, options bound with `functools.partial`.
        restarts: how often, at least 1.

    Returns:
        An attack with the same signature. Where no start succeeds, the point with the largest margin is kept.
        Cost: the attack's, plus 1 forward, for each restart a sample is left in.
    """
    if restarts < 1:
        raise ValueError(f"restarts is {restarts}; it must be at least 1")

    def run(
        model: Model,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        targeted: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        check_attack(x, y, threat)
        best, left = x.clone(), torch.arange(len(x), device=x.device)
        top = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        for r in range(restarts):
            source = rng.restart(generator, r)
            z = attack(model, x[left], y[left], threat.take(left), targeted=targeted, generator=source)
            with torch.no_grad():
                logits = read_logits(model, z)
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

    return run
