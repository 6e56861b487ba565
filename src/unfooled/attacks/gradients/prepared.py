"""Prepared networks: copies that answer as a network does, to rounding, in less time, for attacks.

    batch normalisation    folded into the convolution before it
    weights                channels last in memory on a CPU, where pooling and convolutions are faster that way
    parameters, hooks      without gradients; none

Attacks propose points on the copy; the network as it was given decides whether they fool it.
"""

from __future__ import annotations

from collections.abc import Sized
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unfooled.core.goals import logits_at
from unfooled.core.model.calls import bare, copied
from unfooled.core.model.modes import channels_last, in_training
from unfooled.core.model.wrappers import Counted
from unfooled.core.types import Model

TOLERANCE = 1e-4
"""Largest difference of a logit, relative to the largest logit, that counts as rounding."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Prepared:
    """A faster copy of a network, made at its first call; the network itself where no copy answers alike.

    There is no copy of a network in training mode, in half precision or as TorchScript, nor of one that changes when it
    is called. Passes are counted as those of the network.

    Args:
        model: The network, which counts its passes. Not modified.
        x: A few samples at which the answers are compared, (b, *D). Cost: 4 forwards of them, which are not counted.
    """

    transparent = True

    def __init__(self, model: Counted, x: Tensor) -> None:
        self.model, self.x = model, x
        self.ready: tuple[Model, float] | None = None

    def __call__(self, x: Tensor) -> Any:
        """Return the output of the copy."""
        return self._copy()[0](x)

    @property
    def rounding(self) -> float:
        """Largest difference of two logits' difference that is rounding; 0 where the network itself is asked."""
        return self._copy()[1]

    def _copy(self) -> tuple[Model, float]:
        """Return the model to ask, and its rounding."""
        if self.ready is None:
            network = bare(self.model)
            with torch.no_grad():
                copy = _faster(network, self.x) if _can_be_copied(network) else None
                top = float(logits_at(network, self.x).abs().amax()) if copy is not None else 0.0
            self.ready = (self.model, 0.0) if copy is None else (self.model.standing_in(copy), 10 * TOLERANCE * top)
        return self.ready


def _can_be_copied(network: Any) -> bool:
    """Return whether a network is in eval mode, and its weights are float32 or float64."""
    if not isinstance(network, nn.Module) or isinstance(network, torch.jit.ScriptModule) or in_training(network):
        return False
    return all(p.dtype in (torch.float32, torch.float64) for p in network.parameters())


def _faster(network: nn.Module, x: Tensor) -> nn.Module | None:
    """Return a faster copy of a network that answers alike; None where there is none."""
    try:  # whatever a model does when it is copied or traced
        copy = copied(network)
        state, answer = _state(copy), logits_at(copy, x)
        if not torch.equal(answer, logits_at(copy, x)) or _state(copy) != state:
            return None
        _prepare(copy, x)
        own, others = logits_at(network, x), logits_at(copy, x)
    except Exception:
        return None
    return copy if bool((own - others).abs().amax() <= TOLERANCE * own.abs().amax()) else None


def _prepare(copy: nn.Module, x: Tensor) -> None:
    """Change a copy so that it is faster."""
    copy.requires_grad_(False)
    for module in copy.modules():
        for name in HOOKS:
            getattr(module, name).clear()
    inner = getattr(copy, "module", copy)
    _fold(inner if isinstance(inner, nn.Module) else copy)
    if x.device.type == "cpu":
        channels_last(copy)


def _fold(network: nn.Module) -> None:
    """Fold batch normalisations into the convolutions before them, if the network's graph can be traced."""
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    graph = None
    with suppress(Exception):
        graph = fx.Tracer().trace(network)
    if graph is None:
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    targets = [node.target for node in calls]
    for node in calls:
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        names = [str(before.target), str(node.target)]
        convolution, norm = (network.get_submodule(name) for name in names)
        once = all(targets.count(name) == 1 for name in names)
        if type(convolution) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and once:
            _put(network, names[0], fuse_conv_bn_eval(convolution, norm))
            _put(network, names[1], nn.Identity())


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a submodule."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _state(network: nn.Module) -> list[Any]:
    """Return what a call of a network may change: numbers, sizes of collections, tensors and buffers."""
    state: list[Any] = []
    for module in network.modules():
        for name, value in (*vars(module).items(), *module.named_buffers(recurse=False)):
            if isinstance(value, Tensor):
                state.append((name, id(value), value._version))
            elif isinstance(value, Sized) and not isinstance(value, str):
                state.append((name, len(value)))
            elif isinstance(value, (bool, int, float, str)):
                state.append((name, value))
    return state
