"""What attacks leave of a network at rising radii."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import NORMAL, Effort, cascade
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.verify import verify


def survived(
    model: Model, x: Tensor, y: Tensor, threats: Sequence[Threat], *, seed: int = 0, effort: Effort = NORMAL
) -> Tensor:
    """How many of the threats, in increasing order, each sample survives under the cascade, judged by `verify`.

    Each sample is bisected: who falls in one threat is attacked in smaller ones, who survives in larger ones, since
    what a threat allows a larger one allows, too.

    Returns:
        (B,) int64 from 0 to the number of threats; -1 where the sample is wrong when clean.
    """
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in x.split(500)]) == y
    low, high = torch.zeros_like(y), torch.full_like(y, len(threats))
    high[~right] = 0
    while bool((low < high).any()):
        middle = (low + high) // 2
        for k in middle[low < high].unique().tolist():
            rows = ((middle == k) & (low < high)).nonzero()[:, 0]
            z = cascade(model, x[rows], y[rows], threats[k], seed=seed, effort=effort)
            fell = verify(model, x[rows], y[rows], z, threats[k]).success
            high[rows[fell]] = k
            low[rows[~fell]] = k + 1
    return torch.where(right, low, -1)
