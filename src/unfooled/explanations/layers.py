"""Spatial layers of any model: found, named, and recorded while it runs.

The spatial layer is the last module call, in order of execution, whose output is four-dimensional, at least two cells
high and wide, and reaches the logits. Calls are named, not modules: the second call of a reused `relu` is `relu@2`, and
`relu` alone means its last call.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unfooled.core.checks import BadInput
from unfooled.core.classifier import Classifier
from unfooled.core.modes import modules_of
from unfooled.core.types import Model
from unfooled.explanations.gradients import differentiating, entry


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        layer: the module's name, with @2, @3, ... for later calls in the same pass.
        output: what it returned, in the graph of the logits.
    """

    layer: str
    output: Tensor


def find_spatial_layer(model: Model, x: Tensor) -> str:
    """Name the last call with a spatial output, (B, C, h, w), min(h, w) >= 2, that reaches the logits.

    A container returns the tensor of its last child; of calls with one and the same output the innermost is named.

    Args:
        model: modules, or a callable that holds some.
        x: one sample is enough, (1, *D). Cost: 1 forward, 1 backward.

    Raises:
        BadInput: the model holds no modules, or none of their outputs qualifies.
    """
    with differentiating():
        z = entry(x[:1], create_graph=False)
        with recorded(model) as calls:
            logits = model(z)
        calls = [c for c in calls if len(c.output) == 1 and min(c.output.shape[2:]) >= 2 and c.output.requires_grad]
        if calls and isinstance(logits, Tensor) and logits.requires_grad:
            grads = torch.autograd.grad(logits.sum(), [c.output for c in calls], allow_unused=True)
            for call, g in zip(reversed(calls), reversed(grads), strict=True):
                if g is not None:
                    return call.layer
    raise BadInput(
        "the model has no layer with a spatial output (B, C, h, w), min(h, w) >= 2, that reaches the logits; "
        "Grad-CAM needs one, use a gradient explanation instead"
    )


@contextmanager
def recorded(model: Model, layer: str | None = None) -> Iterator[list[Call]]:
    """Record the four-dimensional outputs of module calls while the context lasts, in order of execution.

    What is recorded is untouched by later in-place layers: the model goes on with a copy.

    Args:
        model: modules, or a callable that holds some.
        layer: record this module alone (any of its calls); all where None.
    """
    modules = named_modules_of(model)
    wanted = layer.split("@")[0] if layer is not None else None
    if wanted is not None and wanted not in modules:
        raise BadInput(_unknown(wanted, list(modules)))
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        counts[name] = counts.get(name, 0) + 1
        # A container passes on the copy that its last child was given: not a call with an output of its own, unless an
        # in-place layer has changed it since.
        if not isinstance(output, Tensor) or output.ndim != 4:
            return None
        if any(output is copy and output._version == version for copy, version in given):
            return None
        calls.append(Call(name if counts[name] == 1 else f"{name}@{counts[name]}", output))
        copy = output.clone()
        given.append((copy, copy._version))
        return copy

    given: list[tuple[Tensor, int]] = []
    handles = []
    try:
        for name, module in modules.items():
            if wanted in (None, name):
                handles.append(module.register_forward_hook(partial(keep, name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def named_modules_of(model: Model) -> dict[str, nn.Module]:
    """The submodules behind a callable by name: a `Classifier`'s relative to its module, as in `Classifier.features`.

    Where a callable holds several modules, their names are led by their position: `0.conv`, `1.conv`.
    """
    roots: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for root in modules_of(model):
        # A wrapper that lends the attributes of what it wraps shows the same modules twice.
        for part in modules_of(root.module) if isinstance(root, Classifier) else [root]:
            roots += [] if part in inner else [part]
            inner |= set(part.modules())
    found: dict[str, nn.Module] = {}
    for i, root in enumerate(roots):
        lead = f"{i}." if len(roots) > 1 else ""
        found |= {lead + name: module for name, module in root.named_modules() if name}
    return found


def output_of(calls: list[Call], layer: str, size: int) -> Tensor:
    """The output of a recorded call; of a module without @n its last one."""
    if "@" in layer:
        calls = [c for c in calls if c.layer == layer.removesuffix("@1")]
    if not calls or len(calls[-1].output) != size:
        raise BadInput(f"layer {layer!r} was not called with a spatial output, (B, C, h, w), in the forward pass")
    return calls[-1].output


def _unknown(layer: str, known: list[str]) -> str:
    near = difflib.get_close_matches(layer, known, n=3, cutoff=0.3) or known[:8]
    return f"the model has no layer {layer!r}; it has {', '.join(near) or 'no layers'}"
