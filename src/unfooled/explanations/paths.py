"""Integrated gradients: the gradient averaged along the straight path from a baseline r to x, times the way.

    e = (x - r) * g,    g = sum_j w_j grad s(f(z_j), y),    z_j = r + t_j (x - r)
    sum_i e_i = s(f(x)) - s(f(r))                                                  completeness, exact as steps grow

The nodes and weights (t_j, w_j) come from a rule. Points are formed, passed and dropped in calls of a bounded number of
rows, so memory does not grow with the steps.

With `create_graph` the map is differentiable at the same bounded memory, by a second pass over the path: `two_pass`.

References:
    Sundararajan, Taly, Yan, Axiomatic attribution for deep networks, ICML 2017, arXiv:1703.01365. Differs: the default
    rule is Gauss-Legendre, not the Riemann sum `right`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.types import Loss, Model
from unfooled.explanations.completeness import PathAttribution, baselines, score_change
from unfooled.explanations.gradients import differentiating, entry, prepared
from unfooled.explanations.two_pass import Nodes, PathIntegral, TwoPass

Rule = Callable[[int], Nodes]


@lru_cache(maxsize=64)
def gauss_legendre(steps: int) -> Nodes:
    """Exact for polynomials of degree 2 steps - 1: the choice for smooth scores."""
    t, w = np.polynomial.legendre.leggauss(steps)
    return tuple(((t + 1) / 2).tolist()), tuple((w / 2).tolist())


def midpoint(steps: int) -> Nodes:
    """The middle of each of `steps` equal cells."""
    return tuple((j + 0.5) / steps for j in range(steps)), (1 / steps,) * steps


def right(steps: int) -> Nodes:
    """The far end of each cell, j / steps: the Riemann sum of the paper, equation 3."""
    return tuple((j + 1) / steps for j in range(steps)), (1 / steps,) * steps


def integrated_gradients(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 32,
    rule: Rule = gauss_legendre,
    score: Loss = true_logit,
    batch_bytes: int | None = None,
    one_graph: bool = False,
    create_graph: bool = False,
) -> Tensor:
    """Attribute the change of the score from a baseline to x.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs, (B, *D).
        y: the class to explain, (B,) int64.
        baseline: where the path starts: a number, one sample's shape, or (B, *D). May require gradients.
        steps: gradients along the path, at least 1.
        rule: `gauss_legendre`, `midpoint`, `right`, or any function from steps to nodes and weights.
        score: `(logits, y) -> (B,)`; with `cross_entropy` the path integral of the loss.
        batch_bytes: memory of one call's graph, see `BatchBudget`. At least one row is always passed.
        one_graph: with `create_graph`, build the graph of the whole path instead of two passes. Needs steps times the
            memory; gives third derivatives, random models (dropout) and tensors that the model closes over outside of
            any module, none of which the two passes see.
        create_graph: make the map differentiable with respect to x, the baseline and the parameters of the modules
            behind `model` that require gradients (within `frozen(model)` they cost nothing).

    Returns:
        Relevances in units of the score, (B, *D). Cost: steps forwards and backwards a sample; the gradient of the map
        costs as much again and steps double backwards.

    Raises:
        BadInput: an argument or the model's output cannot be used; in the backward pass, that the model has changed.

    Example:
        >>> product = lambda x: torch.stack([x[:, 0] * x[:, 1], x[:, 0]], 1)
        >>> integrated_gradients(product, torch.ones(1, 2), torch.tensor([0]), steps=2)
        tensor([[0.5000, 0.5000]])
    """
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        path = PathIntegral(model, score, _nodes(rule, steps), batch_bytes)
        r = baselines(baseline, x)
        if not create_graph:
            x = x.detach()
            return (x - r.detach()) * path.mean_gradient(x, r.detach(), y)
        if one_graph:
            x = entry(x, create_graph=True)
            return (x - r) * path.graph(x, r, y)
        return TwoPass.apply(path, x, r, y, *path.parameters())


def integrated_gradients_with_gap(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 32,
    rule: Rule = gauss_legendre,
    score: Loss = true_logit,
    batch_bytes: int | None = None,
    tolerance: float | None = None,
    most: int = 1024,
) -> PathAttribution:
    """Integrated gradients (detached) and their completeness gap.

    Args:
        model: as for `integrated_gradients`, like x, y, baseline, steps, rule, score and batch_bytes.
        x: inputs, (B, *D).
        y: the class to explain, (B,).
        baseline: where the path starts.
        steps: gradients along the path at first.
        rule: nodes and weights.
        score: `(logits, y) -> (B,)`.
        batch_bytes: memory of one call's graph.
        tolerance: double the steps of the samples whose relative gap exceeds this, until none does or `most` is
            reached; a warning counts the rest.
        most: the largest number of steps.

    Returns:
        A `PathAttribution`. Cost: as `integrated_gradients`, and at most 2 forwards a sample.
    """
    options: dict[str, Any] = {"rule": rule, "score": score, "batch_bytes": batch_bytes}
    attribution = integrated_gradients(model, x, y, baseline=baseline, steps=steps, **options)
    change = score_change(model, x, y, baseline=baseline, score=score, batch_bytes=batch_bytes)
    used = torch.full((len(x),), steps, dtype=torch.int64, device=x.device)
    found = PathAttribution(attribution, change, used)
    if tolerance is None:
        return found
    r = baselines(baseline, x)
    while (loose := found.relative_gap > tolerance).any() and 2 * steps <= most:
        steps *= 2
        attribution[loose] = integrated_gradients(model, x[loose], y[loose], baseline=r[loose], steps=steps, **options)
        used[loose] = steps
    if loose.any():
        warnings.warn(
            f"{int(loose.sum())} of {len(x)} attributions have a relative completeness gap over {tolerance:g} at "
            f"{steps} steps",
            stacklevel=2,
        )
    return found


def _nodes(rule: Rule, steps: int) -> Nodes:
    if steps < 1:
        raise BadInput(f"steps is {steps}; a path needs at least 1")
    return rule(steps)
