"""Weighted mean gradient along a path in bounded memory, and its derivative in a second pass.

    g = sum_j w_j grad s(f(z_j), y),   z_j = r + t_j (x - r),   e = (x - r) * g

f is the model, s the score, r the baseline, t_j a position on the path, w_j its weight, L the loss that is
differentiated. Pass 1 (forward) computes e without a graph. Pass 2 (backward) receives v = dL/de and, per call with
u = v * (x - r):

    h_j   = d < grad s(f(z_j)), u > / dz_j
    dL/dx = v * g + sum_j w_j t_j h_j
    dL/dr = -v * g + sum_j w_j (1 - t_j) h_j
    dL/dtheta = sum_j w_j d < grad s(f(z_j)), u > / dtheta
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unfooled.core.checks import trusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import checked_once
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.batching import BatchBudget
from unfooled.core.types import Loss, Model
from unfooled.explanations.gradients import differentiating, score_gradient

Nodes = tuple[tuple[float, ...], tuple[float, ...]]
"""Positions t_j on the unit path and their weights w_j, which sum to 1."""


class PathIntegral:
    """Mean gradient of a score along straight paths.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K).
        score: Function `(logits, y) -> (B,)` whose gradient is averaged.
        nodes: Positions on the path and their weights.
        batch_bytes: Memory budget of one call's graph in bytes, see `BatchBudget`.
    """

    def __init__(self, model: Model, score: Loss, nodes: Nodes, batch_bytes: int | None) -> None:
        self.model, self.score, self.nodes, self.batch_bytes = model, score, nodes, batch_bytes

    def parameters(self) -> list[Tensor]:
        """Return the parameters behind the model that require gradients."""
        every = (p for root in modules_of(self.model) for p in root.parameters() if p.requires_grad)
        return list({id(p): p for p in every}.values())  # each once, though two roots may share it

    def calls(self, budget: BatchBudget, size: int, graphs: int) -> Iterator[tuple[slice, slice]]:
        """Divide samples and steps into calls: even groups of samples, with as many steps each as the budget allows.

        Args:
            budget: Samples that fit in one call.
            size: Number of samples.
            graphs: Number of forward-pass graphs that a call keeps at once.
        """
        steps, low = len(self.nodes[0]), 0
        while low < size:
            left, fit = size - low, max(1, budget.batch // graphs)
            group = -(-left // -(-left // fit))
            j = 0
            while j < steps:
                count = max(1, min(max(1, budget.batch // graphs) // group, steps - j))
                yield slice(low, low + group), slice(j, j + count)
                j += count
            low += group

    def points(self, x: Tensor, r: Tensor, at: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return path points, (steps, b, *D), of the steps `at`, and their weights and positions, (steps, 1, ...)."""
        t, w = (torch.tensor(v[at], dtype=x.dtype, device=x.device).reshape(-1, *[1] * x.ndim) for v in self.nodes)
        return torch.lerp(r, x, t), w, t

    def mean_gradient(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        """Return the mean gradient g, (B, *D), without a graph."""
        budget, mean = BatchBudget(self.model, x, self.batch_bytes), torch.zeros_like(x)
        reader = checked_once(self.model, y)
        for rows, at in self.calls(budget, len(x), 1):
            z, w, _ = self.points(x[rows], r[rows], at)
            leaf = z.flatten(0, 1).requires_grad_()
            with budget.measuring(len(leaf)):
                g = score_gradient(reader, leaf, y[rows].repeat(len(z)), self.score, create_graph=False)
            mean[rows] += (w * g.view_as(z)).sum(0)
        return mean

    def graph(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
        """Return g, (B, *D), with the graph of the whole path; small batches take several steps per call."""
        budget, parts, j = BatchBudget(self.model, x, self.batch_bytes), [], 0
        reader = checked_once(self.model, y)
        while j < len(self.nodes[0]):
            count = max(1, min(budget.batch // len(x), len(self.nodes[0]) - j))
            z, w, _ = self.points(x, r, slice(j, j + count))
            points = z.flatten(0, 1)
            g = score_gradient(reader, points, y.repeat(len(z)), self.score, create_graph=True)
            parts.append((w * g.view_as(z)).sum(0))
            j += count
        return torch.stack(parts).sum(0)


class TwoPass(torch.autograd.Function):
    """Path attribution e, with the second pass as its derivative; symbols as in the module's docstring."""

    @staticmethod
    def forward(ctx: Any, path: PathIntegral, x: Tensor, r: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        """Return e, (B, *D), by the first pass."""
        with torch.enable_grad():
            mean = path.mean_gradient(x.detach(), r.detach(), y)
        ctx.path = path
        ctx.save_for_backward(x, r, y, mean, *parameters)
        return (x - r) * mean

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients with respect to x, r and the parameters, by the second pass."""
        if torch.is_grad_enabled():
            raise BadInput(
                "the gradient of this map cannot be differentiated again (third derivatives); use one_graph=True"
            )
        path: PathIntegral = ctx.path
        x, r, y, mean, *parameters = ctx.saved_tensors
        x, r = x.detach(), r.detach()
        u = v * (x - r)
        to_r, to_x, mean_again = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
        theta = [torch.zeros_like(p) for p in parameters]
        budget = BatchBudget(path.model, x, path.batch_bytes)
        with differentiating(), trusted():  # the first pass has checked the outputs
            # A double backward keeps about three graphs of a forward pass alive.
            for rows, at in path.calls(budget, len(x), 3):
                z, w, t = path.points(x[rows], r[rows], at)
                leaf = z.flatten(0, 1).requires_grad_()
                with budget.measuring(3 * len(leaf)):
                    g = score_gradient(path.model, leaf, y[rows].repeat(len(z)), path.score, create_graph=True)
                g = g.view_as(z)
                mean_again[rows] += (w * g.detach()).sum(0)
                s = (w * g * u[rows]).sum()
                h, *dtheta = torch.autograd.grad(s, [leaf, *parameters], allow_unused=True)
                if h is not None:
                    to_x[rows] += (t * h.view_as(z)).sum(0)
                    to_r[rows] += ((1 - t) * h.view_as(z)).sum(0)
                for total, part in zip(theta, dtheta, strict=True):
                    if part is not None:
                        total += part
        _check_same(mean_again, mean)
        return None, v * mean + to_x, to_r - v * mean, None, *theta


def _check_same(now: Tensor, then: Tensor) -> None:
    """Refuse a model that has changed since the first pass."""
    # Rounding errors that flip a ReLU change far less than a hundredth of the norm of the whole batch.
    if bool((now - then).norm() > 1e-2 * then.norm() + 1e-30):
        raise BadInput(
            "the model has changed between the explanation and its gradient (dropout in training mode, new weights, "
            "smooth_relu left?); keep it as it was, or use one_graph=True"
        )
