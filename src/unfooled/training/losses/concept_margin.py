"""Terms that are added to a concept loss: a margin in concept standard deviations, and a negative control.

    ConceptMargin      L(x) + weight mean relu(margin - r(x)),      r = min_{k != y} (l_y - l_k) / sqrt(d_k^T S d_k)
    ConceptStability   L(x) - weight mean_j log ||G_j^+ h_j||^2

d_k = w_k - w_y, S the within-class covariance of the attribute logits. r does not change with the scale of the
attribute logits or of the head, since both are standardised before S is computed, without a gradient: larger logits
gain nothing. G_j has the rows w_j - w_k, and h_j the entries l_k - l_j. The published stability term grows without
bound through the smallest singular value of G_j while no decision changes; it is here as a negative control.

References:
    Ding et al., MMA training, ICLR 2020, arXiv:1812.02637 (margins in training).
    adityaSridharr/SPECTRA (the stability term; that source gives neither code nor weights for it).
    Differs from both: the margin is in attribute space, and S is shrunk towards its mean variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.runs.spelling import spelled
from unfooled.training.losses.concepts import Joint, concept_logits, head_of, looked_up
from unfooled.training.losses.inner import at_least

Radius = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(weight (K, n), bias (K,), e (B, n), y (B,), covariance (n, n)) -> signed radius (B,), differentiable."""

SHRINK = 0.1
"""Weight of the mean variance in a batch's covariance, which is shrunk because a batch has few samples."""
TINY = 1e-12


def label_radius(weight: Tensor, bias: Tensor, e: Tensor, y: Tensor, covariance: Tensor) -> Tensor:
    """Return min_{k != y} (l_y - l_k) / sqrt(d_k^T S d_k), (B,): negative where the label is not predicted."""
    logits = F.linear(e, weight, bias)
    own = F.one_hot(y, len(weight)).bool()
    margin = logits.gather(1, y[:, None]) - logits
    apart = weight - weight[y][:, None]
    size = torch.einsum("bkn,nm,bkm->bk", apart, covariance, apart).clamp(min=TINY).masked_fill(own, 1.0).sqrt()
    return (margin / size).masked_fill(own, torch.inf).amin(1)


def within_classes(e: Tensor, y: Tensor, shrink: float = SHRINK) -> Tensor:
    """Return the pooled within-class covariance of attribute logits, (n, n), shrunk towards its mean variance."""
    counts = torch.bincount(y)
    means = torch.zeros(len(counts), e.shape[1], dtype=e.dtype, device=e.device).index_add(0, y, e)
    apart = e - (means / counts.clamp(min=1)[:, None])[y]
    covariance = apart.T @ apart / max(len(e) - int((counts > 0).sum()), 1)
    mean = covariance.diagonal().mean().clamp(min=TINY)
    return (1 - shrink) * covariance + shrink * mean * torch.eye(e.shape[1], dtype=e.dtype, device=e.device)


@dataclass(frozen=True, eq=False)
class ConceptMargin:
    """A joint loss plus a hinge on the radius of each sample in concept standard deviations.

    Cost: 1 forward and backward more than the base.

    Args:
        base: Concept loss, such as `ConceptLoss` or `ConceptMadry`.
        radius: Radius of each sample, `(weight, bias, e, y, covariance) -> (B,)`.
        weight: Weight of the hinge.
        margin: Radius from which on the hinge is 0.
    """

    base: Joint
    radius: Radius = label_radius
    weight: float = 0.1
    margin: float = 2.0

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight, margin=self.margin)

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        y, a = looked_up(self.base, rows)
        e, _ = concept_logits(model, x, a.shape[1])
        head = head_of(model, a.shape[1])
        mean, deviation = e.mean(0), e.std(0, unbiased=False).clamp(min=TINY**0.5)
        bias = F.linear(mean[None], head.weight, head.bias)[0]
        standard = (e - mean) / deviation
        with torch.no_grad():
            covariance = within_classes(standard, y)
        r = self.radius(head.weight * deviation, bias, standard, y, covariance)
        return self.base(model, x, rows) + self.weight * (self.margin - r).relu().mean()

    __repr__ = spelled


@dataclass(frozen=True, eq=False)
class ConceptStability:
    """A joint loss plus the published stability term: a negative control, not a defence.

    Cost: 1 forward and backward more than the base, and the pseudo-inverses of K matrices of (K - 1, n).

    Args:
        base: Concept loss, such as `ConceptLoss`.
        weight: Weight of the term.
    """

    base: Joint
    weight: float = 0.1

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight)

    def __call__(self, model: nn.Module, x: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        _, a = looked_up(self.base, rows)
        _, logits = concept_logits(model, x, a.shape[1])
        size = equal_logits_change(head_of(model, a.shape[1]).weight, logits).square().sum(2)
        return self.base(model, x, rows) - self.weight * size.clamp(min=TINY).log().mean()


def equal_logits_change(weight: Tensor, logits: Tensor) -> Tensor:
    """Return G_j^+ h_j for every class j, (B, K, n): the least change after which all logits are equal."""
    k = len(weight)
    others = torch.tensor([[m for m in range(k) if m != j] for j in range(k)], device=weight.device)
    g = weight[:, None] - weight[others]
    h = logits[:, others] - logits[:, :, None]
    return torch.einsum("jnm,bjm->bjn", torch.linalg.pinv(g), h)
