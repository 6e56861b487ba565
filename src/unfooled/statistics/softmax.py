"""Multinomial logistic regression: the affine map to logits that minimises the penalised cross-entropy.

    min over W, b   mean CE(W x + b, y) + l2 ||W||^2 / 2 + l1 ||W||_1

Without l1 by L-BFGS, with it by accelerated proximal gradient steps, which make weights that are not needed exactly 0.
Both start from zero and compute in float64.

References:
    Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm, SIAM Journal on Imaging Sciences 2009.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_softmax(
    x: Tensor, y: Tensor, classes: int, *, l1: float = 0.0, l2: float = 0.0, steps: int = 500
) -> tuple[Tensor, Tensor]:
    """Fit an affine map from features to logits.

    Args:
        x: Features, (N, n) float64.
        y: Labels, (N,) int64.
        classes: Number of classes, K.
        l1: Weight of the sum of absolute weights.
        l2: Weight of half the sum of squared weights.
        steps: Largest number of iterations.

    Returns:
        W, (K, n), and b, (K,).
    """
    return _smooth(x, y, classes, l2, steps) if l1 == 0 else _sparse(x, y, classes, l1=l1, l2=l2, steps=steps)


def _smooth(x: Tensor, y: Tensor, classes: int, l2: float, steps: int) -> tuple[Tensor, Tensor]:
    """Minimise without l1, by L-BFGS."""
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, history_size=20, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        with torch.enable_grad():
            loss = F.cross_entropy(x @ weight.T + bias, y) + l2 / 2 * weight.square().sum()
        weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
        return float(loss.detach())

    optimizer.step(closure)
    return weight.detach(), bias.detach()


def _sparse(x: Tensor, y: Tensor, classes: int, *, l1: float, l2: float, steps: int) -> tuple[Tensor, Tensor]:
    """Minimise with l1, by accelerated proximal gradient steps."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    hot = F.one_hot(y, classes).to(x.dtype)
    # The Hessian of CE is at most half the largest eigenvalue of x^T x / N.
    step = 1 / (0.5 * float(torch.linalg.matrix_norm(x.T @ x / len(x), 2)) + l2)
    w = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device)
    ahead, speed = w, 1.0
    for _ in range(steps):
        g = ((ahead @ x.T).softmax(0).T - hot).T @ x / len(x)
        g[:, :-1] += l2 * ahead[:, :-1]
        new = ahead - step * g
        new[:, :-1] = new[:, :-1].sign() * (new[:, :-1].abs() - step * l1).clamp(min=0)
        if float(((ahead - new) * (new - w)).sum()) > 0:  # restart where the momentum points uphill
            speed = 1.0
        faster = (1 + (1 + 4 * speed * speed) ** 0.5) / 2
        ahead, w, speed = new + (speed - 1) / faster * (new - w), new, faster
    return w[:, :-1], w[:, -1]
