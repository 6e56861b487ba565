"""Bounds with the best lower slopes of the ReLUs, and the best prices of splits (alpha- and beta-CROWN).

    max over slopes in [least, 1], prices >= 0  of the bound;   any slopes and prices give a valid bound

References:
    Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers,
    ICLR 2021, arXiv:2011.13824 (alpha).
    Wang et al., Beta-CROWN: efficient bound propagation with per-neuron split constraints, NeurIPS 2021,
    arXiv:2103.06624 (beta).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unfooled.certification.crown import Bounds, Relaxed, Rows, backward
from unfooled.certification.relaxation import Lines


@dataclass(frozen=True)
class Steps:
    """Ascent of a bound by Adam.

    Attributes:
        count: Iterations, at most; an ascent ends when every bound is above 0.
        slope: Step size of the slopes.
        price: Step size of the prices.
        decay: Factor on both step sizes after each iteration.
    """

    count: int = 20
    slope: float = 0.1
    price: float = 0.05
    decay: float = 0.98


@dataclass(frozen=True, eq=False)
class Optimised:
    """Best bounds of some rows.

    Attributes:
        lower: Lower bounds, (R,).
        rows: The rows with the slopes and prices that give them.
        coefficients: Coefficients of the input at the last step, (R, *D).
        at_bends: Coefficients after each ReLU at the last step.
        relaxed: Relaxation of the rows.
    """

    lower: Tensor
    rows: Rows
    coefficients: Tensor
    at_bends: Mapping[int, Tensor]
    relaxed: Relaxed


def optimise(rows: Rows, bounds: Bounds, steps: Steps = Steps(), *, goal: float = 0.0) -> Optimised:
    """Raise the bounds of some rows by their slopes and prices.

    Args:
        rows: The rows, with slopes and prices to start from.
        bounds: Bounds of the nodes.
        steps: The ascent.
        goal: Bound that is enough.
    """
    with torch.no_grad():
        relaxed = Relaxed.of(bounds, rows)
    slopes, prices = _start(rows, relaxed)
    last: list[tuple[Tensor, dict[int, Tensor]]] = []

    def bound(leaves: Sequence[Tensor]) -> Tensor:
        lower, coefficients, at_bends = backward(_with(rows, slopes, prices, leaves), relaxed)
        last[:] = [(coefficients, at_bends)]
        return lower

    best, kept = raised(bound, list(slopes.values()), list(prices.values()), steps, goal=goal)
    coefficients, at_bends = last[0]
    final = _with(rows, slopes, prices, kept)
    return Optimised(best, final, coefficients.detach(), {i: a.detach() for i, a in at_bends.items()}, relaxed)


def raised(
    bound: Callable[[Sequence[Tensor]], Tensor], slopes: Sequence[Tensor], prices: Sequence[Tensor], steps: Steps, *,
    goal: float = 0.0,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Raise bounds by Adam, each row on its own.

    Args:
        bound: Function of slopes and prices, one tensor after another, to bounds, (R,).
        slopes: Slopes to start from, (R, *shape) each.
        prices: Prices to start from, (R, *shape) each.
        steps: The ascent, which ends early when all bounds are above `goal`.
        goal: Bound that is enough.

    Returns:
        Best bounds, (R,), and the slopes and prices that give them.
    """
    values = [*slopes, *prices]
    rates = [*[steps.slope] * len(slopes), *[steps.price] * len(prices)]
    moments = [(torch.zeros_like(v), torch.zeros_like(v)) for v in values]
    best: Tensor | None = None
    kept = [v.clone() for v in values]
    for t in range(steps.count + 1):
        leaves = [v.detach().requires_grad_(t < steps.count) for v in values]
        with torch.set_grad_enabled(t < steps.count):
            lower = bound(leaves)
        better = torch.ones_like(lower, dtype=torch.bool) if best is None else lower.detach() > best
        best = lower.detach() if best is None else torch.maximum(best, lower.detach())
        for k, leaf in enumerate(leaves):
            kept[k] = torch.where(better.reshape(-1, *[1] * (leaf.ndim - 1)), leaf.detach(), kept[k])
        if t == steps.count or bool((best > goal).all()) or not lower.requires_grad:
            break
        gradients = torch.autograd.grad(lower, leaves, torch.ones_like(lower), allow_unused=True)
        rate = steps.decay**t
        values = [
            _step(leaf.detach(), g, moment, lr * rate, t)
            for leaf, g, moment, lr in zip(leaves, gradients, moments, rates, strict=True)
        ]
        values = [v.clamp_(0, 1) if k < len(slopes) else v.clamp_min_(0) for k, v in enumerate(values)]
    assert best is not None
    return best, kept


def _with(rows: Rows, slopes: Mapping[int, Tensor], prices: Mapping[int, Tensor], values: Sequence[Tensor]) -> Rows:
    """Return the rows with other values of the slopes, and then of the prices."""
    own = values[: len(slopes)], values[len(slopes) :]
    return replace(rows, slopes=dict(zip(slopes, own[0], strict=True)), prices=dict(zip(prices, own[1], strict=True)))


def _start(rows: Rows, relaxed: Relaxed) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return the slopes and prices to start from."""
    slopes = {
        i: rows.slopes[i] if i in rows.slopes else line.low_slope.clone()
        for i, line in relaxed.lines.items()
        if isinstance(line, Lines) and line.free is not None
    }
    prices = {i: rows.prices[i] if i in rows.prices else torch.zeros_like(slopes[i]) for i in rows.splits}
    return slopes, prices


def _step(value: Tensor, gradient: Tensor | None, moment: tuple[Tensor, Tensor], rate: float, t: int) -> Tensor:
    """Return the value after one step of Adam uphill; the moments are updated in place."""
    if gradient is None:
        return value.clone()
    first, second = moment
    first.mul_(0.9).add_(gradient, alpha=0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    scale = first / (1 - 0.9 ** (t + 1))
    return value + rate * scale / ((second / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
