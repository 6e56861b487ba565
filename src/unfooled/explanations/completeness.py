"""Completeness: an attribution along a path sums to the difference of the score between its ends.

    sum_i e_i = s(f(x), y) - s(f(r), y)

e is the attribution, f the model, s the score (a logit by default), r the baseline.

References:
    Sundararajan, Taly, Yan, Axiomatic attribution for deep networks, ICML 2017, arXiv:1703.01365, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.losses import true_logit
from unfooled.core.model.batching import BatchBudget, batched
from unfooled.core.shapes import flat
from unfooled.core.types import Loss, Model
from unfooled.explanations.gradients import differentiating, prepared, scored


@dataclass(frozen=True, eq=False)
class PathAttribution:
    """An attribution and its distance from completeness.

    Attributes:
        attribution: Attribution along the path, (B, *D).
        change: Sum of a complete attribution, s(f(x)) - s(f(r)), (B,).
        steps: Number of path points of each sample, (B,) int64.
    """

    attribution: Tensor
    change: Tensor
    steps: Tensor

    @property
    def gap(self) -> Tensor:
        """Gap |sum of the attribution - change|, (B,), in units of the score."""
        return (flat(self.attribution).sum(1) - self.change).abs()

    @property
    def relative_gap(self) -> Tensor:
        """Gap as a fraction of |change|, (B,); 0 where both are 0."""
        gap = self.gap
        return torch.where(gap > 0, gap / self.change.abs(), gap)


def score_change(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    score: Loss = true_logit,
    batch_bytes: int | None = None,
) -> Tensor:
    """Return s(f(x), y) - s(f(r), y), (B,), the sum of a complete attribution.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        baseline: Start of the path: a number, a tensor of one sample's shape, or (B, *D).
        score: Function `(logits, y) -> (B,)` to explain.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`.

    Returns:
        Score changes, (B,). Cost: at most 2 forwards per sample.
    """
    with differentiating(), torch.no_grad():
        x, y = prepared(model, x, y)
        reader = checked_once(model, y)
        value = batched(lambda z, labels: scored(reader, z, labels, score), BatchBudget(model, x, batch_bytes).batch)
        shared = not isinstance(baseline, Tensor) or baseline.ndim < x.ndim
        if not shared:
            return value(x, y) - value(baselines(baseline, x), y)
        # One baseline for all samples is evaluated once, and its logits are scored for each label.
        logits = reader(baselines(baseline, x[:1]))
        return value(x, y) - score(logits.expand(len(x), -1), y)


def completeness_gap(
    model: Model, x: Tensor, y: Tensor, attribution: Tensor, *, baseline: float | Tensor = 0.0, score: Loss = true_logit
) -> Tensor:
    """Return the completeness gap of an attribution, as a fraction of |s(f(x)) - s(f(r))|, (B,).

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes that were explained, (B,) int64.
        attribution: Attribution by any method, (B, *D).
        baseline: Start of the path: a number, a tensor of one sample's shape, or (B, *D).
        score: Function `(logits, y) -> (B,)` that was explained.
    """
    steps = torch.zeros(len(x), dtype=torch.int64)
    return PathAttribution(attribution, score_change(model, x, y, baseline=baseline, score=score), steps).relative_gap


def baselines(baseline: float | Tensor, x: Tensor) -> Tensor:
    """Return the start of each sample's path, in x's shape."""
    r = torch.as_tensor(baseline, dtype=x.dtype, device=x.device)
    r = r.clone() if r.is_inference() else r
    try:
        if r.ndim not in (0, x.ndim - 1, x.ndim):
            raise RuntimeError
        return r.expand_as(x)
    except RuntimeError:
        shape, wanted = tuple(r.shape), tuple(x.shape)
        raise BadInput(f"baseline has shape {shape}; give a number, {wanted[1:]} or {wanted}") from None
