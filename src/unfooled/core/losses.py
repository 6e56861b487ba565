"""Per-sample losses that attacks maximise: (logits (B, K), y (B,)) -> (B,).

    cross_entropy   -log softmax(z)_y
    margin          max_{j != y} z_j - z_y                                  > 0 exactly where y is not predicted
    soft_margin     log sum_{j != y} exp(s z_j) - s z_y                     s: a scale for each sample
    dlr             (max_{j != y} z_j - z_y) / (z_pi1 - z_pi3)              pi: logits in descending order
    kl              KL(p || softmax(z)) for fixed probabilities p

z are the logits, y is the label.

References:
    Carlini, Wagner, Towards evaluating the robustness of neural networks, 2017, arXiv:1608.04644 (margin).
    Croce, Hein, Reliable evaluation of adversarial robustness, ICML 2020, arXiv:2003.01690 (DLR).
    Differs: in `dlr`, a zero denominator (three equal logits on top) or an infinite one leaves the margin undivided. A
    runner-up that is always duplicated (z_pi2 = z_pi3) makes the loss -1 everywhere and its gradient 0, as in the
    paper: use `margin`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def true_logit(logits: Tensor, y: Tensor) -> Tensor:
    """Return z_y, (B,)."""
    return logits.gather(1, y[:, None])[:, 0]


def best_other(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{j != y} z_j, (B,)."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy in nats, (B,); its float32 gradient vanishes once the margin exceeds about 16.6."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the best other logit minus the true one, (B,); positive exactly where y is not predicted."""
    return best_other(logits, y) - true_logit(logits, y)


def soft_margin(scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the margin of scaled logits, its maximum smoothed, for scales s, (B,).

    It rises where the cross-entropy of the scaled logits does, but its gradient does not vanish far from the boundary.
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        scaled = scale[:, None] * logits
        return scaled.scatter(1, y[:, None], -torch.inf).logsumexp(1) - true_logit(scaled, y)

    return loss


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio, (B,): a margin invariant to scale and shift. Needs K >= 3."""
    if logits.shape[1] < 3:
        raise ValueError(f"dlr needs at least 3 classes, the model has {logits.shape[1]}; use margin")
    top = logits.topk(3, dim=1).values
    return _ratio(margin(logits, y), top[:, 0] - top[:, 2])


def margin_targeted(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss z_t - z_y for targets t, (B,); for a subset of samples, pass their targets only."""
    return lambda logits, y: true_logit(logits, target) - true_logit(logits, y)


def dlr_targeted(target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss (z_t - z_y) / (z_pi1 - (z_pi3 + z_pi4) / 2) for targets t, (B,). Needs K >= 4."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        if logits.shape[1] < 4:
            raise ValueError(f"dlr_targeted needs at least 4 classes, the model has {logits.shape[1]}")
        top = logits.topk(4, dim=1).values
        gap = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return _ratio(true_logit(logits, target) - true_logit(logits, y), gap)

    return loss


def kl(probabilities: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the loss KL(p || softmax(z)), (B,), for fixed p, (B, K); labels are ignored."""

    def loss(logits: Tensor, _y: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        impossible = torch.isneginf(log_p) & (probabilities == 0)  # 0 log 0 is 0
        return F.kl_div(log_p.masked_fill(impossible, 0), probabilities, reduction="none").sum(1)

    return loss


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """Return top / bottom; top itself where bottom is 0, or infinite, as with a class that is ruled out."""
    return top / torch.where((bottom > 0) & (bottom < torch.inf), bottom, torch.ones_like(bottom))
