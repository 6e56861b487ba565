"""Recording of layers: outputs of module calls in a forward pass, by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.classifier import Classifier
from unfooled.core.types import Model


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        layer: Name of the module, with @2, @3, ... for later calls in the same pass.
        output: Output of the call, in the graph of the logits.
    """

    layer: str
    output: Tensor


_REFUSED = (
    "the model is TorchScript or of another kind that refuses hooks, so its layers cannot be read; give the module "
    "that it was made from, or use a gradient explanation instead of Grad-CAM and attention"
)


@contextmanager
def recorded(model: Model, layer: str | None = None) -> Iterator[list[Call]]:
    """Record outputs of module calls with three or four dimensions until the context ends, in order of execution.

    Later in-place layers do not change what is recorded: the model continues with a copy.

    Args:
        model: A module, or a callable that uses modules.
        layer: Name of the module to record (all of its calls). None: all modules.
    """
    modules = named_modules_of(model)
    wanted = layer.split("@")[0] if layer is not None else None
    if wanted is not None and wanted not in modules:
        raise BadInput(_unknown(wanted, list(modules)))
    refused: list[str] = []
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def record(name: str, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        counts[name] = counts.get(name, 0) + 1
        # A container returns the copy that was made of its last child's output. This is not recorded again, unless an
        # in-place layer has changed it since.
        if not isinstance(output, Tensor) or output.ndim not in (3, 4):
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
            if wanted not in (None, name):
                continue
            try:
                handles.append(module.register_forward_hook(partial(record, name)))
            except RuntimeError:
                refused.append(name)
        if refused and not handles:
            raise BadInput(_REFUSED)
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def refusal(model: Model) -> str:
    """Return why the layers of a model cannot be read, one sentence; empty where they can, or where it has none."""
    modules, refused = named_modules_of(model).values(), 0
    for module in modules:
        try:
            module.register_forward_hook(lambda *_: None).remove()
        except RuntimeError:
            refused += 1
    return _REFUSED if refused and refused == len(modules) else ""


def named_modules_of(model: Model) -> dict[str, nn.Module]:
    """Return the submodules behind a callable by name.

    Names are relative to the module of a `Classifier`, as in `Classifier.features`. Where a callable holds several
    modules, their names begin with their position: `0.conv`, `1.conv`.
    """
    roots: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for root in modules_of(model):
        # A wrapper that passes on the attributes of the model that it wraps shows the same modules twice.
        for part in modules_of(root.module) if isinstance(root, Classifier) else [root]:
            roots += [] if part in inner else [part]
            inner |= set(part.modules())
    modules: dict[str, nn.Module] = {}
    for i, root in enumerate(roots):
        lead = f"{i}." if len(roots) > 1 else ""
        modules |= {lead + name: module for name, module in root.named_modules() if name}
    return modules


def name_of(model: Model, layer: str | nn.Module) -> str:
    """Return the name of a layer that is given by name or as a module."""
    modules = named_modules_of(model)
    if isinstance(layer, str):
        if layer.split("@")[0] not in modules:
            raise BadInput(_unknown(layer.split("@")[0], list(modules)))
        return layer
    for name, module in modules.items():
        if module is layer:
            return name
    raise BadInput(f"layer is a {type(layer).__name__} that is no part of the model; give one of its modules")


def output_of(calls: list[Call], layer: str, size: int) -> Tensor:
    """Return the output of a recorded call; for a name without @n that of the last call."""
    if "@" in layer:
        calls = [call for call in calls if call.layer == layer.removesuffix("@1")]
    shape = calls[-1].output.shape if calls else ()
    if size not in (*shape[:1], *(shape[1:2] if len(shape) == 3 else ())):
        raise BadInput(
            f"layer {layer!r} was not called with an output that can be a map, (B, C, h, w), (B, h, w, C), (B, T, C), "
            f"(B, C, T) or (T, B, C) for {size} samples"
        )
    return calls[-1].output


def _unknown(layer: str, known: list[str]) -> str:
    """Return the sentence for a layer that does not exist, with the nearest names."""
    near = difflib.get_close_matches(layer, known, n=3, cutoff=0.3) or known[:8]
    return f"the model has no layer {layer!r}; it has {', '.join(near) or 'no layers'}"
