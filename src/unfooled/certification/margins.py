"""Bounds of margins as a training loss needs them: all of them at once, with gradients of the weights.

The model is traced once and its weights are read at every call. Batch normalisation enters with its running statistics.
Bounds are of the model in the precision of its weights, in mixed precision too, whose rounding would break them.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from unfooled.certification.crown import Relaxed, backward, interval_bounds, margin_rows
from unfooled.certification.graph import Graph, trace
from unfooled.certification.ibp import intervals
from unfooled.certification.network import Network
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
    return _margins(model, x, y, threat, by_lines=False)


def relaxed_margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Return lower bounds of the margins by CROWN-IBP, (B, K - 1), with gradients of the weights.

    Args:
        model: A module to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Linf, L2 or L1 threat.
    """
    return _margins(model, x, y, threat, by_lines=True)


def growth_penalty(model: nn.Module, x: Tensor, threat: Threat) -> Tensor:
    """Return a penalty on intervals that grow from layer to layer, and on ReLUs that all have one sign, a scalar.

        mean over layers of [t - w_0 / w]_+ / t + [t - balance(mean)]_+ / t + [t - balance(variance)]_+ / t

    w are the mean widths of the intervals before an activation and w_0 that of the input; a balance is the smaller of
    the ratios of active to inactive entries and back; t = .5. 0 for a network without activations.

    Args:
        model: A module to logits.
        x: Inputs, (B, *D).
        threat: Linf, L2 or L1 threat.

    References:
        Shi et al., Fast certified robust training with short warmup, NeurIPS 2021, arXiv:2103.17268.
    """
    network = _network(model, x)
    bounds = intervals(network, Region.of(x, threat, x.dtype))
    width = (bounds[0][1] - bounds[0][0]).mean()
    parts = []
    for i in network.curved:
        low, high = bounds[network.nodes[i].inputs[0]]
        centre, active, inactive = (low + high) / 2, low > 0, high < 0
        parts.append(width / (high - low).mean().clamp_min(TINY))
        spread = (centre - centre.mean()).square()
        for value in (centre.abs(), spread):
            one, other = (value * active).mean(), (value * inactive).mean()
            parts.append(torch.minimum(one, other) / torch.maximum(one, other).clamp_min(TINY))
    if not parts:
        return x.new_zeros(())
    return (TOLERATED - torch.stack(parts)).clamp_min(0).sum() / TOLERATED / len(network.curved)


def _margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, by_lines: bool) -> Tensor:
    network = _network(model, x)
    bounds = interval_bounds(network, Region.of(x, threat, x.dtype))
    rows = margin_rows(network, y)
    return backward(rows, Relaxed.of(bounds, rows, by_lines=by_lines))[0].reshape(len(x), -1)
