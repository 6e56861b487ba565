"""Comparisons of surrogates over the same segments.

    rank    Spearman's correlation of the weights
    top     Jaccard index of the k segments of the largest |weight|
    flips   share of the segments whose weight changes its sign, with a difference of more than 2 standard errors

Both explanations use the same masks, so their weights v and v' are the same linear map L of the model's outputs y and
y' at the masks. Their difference, v' - v = L (y' - y), is therefore a surrogate fitted to y' - y, and its standard
error comes from the residuals of that fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.distances import spearman
from unfooled.explanations.lime import Surrogates, fit

ERRORS = 2.0
"""Standard errors of the paired difference beyond which a change of sign counts."""


def jaccard(a: Tensor, b: Tensor, top: int) -> Tensor:
    """Return the Jaccard index of the features of the largest |weight|, (n,), for weights (n, M)."""
    first, second = _leading(a, top), _leading(b, top)
    return (first & second).sum(1).double() / (first | second).sum(1)


def _leading(weights: Tensor, top: int) -> Tensor:
    """Return which features have the largest |weight|, (n, M) bool; ties go to the first."""
    order = weights.abs().argsort(dim=1, descending=True, stable=True)[:, :top]
    return torch.zeros_like(weights, dtype=torch.bool).scatter(1, order, True)


def ranks(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's correlation of weights, (n, M) each; NaN for constant ones."""
    return spearman(a, b)


def flips(a: Surrogates, b: Surrogates) -> Tensor:
    """Return the share of significant changes of sign, (B, T), for explanations with stored masks and outputs."""
    if a.masks is None or b.masks is None or a.answers is None or b.answers is None:
        raise BadInput("the explanations hold no masks and answers; ask for them by keep_samples=True")
    shares = []
    for i, (masks, others) in enumerate(zip(a.masks, b.masks, strict=True)):
        if not torch.equal(masks, others):
            raise BadInput("the explanations have different masks; give both the same segments and seed")
        change = fit(masks, (b.answers[i] - a.answers[i])[None], groups=2)
        significant = change.weights[0].abs() > ERRORS * change.se[0]
        m = masks.shape[1]
        sign_changes = a.settled()[i, :, :m].sign() * b.settled()[i, :, :m].sign() < 0
        shares.append((sign_changes & significant).double().mean(1))
    return torch.stack(shares)


def compared(a: Surrogates, b: Surrogates, top: int) -> dict[str, Tensor]:
    """Return all measures of two sets of explanations, (B, T) each."""
    count = a.weights.shape[:2]
    one, other = a.weights.flatten(0, 1), b.weights.flatten(0, 1)
    return {
        "rank": ranks(one, other).reshape(count),
        "top": jaccard(one, other, top).reshape(count),
        "flips": flips(a, b),
    }


def over_segments(maps: Tensor, ids: Tensor) -> Tensor:
    """Return the means of maps, (B, *D), over segments, ids (*S): (B, M) float64."""
    flat = maps.double().reshape(len(maps), -1, ids.numel()).mean(1)
    number = int(ids.max()) + 1
    total = torch.zeros(len(maps), number, dtype=torch.float64).index_add(1, ids.flatten(), flat)
    return total / torch.bincount(ids.flatten(), minlength=number)
