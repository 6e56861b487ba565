"""Layouts of recorded outputs: which axes are height and width, and how a grid of cells is read from them.

    channels first (B, C, h, w)    channels last (B, h, w, C)
    tokens (B, T, C)               tokens last (B, C, T)         tokens before the batch (T, B, C)

A reading has to agree with everything that is known, in this order:

    shapes    the grid has the aspect of the input; a side is not a number of tokens (attention matrices)
    batch     the axis of the samples follows the size of the batch (position biases do not)
    size      a taller input changes only the axis of the height, a wider one only that of the width; either changes T
    place     the gradient of a cell lies at the cell's place in the input rather than at the places of other cells

For batch and size the network is run again on other inputs. It may fail on them; the layers before the failure still
count. The place is examined where shapes and sizes leave several readings, and for tokens, whose order the shapes do
not show.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Grid = tuple[int, int]


class Layout(Enum):
    """Order of the axes of an output."""

    CHANNELS_FIRST = "(B, C, h, w)"
    CHANNELS_LAST = "(B, h, w, C)"
    TOKENS = "(B, T, C)"
    TOKENS_LAST = "(B, C, T)"
    TOKENS_FIRST = "(T, B, C)"

    @property
    def batch_axis(self) -> int:
        """Axis of the samples."""
        return 1 if self is Layout.TOKENS_FIRST else 0

    @property
    def token_axis(self) -> int:
        """Axis of the tokens."""
        return {Layout.TOKENS: 1, Layout.TOKENS_LAST: 2, Layout.TOKENS_FIRST: 0}[self]


@dataclass(frozen=True)
class Spatial:
    """A call whose output lies on a grid.

    Attributes:
        layer: Name of the call.
        grid: Height and width in cells.
        layout: Order of the axes.
        skip: Number of tokens that stand before those of the patches.
    """

    layer: str
    grid: Grid
    layout: Layout = Layout.CHANNELS_FIRST
    skip: int = 0

    @property
    def tokens(self) -> bool:
        """True if the cells are tokens in a row."""
        return self.layout in (Layout.TOKENS, Layout.TOKENS_LAST, Layout.TOKENS_FIRST)

    def maps(self, output: Tensor) -> Tensor:
        """Return the call's output as (B, C, h, w), without tokens that are not patches."""
        if self.layout is Layout.CHANNELS_FIRST:
            return output
        if self.layout is Layout.CHANNELS_LAST:
            return output.permute(0, 3, 1, 2)
        rows = output.movedim((self.layout.batch_axis, self.layout.token_axis), (0, 2))
        h, w = self.grid
        return rows[:, :, self.skip : self.skip + h * w].unflatten(2, (h, w))


@dataclass(frozen=True)
class Reading:
    """A possible reading of an output.

    Attributes:
        spatial: Call, grid and layout.
        source: Call and layout that the grid of tokens was read from. None: the output's own, or given by the caller.
        halvings: Number of times that grid was halved (patch merging).
    """

    spatial: Spatial
    source: tuple[str, Layout] | None = None
    halvings: int = 0


MAX_PREFIX_TOKENS = 16  # largest number of tokens that are not patches
IMAGE_MODULES = (
    nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d, nn.InstanceNorm2d, nn.Upsample, nn.PixelShuffle,
)  # fmt: skip
"""Modules whose input and output are (B, C, h, w) by definition."""

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Softplus, nn.Hardswish)
"""Modules whose outputs are never attention matrices or position biases."""


def own_grid(shape: Shape, layout: Layout) -> Grid:
    """Return the sides that a four-dimensional output has in a layout."""
    return (shape[2], shape[3]) if layout is Layout.CHANNELS_FIRST else (shape[1], shape[2])


def fits(grid: Grid, size: Grid | None) -> bool:
    """Return whether a grid can be that of an input: the same aspect, up to rounding and cropped borders.

    Inputs that are not images (`size` None) have no aspect; only square grids fit them.
    """
    (h, w), (height, width) = grid, size or (grid[0], grid[0])
    if min(h, w) < 2 or h > 2 * height or w > 2 * width:
        return False
    if height < width:
        h, w, height, width = w, h, width, height
    if height == width:
        return h == w
    return h >= w and h - w <= height - width + 1 and (h + 1) * width >= (w - 1) * height


def halved(grid: Grid, times: int) -> Grid:
    """Return a grid after its patches were merged two by two, `times` times."""
    for _ in range(times):
        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
    return grid


