"""The mean of per-sample terms whose graphs are large: value and gradient at the memory of a few samples.

    R(theta) = 1/B sum_i r_i(theta),    dR/dtheta = sum over groups of  d( sum_{i in group} r_i / B ) / dtheta

A term that contains gradients of the network (an explanation, a path integral) keeps several graphs of a forward pass
alive. So each group's gradient is taken as soon as its value is known, and its graph dropped; the backward pass only
scales the sums. Unlike gradient checkpointing, nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unfooled.core.model.batching import BatchBudget

Term = Callable[..., Tensor]
"""(samples of each tensor) -> (b,), one value per sample; samples must not depend on each other."""


def grouped_mean(
    model: nn.Module, term: Term, *tensors: Tensor, graphs: int = 3, batch_bytes: int | None = None
) -> Tensor:
    """Return the mean of `term(*tensors)` over the samples, a scalar, differentiable once.

    Args:
        model: Network whose parameters the term depends on.
        term: See `Term`; deterministic, and with the model in eval mode, since it is called group by group.
        tensors: Tensors (B, ...); floating point ones that require gradients receive them.
        graphs: Approximate number of forward graphs that the term keeps alive for a sample; sets the size of the first
            group. The later sizes follow from the memory that the first group used.
        batch_bytes: Memory of one group's graph, see `BatchBudget`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    work = _Work(model, term, graphs, batch_bytes, len(tensors), torch.is_grad_enabled())
    mean: Tensor = _Grouped.apply(work, *tensors, *parameters)
    return mean


@dataclass(frozen=True, eq=False)
class _Work:
    """Arguments of `grouped_mean`; `tensors` is the number of tensors, `wanted` is true if gradients are recorded."""

    model: nn.Module
    term: Term
    graphs: int
    batch_bytes: int | None
    tensors: int
    wanted: bool


class _Grouped(torch.autograd.Function):
    """A mean whose gradients are summed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, work: _Work, *given: Tensor) -> Tensor:
        """Return the mean, and store the gradient of each tensor that requires one."""
        tensors, parameters = given[: work.tensors], given[work.tensors :] if work.wanted else ()
        needs_gradient = [work.wanted and t.requires_grad for t in tensors]
        budget, size = BatchBudget(work.model, tensors[0], work.batch_bytes), len(tensors[0])
        total = torch.zeros((), dtype=tensors[0].dtype, device=tensors[0].device)
        theta = [torch.zeros_like(p) for p in parameters]
        inputs = [torch.zeros_like(t) if needed else None for t, needed in zip(tensors, needs_gradient, strict=True)]
        low = 0
        while low < size:
            left, fit = size - low, max(1, budget.batch // (1 if budget.measured else work.graphs))
            rows = slice(low, low + -(-left // -(-left // fit)))
            low = rows.stop
            part = [t[rows].detach().requires_grad_(needed) for t, needed in zip(tensors, needs_gradient, strict=True)]
            with torch.enable_grad():
                with budget.measuring(len(part[0])):
                    value = work.term(*part).sum() / size
                leaves = [*(t for t in part if t.requires_grad), *parameters]
                grads = list(torch.autograd.grad(value, leaves, allow_unused=True)) if leaves else []
            total += value.detach()
            for whole in inputs:
                if whole is not None and (g := grads.pop(0)) is not None:
                    whole[rows] = g
            for whole, g in zip(theta, grads, strict=True):
                if g is not None:
                    whole += g
        ctx.grads = [*inputs, *theta] if work.wanted else [None] * len(given)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        """Return the sums, scaled."""
        return (None, *(None if g is None else upstream * g for g in ctx.grads))
