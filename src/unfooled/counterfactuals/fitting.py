"""Affine heads fitted on embeddings or written down from class shares.

softmax      min mean CE(W e + b, y) + decay / 2 ||W||^2                        by L-BFGS, from zero
naive Bayes  w_kf = log p_kf / (1 - p_kf),  b_k = sum_f log (1 - p_kf)          p_kf: share of class k with attribute f
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.checks import check_labels
from unfooled.core.errors import BadInput
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.score import finite
from unfooled.statistics.softmax import fit_softmax


def fit_head(e: Tensor, y: Tensor, c: int | None = None, *, decay: float = 1e-4, steps: int = 300) -> AffineHead:
    """Fit a softmax head with weight decay.

    Args:
        e: Embeddings or true attributes, (N, n).
        y: Labels, (N,) int64.
        c: Number of classes. None: one more than the largest label.
        decay: Weight of ||W||^2 / 2 beside the mean cross-entropy.
        steps: Iterations of L-BFGS at most.

    Raises:
        BadInput: Labels do not fit, or e is not finite.
    """
    x = torch.from_numpy(finite(e, "e"))
    check_labels(y, len(x), c)
    classes = int(y.max()) + 1 if c is None else c
    return AffineHead(*fit_softmax(x, y.cpu(), classes, l2=decay, steps=steps))


def bayes_head(shares: Tensor, *, floor: float = 0.005) -> AffineHead:
    """Return the naive-Bayes classifier of independent attributes, which is affine in them.

    Args:
        shares: Shares of each class that have each attribute, (c, n), in [0, 1].
        floor: Shares are clipped to [floor, 1 - floor].

    Raises:
        BadInput: A share lies outside [0, 1], or the floor outside (0, .5).
    """
    p = torch.from_numpy(finite(shares, "shares"))
    if p.min() < 0 or p.max() > 1:
        raise BadInput(
            f"shares lie in [{float(p.min()):.4g}, {float(p.max()):.4g}]; they must be in [0, 1], not percent"
        )
    if not 0 < floor < 0.5:
        raise BadInput(f"floor is {floor!r}; it must be in (0, .5)")
    p = p.clamp(floor, 1 - floor)
    return AffineHead((p / (1 - p)).log(), (1 - p).log().sum(1))
