"""Spatial layers of a model: search, names, and recording in a forward pass.

The spatial layer is the last module call, in order of execution, whose output reaches the logits and lies on a grid:
either (B, C, h, w), at least two cells high and wide, or patch tokens, (B, T, C), the last h w of which are the
cells. Names belong to calls, not to modules: the second call of a reused `relu` is `relu@2`, and `relu` alone means
its last call.

The grid of patch tokens is that of an earlier output (B, C, h, w) in the same pass, of the patch-embedding convolution;
other tokens (class token, registers) come before the patch tokens. Where the head reads the class
token alone, the last block's patch tokens have no gradient; the layer is then the last earlier one whose patch tokens
have one.
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

from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import evaluating
from unfooled.core.model.outputs import logits_of
from unfooled.core.types import Model
from unfooled.explanations.gradients import differentiating, entry


@dataclass(frozen=True)
class Call:
    """One call of a module in a forward pass.

    Attributes:
        layer: Name of the module, with @2, @3, ... for later calls in the same pass.
        output: Output of the call, part of the graph of the logits.
    """

    layer: str
    output: Tensor


@dataclass(frozen=True)
class Spatial:
    """A call whose output lies on a grid.

    Attributes:
        layer: Name of the call.
        grid: Height and width in cells.
        tokens: True if the output is (B, T, C), False if it is (B, C, h, w).
    """

    layer: str
    grid: tuple[int, int]
    tokens: bool

    def maps(self, output: Tensor) -> Tensor:
        """Return the call's output as (B, C, h, w), without tokens other than patch tokens."""
        h, w = self.grid
        return output[:, -h * w :].transpose(1, 2).unflatten(2, (h, w)) if self.tokens else output


PREFIX = 16  # largest number of tokens before the patch tokens


def find_spatial_layer(model: Model, x: Tensor, *, grid: tuple[int, int] | None = None) -> str:
    """Return the name of the last call whose spatial output reaches the logits.

    Spatial outputs are (B, C, h, w) with min(h, w) >= 2, or patch tokens. A container returns the tensor of its last
    child; among calls with the same output, the innermost is returned.

    Args:
        model: A module, or a callable that uses modules; run in eval mode.
        x: Inputs; the first sample is used, (1, *D). Cost: 1 forward, 1 backward.
        grid: Height and width of the grid of patch tokens. None: that of the patch-embedding convolution.

    Raises:
        BadInput: The model has no modules, or none of their outputs is spatial.
    """
    return find_spatial(model, x, grid=grid).layer


def find_spatial(model: Model, x: Tensor, *, layer: str | None = None, grid: tuple[int, int] | None = None) -> Spatial:
    """Return the call of `find_spatial_layer`, or the one called `layer`, with its grid. Cost and errors as there."""
    with differentiating(), evaluating(model):
        z = entry(x[:1], create_graph=False)
        with recorded(model) as calls:
            logits = logits_of(model(z))
        places = {call.layer: _place(calls[: i + 1], grid) for i, call in enumerate(calls)}
        if layer is not None:
            last = [c.layer for c in calls if layer in (c.layer, c.layer.split("@")[0])]
            place = places[last[-1]] if last else None
            if place is None:
                raise BadInput(
                    f"layer {layer!r} has no grid: it is neither (B, C, h, w) nor tokens whose grid is known; give grid"
                )
            return place
        live = [(places[c.layer], c.output) for c in calls if places[c.layer] and c.output.requires_grad]
        if live and logits.requires_grad:
            # Distinct weights, since the logits, or a function of them, may add up to a constant.
            value = (logits * torch.arange(1, logits.shape[-1] + 1, device=z.device, dtype=logits.dtype)).sum()
            grads = torch.autograd.grad(value, [output for _, output in live], allow_unused=True)
            for (place, _), g in zip(reversed(live), reversed(grads), strict=True):
                if place and g is not None and (not place.tokens or bool(place.maps(g).ne(0).any())):
                    return place
    raise BadInput(
        "the model has no layer with a spatial output (B, C, h, w), min(h, w) >= 2, that reaches the logits; "
        "Grad-CAM needs one, use a gradient explanation instead (patch tokens of unknown grid: give grid=(h, w))"
    )


def _place(calls: list[Call], grid: tuple[int, int] | None) -> Spatial | None:
    """Return the last of these calls with its grid; None where its output has no grid."""
    layer, output = calls[-1].layer, calls[-1].output
    if len(output) != 1:
        return None
    if output.ndim == 4:
        h, w = output.shape[2:]
        return Spatial(layer, (h, w), tokens=False) if min(h, w) >= 2 else None
    sides = [grid] if grid else [(c.output.shape[2], c.output.shape[3]) for c in calls if c.output.ndim == 4]
    for h, w in reversed(sides):
        if min(h, w) >= 2 and 0 <= output.shape[1] - h * w <= PREFIX:
            return Spatial(layer, (h, w), tokens=True)
    return None


@contextmanager
def recorded(model: Model, layer: str | None = None) -> Iterator[list[Call]]:
    """Record outputs of module calls with three or four dimensions until the context ends, in order of execution.

    The model continues with copies, so that later in-place layers do not change the recorded outputs.

    Args:
        model: A module, or a callable that uses modules.
        layer: Name of the module to record (all of its calls). None: all modules.
    """
    modules = named_modules_of(model)
    wanted = layer.split("@")[0] if layer is not None else None
    if wanted is not None and wanted not in modules:
        raise BadInput(_unknown(wanted, list(modules)))
    calls: list[Call] = []
    counts: dict[str, int] = {}

    def keep(name: str, module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
        counts[name] = counts.get(name, 0) + 1
        # A container returns the copy of its last child's output. It is not recorded again, unless an in-place layer
        # has changed it since.
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
            if wanted in (None, name):
                handles.append(module.register_forward_hook(partial(keep, name)))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def named_modules_of(model: Model) -> dict[str, nn.Module]:
    """Return the submodules behind a callable by name.

    Names are relative to the module of a `Classifier`, as in `Classifier.features`. Where a callable holds several
    modules, their names begin with their position: `0.conv`, `1.conv`.
    """
    roots: list[nn.Module] = []
    inner: set[nn.Module] = set()
    for root in modules_of(model):
        # A wrapper that forwards attributes to its model exposes the same modules twice.
        for part in modules_of(root.module) if isinstance(root, Classifier) else [root]:
            roots += [] if part in inner else [part]
            inner |= set(part.modules())
    modules: dict[str, nn.Module] = {}
    for i, root in enumerate(roots):
        lead = f"{i}." if len(roots) > 1 else ""
        modules |= {lead + name: module for name, module in root.named_modules() if name}
    return modules


def output_of(calls: list[Call], layer: str, size: int) -> Tensor:
    """Return the output of a recorded call; a name without @n means the last call."""
    if "@" in layer:
        calls = [c for c in calls if c.layer == layer.removesuffix("@1")]
    if not calls or len(calls[-1].output) != size:
        raise BadInput(f"layer {layer!r} was not called with a spatial output, (B, C, h, w), in the forward pass")
    return calls[-1].output


def _unknown(layer: str, known: list[str]) -> str:
    """Return the error message for an unknown layer, with similar names."""
    near = difflib.get_close_matches(layer, known, n=3, cutoff=0.3) or known[:8]
    return f"the model has no layer {layer!r}; it has {', '.join(near) or 'no layers'}"
