"""Spatial layers of a model: how they are found, named, and recorded in a forward pass.

The spatial layer is the last module call, in order of execution, whose output reaches the logits and lies on a grid at
least two cells high and wide: channels first, channels last, or the tokens of patches (see `layouts`). Names belong to
calls, not to modules: the second call of a reused `relu` is `relu@2`, and `relu` alone means its last call.

The grid of tokens is that of an earlier call in the same pass, such as the convolution that cut the patches, or that
grid halved, where patches were merged since; the other tokens (class token, registers) stand before or behind those of
the patches. Where the head reads only the class token, the last block's patch tokens have no gradient; the layer is
then the last one before it whose patch tokens have one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.model.modes import evaluating
from unfooled.core.model.outputs import logits_from
from unfooled.core.types import Model
from unfooled.explanations.gradients import differentiating, entry
from unfooled.explanations.layouts import (
    ACTIVATIONS,
    IMAGE_MODULES,
    Layout,
    Probes,
    Reading,
    Shape,
    Spatial,
    certain,
    contrast,
    fits,
    grids_readings,
    of_one_sample,
    own_grid,
    probe_cells,
    sides_of,
    token_readings,
    turned,
)
from unfooled.explanations.recording import Call, name_of, named_modules_of, output_of, recorded

Layer = str | nn.Module | Spatial
"""A call: its name, its module (the last call of it), or what `find_spatial` returned for inputs of the same size."""


def find_spatial_layer(model: Model, x: Tensor, *, grid: tuple[int, int] | None = None) -> str:
    """Name the last call with a spatial output that reaches the logits: (B, C, h, w), min(h, w) >= 2, or patch tokens.

    A container returns the tensor of its last child; among calls with one and the same output the innermost is named.

    Args:
        model: A module, or a callable that uses modules; run in eval mode.
        x: Inputs; the first sample is used, (1, *D). Cost: 1 forward, 1 backward.
        grid: Height and width of the grid of patch tokens. None: that of the convolution that cuts the patches.

    Raises:
        BadInput: The model holds no modules, or none of their outputs qualifies.
    """
    return find_spatial(model, x, grid=grid).layer


def find_spatial(
    model: Model, x: Tensor, *, layer: Layer | None = None, grid: tuple[int, int] | None = None
) -> Spatial:
    """Return the call `layer`, or that of `find_spatial_layer`, with its grid; cost and errors as for the latter."""
    if isinstance(layer, Spatial):
        return layer
    wanted = None if layer is None else name_of(model, layer)
    with differentiating(), evaluating(model):
        z = entry(x[:1], create_graph=False)
        with recorded(model) as calls:
            logits = logits_from(model, z)
        search = _Search(model, z, calls, grid)
        if wanted is not None:
            return search.find_named(wanted)
        own = [(i, call.output) for i, call in enumerate(calls) if of_one_sample(call.output.shape)]
        live = [(i, output) for i, output in own if output.requires_grad]
        if live and logits.requires_grad:
            # Distinct weights, since the logits, or a function of them, may add up to a constant.
            value = (logits * torch.arange(1, logits.shape[-1] + 1, device=z.device, dtype=logits.dtype)).sum()
            grads = torch.autograd.grad(value, [output for _, output in live], allow_unused=True)
            for (i, _), g in zip(reversed(live), reversed(grads), strict=True):
                place = None if g is None else search.place(i)
                if not place or g is None or (place.tokens and not bool(place.maps(g).ne(0).any())):
                    continue
                if not search.is_turned(i, place):
                    return place
    raise BadInput(
        search.doubt
        or "the model has no layer with a spatial output (B, C, h, w), min(h, w) >= 2, that reaches the logits; "
        "Grad-CAM needs one, use a gradient explanation instead (patch tokens of unknown grid: give grid=(h, w))"
    )


def place_of(
    model: Model, x: Tensor, layer: str, output: Tensor, grid: tuple[int, int] | None, *, alone: bool
) -> Spatial:
    """Return how the output of a named call lies on a grid: by its shape where that is certain, else by a search.

    Args:
        model: A module, or a callable that uses modules.
        x: Inputs, (B, *D).
        layer: Name of the call.
        output: Its output.
        grid: Grid given by the caller. None: not given.
        alone: True if its module was called once.
    """
    if output.ndim == 4 and grid is None and x.ndim == 4 and alone:
        module, shape, size = (
            named_modules_of(model)[layer.split("@")[0]],
            tuple(output.shape),
            (x.shape[2], x.shape[3]),
        )
        reading = Reading(Spatial(layer, own_grid(shape, Layout.CHANNELS_FIRST)))
        if isinstance(module, IMAGE_MODULES + ACTIVATIONS) and certain(module, reading, shape, size, set()):
            return reading.spatial
    return find_spatial(model, x[:1], layer=layer, grid=grid)


class _Search:
    """Readings of the calls of one forward pass.

    Args:
        model: The model, in eval mode.
        z: The sample, (1, *D).
        calls: Recorded calls, in order of execution.
        grid: Grid given by the caller. None: not given.

    Attributes:
        doubt: Reason, in one sentence, why a call that may lie on a grid was left out; empty if none was.
    """

    def __init__(self, model: Model, z: Tensor, calls: list[Call], grid: tuple[int, int] | None) -> None:
        self.model, self.z, self.calls, self.grid = model, z, _numbered(calls), grid
        self.modules = named_modules_of(model)
        self.size = (z.shape[2], z.shape[3]) if z.ndim == 4 else None
        sides = [sides_of(tuple(call.output.shape)) for call in calls if call.output.ndim == 3]
        self.counts = {n for both in sides for n in both}
        self.tokens = {tokens for tokens, _ in sides}
        self.probes = Probes(self._trace, z.detach())
        self.doubt = ""

    def find_named(self, layer: str) -> Spatial:
        """Return how the call named by the caller lies on a grid.

        Raises:
            BadInput: It lies on none, or the grid is in doubt.
        """
        last = [
            i for i, call in enumerate(self.calls) if layer in (call.layer, call.layer.split("@")[0], call.layer + "@1")
        ]
        if not last:  # a container is not recorded beside its last child, whose output it returns
            with recorded(self.model, layer) as own:
                self.model(self.z)
            last, self.calls = ([len(self.calls)], [*self.calls, own[-1]]) if own else ([], self.calls)
        place = self.place(last[-1]) if last else None
        if place is None or self.is_turned(last[-1], place):
            raise BadInput(
                self.doubt
                or f"layer {layer!r} has no grid: it is neither (B, C, h, w) nor tokens whose grid is known; give grid"
            )
        return place

    def place(self, i: int) -> Spatial | None:
        """Return how a call's output lies on a grid; None where it does not, or where that is in doubt."""
        call = self.calls[i]
        shape = tuple(call.output.shape)
        if not of_one_sample(shape) or not _depends(call.output, self.z):
            return None
        if len(shape) == 3:
            readings = token_readings(call.layer, shape, self._sources(i), self.grid)
        else:
            readings = grids_readings(call.layer, shape, self.grid)
            for reading in readings[:1]:
                if certain(self._module(call.layer), reading, shape, self.size, self.counts):
                    return reading.spatial
        return self._decide(readings, shape)

    def _decide(self, readings: list[Reading], shape: Shape) -> Spatial | None:
        """Return the one reading that agrees with shapes, probes and gradients; None where it is in doubt."""
        answers = [(reading, self.probes.agree(reading, shape)) for reading in readings]
        confirmed = [reading for reading, agrees in answers if agrees]
        left = confirmed or [reading for reading, agrees in answers if agrees is None]
        if len(shape) == 4:
            if confirmed:
                return confirmed[0].spatial
            fitting = [reading for reading in left if self.grid or fits(reading.spatial.grid, self.size)]
            if left and not fitting:
                return self._without_aspect(left[0].spatial)
            if not self.grid:  # attention matrices are as high and wide as there are tokens
                fitting = [reading for reading in fitting if not set(reading.spatial.grid) <= self.tokens]
                if left and not fitting:
                    self._doubt(left[0].spatial, "is as high and wide as there are tokens")
                    return None
            if len(fitting) == 1:
                return fitting[0].spatial
            left = fitting
        if not left:
            return None
        options = [reading.spatial for reading in left]
        if len(shape) == 3:  # other tokens may stand behind those of the patches, or on both sides
            options += [replace(option, skip=k) for option in options for k in range(option.skip)]
        return self._by_place(options, sure=len(shape) == 3 and (bool(confirmed) or len(left) == 1))

    def _without_aspect(self, spatial: Spatial) -> Spatial | None:
        """Return a reading whose grid has another aspect than the input if its layer is one of `IMAGE_MODULES`."""
        if spatial.layout is Layout.CHANNELS_FIRST and (
            self.size is None or isinstance(self._module(spatial.layer), IMAGE_MODULES)
        ):
            return spatial
        self._doubt(spatial, "has no axes that can be the height and width of the input")
        return None

    def _by_place(self, options: list[Spatial], *, sure: bool) -> Spatial | None:
        """Return the option whose cells depend most on their place in the input.

        Args:
            options: Possible readings, the likeliest first.
            sure: True: where the gradients are inconclusive, return the first option instead of None.
        """
        scores = [self._contrast_of(option) for option in options]
        known = [(score, -k) for k, score in enumerate(scores) if score is not None]
        if not known:
            if sure:
                return options[0]
            self._doubt(options[0], "may lie on a grid in several ways: " + ", ".join(
                f"{option.layout.value} with {option.grid[0]} x {option.grid[1]} cells" for option in options
            ))  # fmt: skip
            return None
        best, k = max(known)
        first = scores[0]
        if first is not None and first >= 0.8 * best:
            best, k = first, 0
        if best >= 1.5:  # about 20 for the right reading, about 1 for a wrong one
            return options[-k]
        self._doubt(options[0], "holds {} x {} cells that do not depend most on their own place in the input".format(
            *options[0].grid
        ))  # fmt: skip
        return None

    def _doubt(self, spatial: Spatial, what: str) -> None:
        """Record why a call was left out, unless an earlier reason is recorded."""
        self.doubt = self.doubt or (
            f"the output of layer {spatial.layer!r} {what}; name a layer whose output is a map (layer=), or "
            "the grid of its cells, row by row (grid=(h, w))"
        )

    def is_turned(self, i: int, spatial: Spatial) -> bool:
        """Return whether a later call of a module saw the image mirrored or rotated, as in test-time augmentation."""
        if "@" not in self.calls[i].layer:
            return False
        cells = probe_cells(spatial.grid)
        g = self._gradients_of(spatial, cells)
        own = None if g is None else contrast(spatial.grid, cells, g)
        if g is None or own is None:
            return False
        others = [contrast(grid, places, g) or 0.0 for grid, places in turned(cells, spatial.grid)]
        if max(others, default=0.0) < max(1.5, 1.25 * own):
            return False
        self._doubt(spatial, "is of the image mirrored or rotated")
        return True

    def _contrast_of(self, spatial: Spatial) -> float | None:
        """Return the `contrast` of a reading; None where it cannot be computed."""
        cells = probe_cells(spatial.grid)
        g = self._gradients_of(spatial, cells)
        return None if g is None else contrast(spatial.grid, cells, g)

    def _gradients_of(self, spatial: Spatial, cells: list[tuple[int, int]]) -> Tensor | None:
        """Return the gradients of cells with respect to the input, (K, C, H, W); None where they do not exist."""
        if self.size is None or len(cells) < 2:
            return None
        z = self.z.detach().repeat(len(cells), 1, 1, 1).requires_grad_()
        try:
            with torch.random.fork_rng(devices=[]), recorded(self.model, spatial.layer) as calls:
                self.model(z)
            maps = spatial.maps(output_of(calls, spatial.layer, len(z)))
            weight = torch.randn(maps.shape[1], generator=torch.Generator().manual_seed(0)).to(maps)
            at = torch.stack([maps[k, :, i, j] for k, (i, j) in enumerate(cells)])
            (g,) = torch.autograd.grad((at * weight).sum(), z)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return None
        return g

    def _sources(self, i: int) -> list[tuple[str, Layout, tuple[int, int]]]:
        """Return name, layout and grid of the calls before call i that lie on a grid."""
        grids = []
        for call in self.calls[:i]:
            shape = tuple(call.output.shape)
            if len(shape) != 4 or shape[0] != 1:
                continue
            first = isinstance(self._module(call.layer), IMAGE_MODULES)
            for layout in (Layout.CHANNELS_FIRST,) if first else (Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST):
                sides = own_grid(shape, layout)
                if min(sides) >= 2 and (first or (fits(sides, self.size) and not self.counts & set(sides))):
                    grids.append((call.layer, layout, sides))
        return grids

    def _module(self, layer: str) -> nn.Module | None:
        return self.modules.get(layer.split("@")[0])

    def _trace(self, x: Tensor) -> dict[str, Shape]:
        """Return the output shapes of all calls, by name, until the model is done or fails."""
        calls: list[Call] = []
        try:
            with recorded(self.model) as calls:
                self.model(x)
        except Exception:  # networks raise various errors for sizes that they do not support
            pass
        return {call.layer: tuple(call.output.shape) for call in calls}


def _numbered(calls: list[Call]) -> list[Call]:
    """Return the calls, the first one of a module that was called again as name@1; its bare name means the last one."""
    again = {call.layer.split("@")[0] for call in calls if "@" in call.layer}
    return [replace(call, layer=f"{call.layer}@1") if call.layer in again else call for call in calls]


def _depends(output: Tensor, leaf: Tensor) -> bool:
    """Return whether autograd knows an output as computed from a leaf; position biases are not."""
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
    return False
