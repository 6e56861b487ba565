"""Spatial layers of any model: found, named, and recorded while it runs.

The spatial layer is the last module call, in order of execution, whose output reaches the logits and lies on a grid:
either (B, C, h, w), at least two cells high and wide, or the tokens of patches, (B, T, C), of which the last h w are
the cells. Calls are named, not modules: the second call of a reused `relu` is `relu@2`, and `relu` alone means its last
call.

Of tokens the grid is that of an earlier (B, C, h, w) in the same pass, the convolution that cut the patches; what is
left of T (class token, registers) stands first. Where the head reads the class token alone, the last block's patch
tokens have no gradient, and the layer found is the last one before it whose patch tokens have.
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
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.modes import evaluating, modules_of
from unfooled.core.model.outputs import logits_of
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


@dataclass(frozen=True)
class Spatial:
    """A call whose output lies on a grid.

    Attributes:
        layer: the call's name.
        grid: its height and width in cells.
        tokens: whether the output is (B, T, C) instead of (B, C, h, w).
    """

    layer: str
    grid: tuple[int, int]
    tokens: bool

    def maps(self, output: Tensor) -> Tensor:
        """The call's output as (B, C, h, w); tokens that are no patches are left out."""
        h, w = self.grid
        return output[:, -h * w :].transpose(1, 2).unflatten(2, (h, w)) if self.tokens else output


PREFIX = 16
"""Most tokens that stand before those of the patches."""


def find_spatial_layer(model: Model, x: Tensor, *, grid: tuple[int, int] | None = None) -> str:
    """Name the last call with a spatial output that reaches the logits: (B, C, h, w), min(h, w) >= 2, or patch tokens.

    A container returns the tensor of its last child; of calls with one and the same output the innermost is named.

    Args:
        model: modules, or a callable that holds some. In eval mode meanwhile.
        x: one sample is enough, (1, *D). Cost: 1 forward, 1 backward.
        grid: (h, w) of the patch tokens, where it cannot be read off the convolution that cuts the patches.

    Raises:
        BadInput: the model holds no modules, or none of their outputs qualifies.
    """
    return find_spatial(model, x, grid=grid).layer


def find_spatial(model: Model, x: Tensor, *, layer: str | None = None, grid: tuple[int, int] | None = None) -> Spatial:
    """`find_spatial_layer` with the grid: of the call found, or of `layer`. Arguments, cost and errors as there."""
    with differentiating(), evaluating(model):
        z = entry(x[:1], create_graph=False)
        with recorded(model) as calls:
            logits = logits_of(model(z))
        at = {call.layer: _place(calls[: i + 1], grid) for i, call in enumerate(calls)}
        if layer is not None:
            last = [c.layer for c in calls if layer in (c.layer, c.layer.split("@")[0])]
            place = at[last[-1]] if last else None
            if place is None:
                raise BadInput(
                    f"layer {layer!r} has no grid: it is neither (B, C, h, w) nor tokens whose grid is known; give grid"
                )
            return place
        live = [(at[c.layer], c.output) for c in calls if at[c.layer] and c.output.requires_grad]
        if live and logits.requires_grad:
            # Distinct weights: the logits, or what became of them, may add up to a constant.
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
    """Where the last of the calls so far lies on a grid, if it does."""
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
    """Record the outputs of module calls with three or four dimensions while the context lasts, in order of execution.

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
