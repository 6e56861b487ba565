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
from unfooled.certification.network import Network
from unfooled.certification.region import Region
from unfooled.core.model.modes import evaluating
from unfooled.core.threats import Threat

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


def _margins(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, by_lines: bool) -> Tensor:
    network = _network(model, x)
    bounds = interval_bounds(network, Region.of(x, threat, x.dtype))
    rows = margin_rows(network, y)
    return backward(rows, Relaxed.of(bounds, rows, by_lines=by_lines))[0].reshape(len(x), -1)
