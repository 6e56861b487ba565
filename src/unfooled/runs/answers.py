"""A model's answers on a few samples, as a short text by which a change of its behaviour is noticed.

    z_b = logits of sample b, less their mean; s = max |z|; the text has s and, for each sample, z_b u / s and z_b v / s

for two fixed unit vectors u, v. Answers differ from device to device by rounding, and a change of less is not noticed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.model.anatomy import modules_of
from unfooled.core.types import Model

EXACT, ROUGH = 1e-3, 2e-2
"""Differences, relative to the largest logit, that rounding may cause: on a CPU, and elsewhere or with 16 bits."""
SHARE = 0.25
"""Share of the samples whose answers may differ by more: a network that rounds its input does so near a step."""


def answers_text(model: Model, logits: Tensor) -> str:
    """Return the text of a model's logits, (B, K); empty where they are not finite."""
    z = logits.detach().to("cpu", torch.float64)
    if not bool(z.isfinite().all()):
        return ""
    z = z - z.mean(1, keepdim=True)
    scale = float(z.abs().max())
    phase = torch.arange(z.shape[1], dtype=torch.float64)
    vectors = torch.stack([(phase + 1).cos(), (2.3 * phase + 0.5).sin()], 1)
    parts = (z / (scale or 1.0)) @ (vectors / vectors.norm(dim=0))
    tolerance = ROUGH if logits.device.type != "cpu" or _is_short(model, logits) else EXACT
    return " ".join([f"{tolerance:g}", f"{scale:.6g}", *(f"{value:.5f}" for value in parts.flatten().tolist())])


def answers_differ(before: str, now: str) -> bool:
    """Return whether two texts of answers differ by more than rounding."""
    if before == now or not before or not now:
        return False
    try:
        a, b = (torch.tensor([float(word) for word in text.split()], dtype=torch.float64) for text in (before, now))
    except ValueError:
        return True
    if a.shape != b.shape or len(a) < 4 or len(a) % 2:
        return True
    tolerance = float(torch.maximum(a[0], b[0]))
    parts = (a[2:] - b[2:] * b[1] / a[1] if float(a[1]) else a[2:] - b[2:]).reshape(-1, 2)
    return float((parts.abs().amax(1) > tolerance).double().mean()) > SHARE


def _is_short(model: Model, logits: Tensor) -> bool:
    """Return whether logits, or any weight of the model, have 16 bits."""
    weights = (w for module in modules_of(model) for w in module.parameters())
    return any(t.dtype in (torch.float16, torch.bfloat16) for t in (logits, *weights))
