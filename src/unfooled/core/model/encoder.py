"""Features of a network: the output, or the input, of one layer, as a callable."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.calls import run
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.precision import widened

INPUT = ":input"
"""Ending of a layer's name that means the layer's input."""


@dataclass(frozen=True)
class Encoder:
    """A callable that returns the output (or input) of one layer of a network.

    Args:
        model: Module, or a `Classifier`, which normalises first.
        layer: Name of the module whose output is the features; `NAME:input` for its input. If the module is called
            several times, the last call counts.
        relu: True: apply a ReLU to the features, as the published code does.

    Raises:
        BadInput: The model has no such layer (the nearest are named), or it returned no tensor.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> Encoder(net, "0")(torch.rand(5, 4)).shape
        torch.Size([5, 3])
    """

    model: nn.Module
    layer: str
    relu: bool = False

    def __post_init__(self) -> None:
        _module(self.model, self.layer)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the features, (B, *F). Cost: 1 forward of the whole model."""
        module = _module(self.model, self.layer)
        seen: list[object] = []

        def before(_module: nn.Module, inputs: tuple[object, ...]) -> object:
            seen.append(inputs[0] if inputs else None)
            # The model continues with a copy, which a layer that works in place may change.
            return (inputs[0].clone(), *inputs[1:]) if inputs and isinstance(inputs[0], Tensor) else None

        def after(_module: nn.Module, _inputs: object, output: object) -> object:
            seen.append(output)
            return output.clone() if isinstance(output, Tensor) else None

        if self.layer.endswith(INPUT):
            handle = module.register_forward_pre_hook(before)
        else:
            handle = module.register_forward_hook(after)
        try:
            run(self.model, x)
        finally:
            handle.remove()
        if not seen:
            raise BadInput(
                f"layer {self.layer!r} was not called in the forward pass; name one that is. An exported program "
                "(.pt2) calls none: give the checkpoint or the module that it was exported from"
            )
        if not isinstance(seen[-1], Tensor):
            raise BadInput(f"layer {self.layer!r} returned a {type(seen[-1]).__name__}; features are one tensor")
        features = widened(seen[-1])
        return features.relu() if self.relu else features


def root_of(model: nn.Module) -> nn.Module:
    """Return the module that names of layers are relative to: that of a `Classifier`, else the model itself."""
    return model.module if isinstance(model, Classifier) and isinstance(model.module, nn.Module) else model


def _module(model: nn.Module, layer: str) -> nn.Module:
    """Return the module of a layer; refuse an unknown name."""
    name = layer.removesuffix(INPUT)
    if not isinstance(model, nn.Module):
        raise BadInput(f"the model is a {type(model).__name__} and has no layers; give encode as a function instead")
    modules = {name: module for name, module in root_of(model).named_modules() if name}
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3, cutoff=0.3) or list(modules)[:8]
        raise BadInput(f"the model has no layer {name!r}; it has {', '.join(near) or 'no layers'}")
    return modules[name]
