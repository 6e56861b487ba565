"""Gradients that rounding alone hides: passed straight through, they are confirmed by differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.attacks.gradients.unrounded import Unrounded
from unfooled.core import losses
from unfooled.core.goals import logits_at
from unfooled.core.shapes import flat
from unfooled.core.types import Model
from unfooled.evaluation.checks.slopes import inner, large_steps
from unfooled.evaluation.checks.table import CHECKS, Finding, Kind

Vanishing = Callable[[Model, Tensor, Tensor, str], tuple[Finding, Finding, Finding]]
"""(model, points, labels, name of the points) -> D6, D8, D19."""
MAX_POINTS = 16
"""Points at which differences are compared with gradients."""


def passed_through(
    model: Model, z: Tensor, y: Tensor, own: tuple[Finding, Finding, Finding], vanishing: Vanishing, *, seed: int
) -> tuple[Finding, Finding, Finding]:
    """Return D6, D8 and D19 again: what fired is mended where rounding alone hid the gradient.

    Args:
        model: Any callable to logits.
        z: Points, (b, *D), the last ones random.
        y: Labels, (b,).
        own: The findings of the model's own gradient.
        vanishing: Function that makes them.
        seed: Random seed of the differences.

    Cost: 2 F + 2 B per point, and at most 216 passes for each of 16.
    """
    passed = Unrounded(model)
    try:
        again = vanishing(passed, z, y, "with rounding passed straight through")
        if again[0].fired or again[1].fired or not _confirmed(model, passed, z[-MAX_POINTS:], y[-MAX_POINTS:], seed):
            return own
    except Exception:  # such as a model that needs integers
        return own
    corrected = [
        f.model_copy(
            update={
                "kind": Kind.MEND,
                "detail": f"{f.detail}; passed straight through rounding, it agrees with differences",
                "action": "rounding is passed straight through",
            }
        )
        if f.fired
        else f
        for f in own[:2]
    ]
    return corrected[0], corrected[1], again[2]


def _confirmed(model: Model, passed: Model, z: Tensor, y: Tensor, seed: int) -> bool:
    """Return whether the values are the model's, and differences confirm the gradients."""
    z = inner(z.detach())
    leaf = z.clone().requires_grad_()
    with torch.enable_grad():
        logits = logits_at(passed, leaf)
        (g,) = torch.autograd.grad(losses.margin(logits, y).sum(), leaf)
    with torch.no_grad():
        if not torch.allclose(logits, logits_at(model, z), rtol=1e-4, atol=1e-5):
            return False
    g = g.nan_to_num()
    live = flat(g).norm(dim=1) > 1e-12
    if not bool(live.any()):
        return False
    return large_steps(passed, z[live], y[live], g[live], seed) <= CHECKS["D7"].limit
