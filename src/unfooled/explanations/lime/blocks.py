"""Blocks of dependent rows of a design: leave-one-block-out residuals and clustered variances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.errors import BadInput


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows grouped into independent units.

    Attributes:
        at: Rows of each unit, (G, k) int64; missing ones point to row 0.
        there: Which entries of `at` are rows, (G, k) bool.
        samples: Number of rows.
    """

    at: Tensor
    there: Tensor
    samples: int

    def left_out(self, design: Tensor, inverse: Tensor, weights: Tensor, residual: Tensor) -> Tensor:
        """Return (I - H_gg)^-1 r_g by rows, (S, R); r itself where a unit alone decides its own fit."""
        z = design[self.at] * self.there[..., None]
        hat = (z @ inverse @ z.mT) * (weights[self.at] * self.there)[:, None]
        eye = torch.eye(hat.shape[1], dtype=hat.dtype)
        block = eye - hat
        block = torch.where((torch.linalg.det(block) > 1e-10)[:, None, None], block, eye)
        found = torch.linalg.solve(block, residual[self.at] * self.there[..., None])
        out = torch.zeros_like(residual)
        out[self.at[self.there]] = found[self.there]
        return out

    def variance(self, effect: Tensor, left_out: Tensor) -> Tensor:
        """Return sum_g (sum_{s in g} effect_s e_s)^2, (M + 1, R), for effects (S, M + 1) and residuals (S, R)."""
        a, e = effect[self.at] * self.there[..., None], left_out[self.at]
        total = torch.zeros(effect.shape[1], left_out.shape[1], dtype=effect.dtype)
        for i in range(a.shape[1]):
            for j in range(i + 1):
                both = (a[:, i] * a[:, j]).T @ (e[:, i] * e[:, j])
                total += both if i == j else 2 * both
        return total

    def sums(self, rows: Tensor) -> Tensor:
        """Return the sums of rows over each unit, (G, ...)."""
        return (rows[self.at] * self.there[..., None]).sum(1)


def blocks_of(samples: int, groups: int | Tensor | None) -> Blocks:
    """Group rows.

    Args:
        samples: Number of rows.
        groups: Number of consecutive rows of a unit, or a label a row, (S,). None or 0: each row is a unit.
    """
    if isinstance(groups, Tensor):
        if groups.shape != (samples,):
            raise BadInput(f"groups have shape {tuple(groups.shape)}; give one label for each of {samples} samples")
        label, counts = groups.unique(return_inverse=True, return_counts=True)[1:]
        order = label.argsort(stable=True)
        place = torch.arange(samples) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        at = torch.zeros(len(counts), int(counts.amax()), dtype=torch.int64)
        there = torch.zeros_like(at, dtype=torch.bool)
        at[label[order], place], there[label[order], place] = order, True
        return Blocks(at, there, samples)
    size = groups or 1
    units = -(-samples // size)
    at = torch.arange(units * size).reshape(units, size)
    there = at < samples
    return Blocks(at.where(there, 0), there, samples)
