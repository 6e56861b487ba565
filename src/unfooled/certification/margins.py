"""Bounds of margins as a training loss needs them: all of them at once, with gradients of the weights.

The model is traced once and its weights are read at every call. Batch normalisation enters with its running statistics.
Bounds are of the model in the precision of its weights, in mixed precision too, whose rounding would break them.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unfooled.certification.crown import Bounds, Relaxed, backward, interval_bounds, margin_rows
from unfooled.certification.graph import Graph, trace
from unfooled.certification.network import Network
from unfooled.certification.operations import Activation
from unfooled.certification.region import Region
from unfooled.core.model.modes import evaluating
from unfooled.core.threats import TINY, Threat

TOLERATED = 0.5
"""Ratio from which a layer is not penalised."""
_TRACED: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Graph]] = WeakKeyDictionary()


def _network(model: nn.Module, x: Tensor) -> Network:
    """Return the operations of a model with its present weights."""
    model = getattr(model, "full_precision", model)
    known = _TRACED.setdefault(model, {})
    shape = tuple(x.shape[1:])
    if shape not in known:
        with evaluating(model), torch.no_grad():
            known[shape] = trace(model, x.detach())
    return known[shape].network(x.dtype, follows=True)


def interval_margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return lower bounds of the margins z_y - z_k by intervals, (B, K - 1), with gradients of the weights.

    Args:
        model: A module to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Linf, L2 or L1 threat.
    """
    return _margins(interval_bounds(_network(model, x), Region.of(x, threat, x.dtype)), y, by_lines=False)


def relaxed_margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return lower bounds of the margins by CROWN-IBP, (B, K - 1), with gradients of the weights.

    Args:
        model: A module to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Linf, L2 or L1 threat.
    """
    return _margins(interval_bounds(_network(model, x), Region.of(x, threat, x.dtype)), y, by_lines=True)


def penalised_margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """Return the margins of `interval_margins`, (B, K - 1), and a penalty on intervals that grow, a scalar.

        mean over layers of [t - w_0 / w]_+ / t + [t - balance(mean)]_+ / t + [t - balance(variance)]_+ / t

    w are the mean widths of the intervals before an activation and w_0 that of the input; a balance is the smaller of
    the ratios of active to inactive entries and back, so that ReLUs of one sign are penalised, too; t = .5. The penalty
    of a network without activations is 0.

    Args:
        model: A module to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Linf, L2 or L1 threat.

    References:
        Shi et al., Fast certified robust training with short warmup, NeurIPS 2021, arXiv:2103.17268.
    """
    bounds = interval_bounds(_network(model, x), Region.of(x, threat, x.dtype))
    return _margins(bounds, y, by_lines=False), _growth(bounds)


def _growth(bounds: Bounds) -> Tensor:
    network, (low, high) = bounds.network, bounds.nodes[0]
    width, parts = (high - low).mean(), []
    activations = [i for i in network.curved if isinstance(network.nodes[i].operation, Activation)]
    for i in activations:
        low, high = bounds.nodes[network.nodes[i].inputs[0]]
        centre, active, inactive = (low + high) / 2, low > 0, high < 0
        parts.append(width / (high - low).mean().clamp_min(TINY))
        for value in (centre.abs(), (centre - centre.mean()).square()):
            one, other = (value * active).mean(), (value * inactive).mean()
            parts.append(torch.minimum(one, other) / torch.maximum(one, other).clamp_min(TINY))
    if not parts:
        return width.new_zeros(())
    return (TOLERATED - torch.stack(parts)).clamp_min(0).sum() / TOLERATED / len(activations)


def _margins(bounds: Bounds, y: Tensor, *, by_lines: bool) -> Tensor:
    rows = margin_rows(bounds.network, y)
    return backward(rows, Relaxed.of(bounds, rows, by_lines=by_lines))[0].reshape(len(y), -1)
