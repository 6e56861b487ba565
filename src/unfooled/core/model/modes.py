"""Context managers that change a model's modes and restore them on exit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unfooled.core.model.anatomy import modules_of


def in_training(model: Any) -> list[str]:
    """Name the submodules in training mode whose output depends on it (dropout, batch normalisation)."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase)
    return [
        f"{name or '(root)'} ({type(module).__name__})"
        for root in modules_of(model)
        for name, module in root.named_modules()
        if module.training and isinstance(module, kinds)
    ]


@contextmanager
def _switched(items: list[Any], name: str, value: bool) -> Iterator[None]:
    """Set an attribute of each item; the previous values are restored on exit."""
    before = [(item, getattr(item, name)) for item in items]
    try:
        for item, _ in before:
            setattr(item, name, value)
        yield
    finally:
        for item, old in before:
            setattr(item, name, old)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put every submodule into eval mode; the previous modes are restored on exit."""
    with _switched([module for root in modules_of(model) for module in root.modules()], "training", False):
        yield


@contextmanager
def unrecorded(model: Any) -> Iterator[None]:
    """Keep batch normalisation from updating its running statistics, for inputs that are not real data.

    Layers in training mode still normalise by the statistics of the batch.
    """
    kind = nn.modules.batchnorm._NormBase
    norms = [module for root in modules_of(model) for module in root.modules() if isinstance(module, kind)]
    with _switched(
        [module for module in norms if module.training and module.running_mean is not None],
        "track_running_stats",
        False,
    ):
        yield


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """Switch off gradients of the parameters: an attack needs none, and autograd then saves less memory."""
    with _switched([p for root in modules_of(model) for p in root.parameters()], "requires_grad", False):
        yield


def channels_last(module: nn.Module) -> nn.Module:
    """Store the weights of convolutions with the channels last in memory, and return the module.

    On a CPU, convolutions and pooling of several channels are then faster; values do not change.
    """
    for value in (*module.parameters(), *module.buffers()):
        if value.ndim == 4:
            # Of a single channel, `contiguous` would leave the strides, by which torch chooses.
            value.data = torch.empty_like(value.data, memory_format=torch.channels_last).copy_(value.data)
    return module