def grids_readings(layer: str, shape: Shape, grid: Grid | None) -> list[Reading]:
    """Return the readings of a four-dimensional output, channels first before channels last."""
    layouts = (Layout.CHANNELS_FIRST, Layout.CHANNELS_LAST)
    every = [Spatial(layer, own_grid(shape, layout), layout) for layout in layouts]
    return [Reading(spatial) for spatial in every if min(spatial.grid) >= 2 and grid in (None, spatial.grid)]


def token_readings(
    layer: str, shape: Shape, sources: list[tuple[str, Layout, Grid]], grid: Grid | None
) -> list[Reading]:
    """Return the readings of a three-dimensional output as tokens, those with the fewest other tokens first.

    Args:
        layer: Name of the call.
        shape: Shape of its output.
        sources: Earlier calls on a grid: name, layout and grid, in order of execution.
        grid: Grid given by the caller. None: the grids of the sources, or these halved.
    """
    known: list[tuple[Grid, tuple[str, Layout] | None, int]] = [(grid, None, 0)] if grid else []
    if not grid:
        for name, layout, sides in reversed(sources):
            known += [(halved(sides, k), (name, layout), k) for k in range(5) if min(halved(sides, k)) >= 2]
    readings: dict[tuple[Layout, Grid], Reading] = {}
    layouts = [Layout.TOKENS, Layout.TOKENS_LAST] if shape[0] == 1 else []
    layouts += [Layout.TOKENS_FIRST] if shape[1] == 1 else []
    for layout in layouts:
        count = shape[layout.token_axis]
        for sides, source, k in known:
            other = count - sides[0] * sides[1]
            if 0 <= other <= (0 if k else MAX_PREFIX_TOKENS):
                readings.setdefault((layout, sides), Reading(Spatial(layer, sides, layout, skip=other), source, k))
    return sorted(
        readings.values(),
        key=lambda reading: (reading.spatial.skip > 0, reading.spatial.layout is not Layout.TOKENS),
    )


def of_one_sample(shape: Shape) -> bool:
    """Return whether an output can be that of one sample: (1, ...), or tokens before the batch, (T, 1, C)."""
    return shape[0] == 1 or (len(shape) == 3 and shape[1] == 1)


def sides_of(shape: Shape) -> tuple[int, int]:
    """Return the numbers of tokens and channels of a three-dimensional output of one sample."""
    return (shape[1], shape[2]) if shape[0] == 1 else (shape[0], shape[2])


def certain(module: nn.Module | None, reading: Reading, shape: Shape, size: Grid | None, counts: set[int]) -> bool:
    """Return whether an output is certainly channels first, by its shape and the type of its module.

    Args:
        module: Module that returned the output. None: unknown.
        reading: Reading to judge.
        shape: Shape of the output.
        size: Height and width of the input. None: it is not an image.
        counts: Numbers of tokens and channels of the three-dimensional outputs.
    """
    if reading.spatial.layout is not Layout.CHANNELS_FIRST:
        return False
    if isinstance(module, IMAGE_MODULES):
        return True
    channels, *sides = shape[1:]
    others = [grid for side in sides for grid in ((channels, side), (side, channels))]
    first = own_grid(shape, Layout.CHANNELS_FIRST)
    return fits(first, size) and not (any(fits(other, size) for other in others) or counts & set(first))


