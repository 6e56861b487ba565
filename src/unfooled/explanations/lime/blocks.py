"""Blocks of dependent rows of a design: leave-one-block-out residuals and clustered variances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.errors import BadInput

SINGULAR = 1e-10  # determinant of I - H_gg up to which a unit alone determines its fit and cannot be left out


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows grouped into independent units.

    Attributes:
        at: Rows of each unit, (G, k) int64; smaller units are padded with row 0.
        present: Which entries of `at` are rows and not padding, (G, k) bool.
        samples: Number of rows.
        ragged: False if all units have the same size and their rows are consecutive.
    """

    at: Tensor
    present: Tensor
    samples: int
    ragged: bool = True

    def left_out(self, design: Tensor, effect: Tensor, weights: Tensor, residual: Tensor) -> Tensor:
        """Return (I - H_gg)^-1 r_g by rows, (S, R); r itself where a unit alone determines its fit.

        Args:
            design: Masks with intercept, (S, M).
            effect: Masks times the inverse of the normal equations, (S, M).
            weights: Weights of the rows, (S,).
            residual: Residuals, (S, R).
        """
        block = -(self._rows(effect) @ self._rows(design).mT) * self._rows(weights)[:, None]
        block.diagonal(dim1=1, dim2=2).add_(1)
        solution = _solved(block, self._rows(residual))
        if not self.ragged:
            return solution.reshape(-1, residual.shape[1])
        out = torch.zeros_like(residual)
        out[self.at[self.present]] = solution[self.present]
        return out

    def variance(self, effect: Tensor, left_out: Tensor) -> Tensor:
        """Return sum_g (sum_{s in g} effect_s e_s)^2, (M + 1, R), for effects (S, M + 1) and residuals (S, R)."""
        a, e = self._rows(effect), self._rows(left_out)
        total = torch.zeros(effect.shape[1], left_out.shape[1], dtype=effect.dtype)
        for i in range(a.shape[1]):
            for j in range(i + 1):
                both = (a[:, i] * a[:, j]).T @ (e[:, i] * e[:, j])
                total += both if i == j else 2 * both
        return total

    def sums(self, rows: Tensor) -> Tensor:
        """Return the sums of rows over each unit, (G, ...)."""
        return self._rows(rows).sum(1)

    def _rows(self, values: Tensor) -> Tensor:
        """Return the values of each unit, (G, k, ...), 0 for padding."""
        if not self.ragged:
            return values.reshape(*self.at.shape, *values.shape[1:])
        present = self.present.reshape(*self.present.shape, *[1] * (values.ndim - 1))
        return values[self.at] * present


def _solved(block: Tensor, residual: Tensor) -> Tensor:
    """Solve each block, (G, k, k), for its residuals, (G, k, R); a singular block leaves them unchanged."""
    if block.shape[1] == 1:
        return torch.where(block > SINGULAR, residual / block, residual)
    if block.shape[1] == 2:
        (a, b), (c, d) = block[:, 0].unbind(1), block[:, 1].unbind(1)
        det = a * d - b * c
        adjugate = torch.stack([d, -b, -c, a], 1).reshape(-1, 2, 2)
        solution = adjugate @ residual / det[:, None, None]
        return torch.where((det > SINGULAR)[:, None, None], solution, residual)
    eye = torch.eye(block.shape[1], dtype=block.dtype)
    block = torch.where((torch.linalg.det(block) > SINGULAR)[:, None, None], block, eye)
    return torch.linalg.solve(block, residual)


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
        present = torch.zeros_like(at, dtype=torch.bool)
        at[label[order], place], present[label[order], place] = order, True
        return Blocks(at, present, samples)
    size = groups or 1
    units = -(-samples // size)
    at = torch.arange(units * size).reshape(units, size)
    present = at < samples
    return Blocks(at.where(present, 0), present, samples, units * size != samples)
