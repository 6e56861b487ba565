"""Streaming normal equations of weighted least squares, float64."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-12  # pivot, relative to the largest diagonal entry, up to which a Gram matrix counts as singular


class Gram:
    """Streaming normal equations of one design and R columns of answers; memory M^2 + M R.

    Args:
        features: Number of features, M.
        columns: Number of answers, R.
    """

    def __init__(self, features: int, columns: int) -> None:
        self.g = torch.zeros(features + 1, features + 1, dtype=torch.float64)
        self.c = torch.zeros(features + 1, columns, dtype=torch.float64)
        self.yy = torch.zeros(columns, dtype=torch.float64)
        self.total = self.squares = 0.0

    def add(self, z: Tensor, y: Tensor, weights: Tensor | None = None) -> Gram:
        """Add masks, (S, M), answers, (S, R), and their weights, (S,); return self."""
        return self.add_rows(with_intercept(z), y, weights)

    def add_rows(self, design: Tensor, y: Tensor, weights: Tensor | None = None) -> Gram:
        """Add masks that have their first column of ones, (S, M + 1) float64; otherwise as `add`."""
        y = y.to(torch.float64)
        weights = torch.ones(len(design), dtype=torch.float64) if weights is None else weights.to(torch.float64)
        scaled = design * weights[:, None]
        self.g += scaled.T @ design
        self.c += scaled.T @ y
        self.yy += weights @ (y * y)
        self.total += float(weights.sum())
        self.squares += float((weights * weights).sum())
        return self

    @property
    def ess(self) -> float:
        """Effective sample size."""
        return self.total**2 / self.squares if self.squares else 0.0

    def factor(self, ridge: float = 0.0) -> tuple[Tensor, bool]:
        """Return the Cholesky factor of H = G / W + ridge I (not on the intercept), and whether a jitter was needed."""
        h = self.g / self.total
        h.diagonal()[1:] += ridge
        scale, jitter = float(h.diagonal().amax()), 0.0
        while True:
            lower, info = torch.linalg.cholesky_ex(h)
            pivots = lower.diagonal() ** 2
            if int(info) == 0 and float(pivots.amin()) > TINY * scale * (0.1 if jitter else 1.0):
                return lower, jitter > 0
            jitter = max(10 * jitter, 1e-10 * scale)
            h.diagonal().add_(jitter)

    def identified(self) -> bool:
        """Return whether the masks alone identify every weight, without a ridge."""
        return not self.factor()[1]

    def solve(self, ridge: float = 0.0, mean: Tensor | None = None) -> Tensor:
        """Return intercept and weights, (M + 1, R); `mean` is the prior mean of the weights, (M, R)."""
        return torch.cholesky_solve(self.target(ridge, mean), self.factor(ridge)[0])

    def target(self, ridge: float, mean: Tensor | None) -> Tensor:
        """Return the right-hand sides, C / W + ridge (0, mu0)."""
        c = self.c / self.total
        if mean is not None:
            c[1:] += ridge * mean
        return c

    def centred(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the centred Gram matrix (M, M), its right-hand sides (M, R), and the total sums of squares (R,)."""
        first, mean = self.g[0, 1:] / self.total, self.c[0] / self.total
        g = self.g[1:, 1:] - self.total * first[:, None] * first
        return g, self.c[1:] - self.total * first[:, None] * mean, self.yy - self.total * mean * mean


def with_intercept(z: Tensor) -> Tensor:
    """Return masks with a first column of ones, (S, M + 1) float64."""
    return torch.cat([torch.ones(len(z), 1, dtype=torch.float64), z.to(torch.float64)], 1)