class Probes:
    """Shapes of a network's outputs for two samples, for a taller and for a wider input; each is computed once.

    Args:
        trace: Function `(x) -> {call: shape}` of the calls until the network was done or failed.
        x: One sample, (1, *D).
    """

    def __init__(self, trace: Callable[[Tensor], dict[str, Shape]], x: Tensor) -> None:
        self.trace, self.x = trace, x
        self._shapes: dict[str, dict[str, Shape]] = {}

    def shape(self, which: str, layer: str) -> Shape | None:
        """Return the shape of a call's output in a probe: "batch", "tall" or "wide"; None where it was not reached."""
        if which not in self._shapes:
            self._shapes[which] = self._probe(which)
        return self._shapes[which].get(layer.removesuffix("@1"))

    def _probe(self, which: str) -> dict[str, Shape]:
        """Run the network on the input of a probe, and return the shapes of its calls."""
        if which != "batch" and self.x.ndim != 4:
            return {}
        times = {"batch": (2, 1, 1, 1), "tall": (1, 1, 2, 1), "wide": (1, 1, 1, 2)}[which]
        z = torch.cat([self.x, self.x]) if which == "batch" else self.x.repeat(times)
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.trace(z)

    def agree(self, reading: Reading, shape: Shape) -> bool | None:
        """Return whether a reading agrees with the probes; None where they are inconclusive."""
        spatial = reading.spatial
        batch = self.shape("batch", spatial.layer)
        if batch is not None and batch[spatial.layout.batch_axis] != 2:
            return False
        answers = [self._follows(reading, shape, which) for which in ("tall", "wide")]
        if False in answers:
            return False
        enough = any if spatial.tokens else all  # one of two axes does not show which one the other is
        return True if enough(answers) else None

    def _follows(self, reading: Reading, shape: Shape, which: str) -> bool | None:
        """Return whether an output follows the input's height ("tall") or width ("wide"); None: this is unknown."""
        spatial, probed = reading.spatial, self.shape(which, reading.spatial.layer)
        if probed is None or len(probed) != len(shape):
            return None
        changed = {d for d in range(len(shape)) if probed[d] != shape[d]}
        if not spatial.tokens:
            at = (2 if spatial.layout is Layout.CHANNELS_FIRST else 1) + (which == "wide")
            return changed == {at} if changed else None
        at = spatial.layout.token_axis
        source_shape = self.shape(which, reading.source[0]) if reading.source else None
        if reading.source is None or source_shape is None:
            return changed == {at} if changed else None
        h, w = halved(own_grid(source_shape, reading.source[1]), reading.halvings)
        if (h, w) == spatial.grid and not changed:
            return None
        return changed == {at} and probed[at] == h * w + spatial.skip


def contrast(grid: Grid, cells: list[tuple[int, int]], g: Tensor) -> float | None:
    """Return how much more the gradient of a cell lies at its own place than at those of other cells.

    Args:
        grid: Height and width in cells.
        cells: Row and column of K cells.
        g: Gradients of these cells with respect to the input, (K, C, H, W).

    Returns:
        Gradient at the cell's place over that at the places of the other cells, both relative to the mean gradient of
        all cells there, of the cell at the lower quartile, since some cells are at their place in any order; 1 is
        chance. None: the gradients are alike at every place, or vanish.
    """
    size = g.abs().sum(1)
    common = size.mean(0)
    if not bool((size.flatten(1).sum(1) > 0).all()):
        return None
    (h, w), (height, width) = grid, common.shape

    def mean_in_cell(of: Tensor, i: int, j: int) -> float:
        rows = slice(i * height // h, max(i * height // h + 1, (i + 1) * height // h))
        columns = slice(j * width // w, max(j * width // w + 1, (j + 1) * width // w))
        return float(of[rows, columns].mean())

    total = size.flatten(1).mean(1)
    scaled = size / total[:, None, None]
    average = scaled.mean(0)
    ratio = torch.tensor(
        [[mean_in_cell(one, *cell) / max(mean_in_cell(average, *cell), 1e-12) for cell in cells] for one in scaled]
    )
    at_own = ratio.diagonal()
    at_others = (ratio.sum(1) - at_own) / (len(cells) - 1)
    at_best = (scaled / average.clamp_min(1e-12)).flatten(1).amax(1)
    if float(at_own.median()) < 1.2 and float(at_best.median()) < 2:
        return None
    return float(((at_own + 0.05) / (at_others + 0.05)).sort().values[len(cells) // 4])


def probe_cells(grid: Grid) -> list[tuple[int, int]]:
    """Return up to five cells that are far apart, not symmetric to one another, in even and in odd rows."""
    h, w = grid
    places = ((0.1, 0.3), (0.3, 0.9), (0.45, 0.05), (0.65, 0.6), (0.95, 0.95))
    return list(dict.fromkeys((min(int(a * h), h - 1), min(int(b * w), w - 1)) for a, b in places))


def turned(cells: list[tuple[int, int]], grid: Grid) -> list[tuple[Grid, list[tuple[int, int]]]]:
    """Return the grid and the places of cells in an image that was mirrored or rotated, in all seven ways."""
    h, w = grid
    ways = [
        [((h - 1 - i) if up else i, (w - 1 - j) if left else j) for i, j in cells] for up in (0, 1) for left in (0, 1)
    ]
    return [(grid, way) for way in ways[1:]] + [((w, h), [(j, i) for i, j in way]) for way in ways]
