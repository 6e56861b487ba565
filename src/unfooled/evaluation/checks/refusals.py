"""Search for inputs of the threat at which a model gives no answer: a refusal does not count as robustness."""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import losses
from unfooled.core.goals import answered, logits_at
from unfooled.core.shapes import per_sample
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.checks.before import gradient
from unfooled.evaluation.checks.table import Finding, above

MAX_SAMPLES, STEPS = 16, 8
"""Samples that are tried, and steps."""


def refusals(model: Model, x: Tensor, y: Tensor, threat: Threat) -> Finding:
    """D22: an ascent of the margin passes points without a finite answer, see `find_refusals`."""
    return refusal_finding(find_refusals(model, x, y, threat))


def find_refusals(model: Model, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return for which samples an ascent of the margin passes points without a finite answer, (b,) bool.

    Args:
        model: Any callable to logits.
        x: Samples that the attack could not fool, (b, *D); the first 16 are tried.
        y: Labels, (b,).
        threat: Constraint set of these samples.

    Cost: at most 9 F + 8 B per sample tried.
    """
    rows = torch.arange(min(len(x), MAX_SAMPLES), device=x.device)
    x, y, threat = x[rows], y[rows], threat.take(rows).bounded(x)
    refused, z = torch.zeros(len(x), dtype=torch.bool, device=x.device), x
    step = per_sample(torch.as_tensor(threat.eps, dtype=x.dtype, device=x.device).expand(len(x)), x) / 4
    for k in range(STEPS + 1):
        with torch.no_grad():
            refused |= ~answered(logits_at(model, z), y)
        g = gradient(model, z, y, losses.margin)[1] if k < STEPS else None
        if g is None:
            break
        z = threat.project(z + step * threat.steepest(g.nan_to_num(0.0, 0.0, 0.0)), x).detach()
    return refused


def refusal_finding(refused: Tensor) -> Finding:
    """Return the finding D22 for samples that were refused, (b,) bool."""
    share = float(refused.double().mean())
    return above(
        "D22", share, "on the way of an ascent the model gives no finite answer for "
        f"{share:.0%} of {len(refused)} samples that the attack could not fool",
        "no verdict: a refusal is neither right nor wrong; give the model without it",
    )  # fmt: skip
