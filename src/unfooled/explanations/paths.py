"""Integrated gradients: the gradient of a score s averaged along the path from a baseline r to x, times x - r.

    e = (x - r) * g,    g = sum_j w_j grad s(f(z_j), y),    z_j = r + t_j (x - r)
    sum_i e_i = s(f(x)) - s(f(r))                                                  completeness, exact as steps grow

The nodes and weights (t_j, w_j) come from a quadrature rule. Path points are created, evaluated and discarded in
batches of bounded size, so memory does not grow with the steps.

With `create_graph` the attribution is differentiable in the same bounded memory, by a second pass over the path: see
`two_pass`.

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

from unfooled.core.checks import trusted
from unfooled.core.errors import BadInput
from unfooled.core.losses import true_logit
from unfooled.core.types import Loss, Model
from unfooled.explanations.completeness import PathAttribution, baselines, score_change
from unfooled.explanations.gradients import differentiating, entry, prepared
from unfooled.explanations.two_pass import Nodes, PathIntegral, TwoPass

Rule = Callable[[int], Nodes]
"""A quadrature rule: number of steps -> nodes and weights."""


@lru_cache(maxsize=64)
def gauss_legendre(steps: int) -> Nodes:
    """Return Gauss-Legendre nodes and weights: exact for polynomials of degree 2 steps - 1, best for smooth scores."""
    t, w = np.polynomial.legendre.leggauss(steps)
    return tuple(((t + 1) / 2).tolist()), tuple((w / 2).tolist())


def midpoint(steps: int) -> Nodes:
    """Return the middle of each of `steps` equal cells, with equal weights."""
    return tuple((j + 0.5) / steps for j in range(steps)), (1 / steps,) * steps


def right(steps: int) -> Nodes:
    """Return the far end of each cell, j / steps: the Riemann sum of the paper, equation 3."""
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
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        baseline: Start of the path: a number, a tensor of one sample's shape, or (B, *D). May require gradients.
        steps: Gradient evaluations along the path, at least 1.
        rule: Quadrature rule: `gauss_legendre`, `midpoint`, `right`, or any function from steps to nodes and weights.
        score: Function `(logits, y) -> (B,)` to explain; with `cross_entropy`, the attribution of the loss.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`; one sample is always allowed.
        one_graph: True: `create_graph` builds the graph of the whole path instead of taking two passes, for `steps`
            times the memory. Required for third derivatives, for random models (dropout), and for derivatives with
            respect to tensors outside of the model's modules.
        create_graph: True: make the attribution differentiable with respect to x, the baseline and the parameters of
            the modules behind `model` that require gradients (none within `frozen(model)`).

    Returns:
        Attribution in units of the score, (B, *D). Cost: `steps` forwards and backwards per sample; its gradient costs
        the same again, and `steps` double backwards.

    Raises:
        BadInput: An argument or the model's output is invalid, or the model has changed before the backward pass.

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
    """Return integrated gradients (detached) with their completeness gap.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        baseline: Start of the path, as for `integrated_gradients`.
        steps: Initial number of gradient evaluations along the path.
        rule: Quadrature rule.
        score: Function `(logits, y) -> (B,)` to explain.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`.
        tolerance: Largest relative gap. The steps of samples with a larger gap are doubled, up to `most`; a warning
            gives the number of samples that remain above it. None: no doubling.
        most: Largest number of steps.

    Returns:
        A `PathAttribution`. Cost: as `integrated_gradients`, and at most 2 forwards per sample.
    """
    options: dict[str, Any] = {"rule": rule, "score": score, "batch_bytes": batch_bytes}
    attribution = integrated_gradients(model, x, y, baseline=baseline, steps=steps, **options)
    with trusted():
        change = score_change(model, x, y, baseline=baseline, score=score, batch_bytes=batch_bytes)
    used = torch.full((len(x),), steps, dtype=torch.int64, device=x.device)
    result = PathAttribution(attribution, change, used)
    if tolerance is None:
        return result
    r = baselines(baseline, x)
    while (loose := result.relative_gap > tolerance).any() and 2 * steps <= most:
        steps *= 2
        with trusted():
            finer = integrated_gradients(model, x[loose], y[loose], baseline=r[loose], steps=steps, **options)
        attribution[loose] = finer
        used[loose] = steps
    if loose.any():
        warnings.warn(
            f"{int(loose.sum())} of {len(x)} attributions have a relative completeness gap over {tolerance:g} at "
            f"{steps} steps",
            stacklevel=2,
        )
    return result


def _nodes(rule: Rule, steps: int) -> Nodes:
    """Return the nodes and weights of a rule; refuse a path without steps."""
    if steps < 1:
        raise BadInput(f"steps is {steps}; a path needs at least 1")
    return rule(steps)
