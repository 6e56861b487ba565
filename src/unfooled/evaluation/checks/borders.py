"""Comparison of scores with labels: do the scores of a model meet where its label changes?

    z(t) = a + t^p (b - a),   p in [1/2, 2] by coordinate,   t* = last t with the label c of a,   w = 2^-10
    jump = (m(t*) - m(t* + w)) / (m(0) - m(1)),              m(t) = f_c(z(t)) - max_{j != c} f_j(z(t))

Of a model that decides by its scores, the margin goes through 0 where the label changes: the jump is about w.
Where labels come from elsewhere, such as from another network, the margin jumps there; its gradient says nothing about
the way to the border, however smooth and true it is. The powers p keep coordinates of equal values from crossing the
steps of a rounded input at the same time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core import losses, rng
from unfooled.core.goals import logits_at
from unfooled.core.shapes import per_sample
from unfooled.core.types import Model
from unfooled.evaluation.checks.table import Finding, above, finding

MAX_PAIRS, HALVINGS, MIN_PAIRS = 16, 10, 3
"""Pairs of points that are compared, halvings of the way between them, and pairs below which nothing is judged."""


def pairs(x: Tensor, label: Tensor, most: int = MAX_PAIRS) -> tuple[Tensor, Tensor]:
    """Return positions of samples, and for each of the next one with another label, (p,) each."""
    first, second = [], []
    for i in range(len(x)):
        others = (label.roll(-i) != label[i]).nonzero()[:, 0]
        if len(others):
            first.append(i)
            second.append((int(others[0]) + i) % len(x))
    index = torch.tensor([first[:most], second[:most]], dtype=torch.int64, device=x.device)
    return index[0], index[1]


@torch.no_grad()
def borders(model: Model, a: Tensor, b: Tensor, where: str, *, seed: int = 0) -> Finding:
    """D27: the margin jumps where the label changes between two points.

    Args:
        model: Any callable to logits.
        a: Points, (p, *D); the first 16 are tried.
        b: Points with other labels, (p, *D).
        where: Where the pairs of points come from, in words, for the finding.
        seed: Random seed of the powers.

    Cost: 13 F per pair.
    """
    a, b = a[:MAX_PAIRS], b[:MAX_PAIRS]
    if len(a) < MIN_PAIRS:
        return finding("D27", False, f"{where}: not tried")
    label = logits_at(model, a).argmax(1)
    seeds = rng.seeds(a, seed, stage=rng.Stream.CHECK_BORDERS)
    power = 2 ** (2 * rng.uniform(seeds, tuple(a.shape[1:]), dtype=a.dtype) - 1)

    def value_at(t: Tensor) -> Tensor:
        return -losses.margin(logits_at(model, a + per_sample(t, a) ** power * (b - a)), label)

    low, high = torch.zeros_like(a.flatten(1)[:, 0]), torch.ones_like(a.flatten(1)[:, 0])
    inner, outer = value_at(low), value_at(high)
    total = inner - outer
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        value = value_at(middle)
        stays = value > 0
        low, inner = torch.where(stays, middle, low), torch.where(stays, value, inner)
        high, outer = torch.where(stays, high, middle), torch.where(stays, outer, value)
    jump = (inner - outer) / total
    jump = jump[torch.isfinite(jump) & (total > 0)]
    if len(jump) < MIN_PAIRS:
        return finding("D27", False, f"{where}: not tried")
    middle_jump = float(jump.sort().values[(len(jump) - 1) // 2])
    return above(
        "D27", middle_jump, f"where the label changes {where}, the margin jumps by {middle_jump:.0%} of its whole "
        f"change, median of {len(jump)}: labels do not follow the scores",
        "scores and their gradients are not trusted: a twin of the labels, search and label-only attacks follow",
    )  # fmt: skip
