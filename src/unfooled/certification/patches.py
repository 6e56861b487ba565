"""Bounds of single entries behind convolutions: only what an entry sees of the nodes before it is computed.

An entry of a convolution's result is a function of a small window of its argument; taken back through activations and
further convolutions the window grows. Where it covers most of a node, its coefficients are spread over the whole node.

    coefficients  (S, R, h, w, C)   signs 1 and -1, rows, window, channels      corner  (R, 2), may lie outside the node
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.certification.ibp import gamma
from unfooled.certification.nodes import Bounds
from unfooled.certification.operations import FEW, Convolution, Scale
from unfooled.certification.relaxation import Lines

BYTES = 2**22  # memory for the coefficients of one part: what stays in the cache of a processor
LARGEST = 0.5  # share of a node that a window may cover


@dataclass(frozen=True, eq=False)
class Patch:
    """Linear functions of windows of a node, for both signs of each row.

    Attributes:
        node: Position of the node.
        a: Coefficients, (S, R, h, w, C); 0 outside the node.
        corner: Row and column of the first entry, (R, 2).
        total: Constants, (S, R).
        owner: Sample of each row, (R,).
        cuts: Windows of values that were cut before, by their name; the windows of a node do not change.
    """

    node: int
    a: Tensor
    corner: Tensor
    total: Tensor
    owner: Tensor
    cuts: dict[str, Tensor] = field(default_factory=dict)

    def places(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return flat positions in a node's plane, (R, h w), outside ones moved to its border, and which are inside."""
        rows, columns = (
            self.corner[:, k, None] + torch.arange(self.a.shape[2 + k], device=self.a.device) for k in (0, 1)
        )
        inside = ((rows >= 0) & (rows < shape[1]))[:, :, None] & ((columns >= 0) & (columns < shape[2]))[:, None]
        rows, columns = rows.clamp(0, shape[1] - 1), columns.clamp(0, shape[2] - 1)
        return (rows[:, :, None] * shape[2] + columns[:, None]).flatten(1), inside.flatten(1)

    def cut(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return the windows of a node's values, (B, C, H, W) or (1, C, H, W) -> (R, h, w, C); computed once a name."""
        name = f"{name} of {self.node}"
        if name not in self.cuts:
            self.cuts[name] = self._windows(compute())
        return self.cuts[name]

    def _windows(self, values: Tensor) -> Tensor:
        _, channels, height, width = values.shape
        table = values.flatten(2).transpose(1, 2).reshape(-1, channels)
        at = self.places((channels, height, width))[0]
        if len(values) > 1:
            at = at + (self.owner * (height * width))[:, None]
        return table[at.flatten()].reshape(*self.a.shape[1:4], channels)

    def dense(self, shape: tuple[int, ...]) -> Tensor:
        """Return the coefficients of the whole node, (S, R, *shape)."""
        signs, rows = self.a.shape[:2]
        channels, height, width = shape
        at = self.places(shape)[0][None, :, :, None].expand(signs, rows, -1, channels)
        whole = self.a.new_zeros(signs, rows, height * width, channels)
        whole = whole.scatter_add(2, at, self.a.flatten(2, 3))
        return whole.transpose(2, 3).reshape(signs, rows, *shape)


def sees_windows(bounds: Bounds, i: int) -> bool:
    """Return whether entries of a node are functions of windows of the node before it."""
    node = bounds.network.nodes[i]
    if not _is_plain(node.operation):
        return False
    before = bounds.network.nodes[node.inputs[0]].shape
    return math.prod(node.operation.weight.shape[2:]) <= LARGEST * math.prod(before[1:])


def _is_plain(operation: object) -> TypeGuard[Convolution]:
    """Return whether an operation is a convolution of two dimensions whose windows have no gaps."""
    if not isinstance(operation, Convolution) or operation.weight.ndim != 4:
        return False
    _, _, dilation, transposed, _, groups = operation.options
    return not transposed and groups == 1 and set(dilation) == {1}


def rows_at_once(bounds: Bounds, i: int) -> int:
    """Return how many entries of a node are bounded at once."""
    operation = bounds.network.nodes[i].operation
    assert isinstance(operation, Convolution)
    weight = operation.weight
    return max(16, BYTES // (2 * weight[0].numel() * weight.element_size()))


def taken_back(patch: Patch, bounds: Bounds, slopes: Mapping[int, Tensor] | None = None) -> Patch:
    """Take functions of windows back as far as they are functions of windows.

    Args:
        patch: Functions of the argument of a convolution; see `entries`.
        bounds: Bounds of the nodes.
        slopes: Lower slopes of ReLUs by position, (S, R, h, w, C). None, or a position is missing: the default ones.
    """
    while (before := stepped(patch, bounds, slopes)) is not None:
        patch = before
    return patch


def stepped(patch: Patch, bounds: Bounds, slopes: Mapping[int, Tensor] | None = None) -> Patch | None:
    """Take functions of windows back by one node; None where they are no functions of windows before it."""
    node = bounds.network.nodes[patch.node]
    if not node.inputs or math.prod(patch.a.shape[2:4]) > LARGEST * math.prod(node.shape[1:]):
        return None
    if node.curved and isinstance(line := bounds.lines(patch.node), Lines):
        return _through_lines(bounds, patch, line, (slopes or {}).get(patch.node))
    if isinstance(node.operation, Scale):
        return _through_scale(bounds, patch, node.operation)
    return _through_convolution(bounds, patch, node.operation) if _is_plain(node.operation) else None


def entries(bounds: Bounds, i: int, owner: Tensor, place: Tensor) -> Patch:
    """Return entries of a node, and their negatives, as functions of windows of the node before it.

    Args:
        bounds: Bounds of the nodes.
        i: Position of the node, a convolution that `sees_windows`.
        owner: Sample of each entry, (R,).
        place: Flat position of each entry in its sample, (R,).

    Returns:
        Functions that are below the entries (sign 1) and below their negatives (sign -1).
    """
    node = bounds.network.nodes[i]
    operation, (_, height, width) = node.operation, node.shape
    assert isinstance(operation, Convolution)
    stride, padding = operation.options[:2]
    channel, rest = place // (height * width), place % (height * width)
    position = torch.stack([rest // width, rest % width], 1)
    corner = position * torch.tensor(stride, device=place.device) - torch.tensor(padding, device=place.device)
    a = operation.weight.permute(0, 2, 3, 1)[channel]
    shift = bounds.network.shift(i).flatten()[place]
    patch = Patch(node.inputs[0], torch.stack([a, -a]), corner, torch.stack([shift, -shift]), owner)
    patch = _inside(bounds, patch)
    return _with_slack(bounds, patch, i, patch.a.abs(), shift.abs())


def _inside(bounds: Bounds, patch: Patch) -> Patch:
    """Return the functions with coefficients of 0 outside their node."""
    name = f"inside of {patch.node}"
    if name not in patch.cuts:
        inside = patch.places(bounds.network.nodes[patch.node].shape)[1].reshape(*patch.a.shape[1:4], 1)
        patch.cuts[name] = inside.to(patch.a)
    return replace(patch, a=patch.a * patch.cuts[name])


def _with_slack(bounds: Bounds, patch: Patch, i: int, sizes: Tensor, shifts: Tensor | float) -> Patch:
    """Return the functions after an affine node lowered by its rounding errors; `sizes` are |W|^T |a|."""
    if not bounds.unit:
        return patch
    network = bounds.network
    size = (sizes * patch.cut("reach", lambda: bounds.reach(patch.node))).flatten(2).sum(2) + shifts
    count = math.prod(network.nodes[patch.node].shape) + math.prod(network.nodes[i].shape)
    return replace(patch, total=patch.total - gamma(count, bounds.unit) * 3 * size)


def _through_lines(bounds: Bounds, patch: Patch, line: Lines, slopes: Tensor | None) -> Patch:
    """Return the functions before an activation."""
    before = bounds.network.nodes[patch.node].inputs[0]
    low, high, shift = patch.cut(
        "lines", lambda: torch.cat([line.low_slope, line.high_slope, line.high_shift], 1)
    ).chunk(3, 3)  # fmt: skip
    constant = (patch.a.clamp(max=0) * shift).flatten(2).sum(2)
    if line.free is None:
        constant = constant + (patch.a.clamp(min=0) * patch.cut("low", lambda: line.low_shift)).flatten(2).sum(2)
    elif slopes is not None:
        free = line.free
        low = torch.where(patch.cut("free", lambda: free), slopes.clamp(line.least, 1.0), low)
    if bounds.unit:
        steepest = 0.0 if slopes is None else 1.0
        size = patch.cut(f"size {steepest}", lambda: _sizes(line, bounds.reach(before), steepest))
        count = 2 * math.prod(bounds.network.nodes[patch.node].shape)
        constant = constant - gamma(count, bounds.unit) * (patch.a.abs() * size).flatten(2).sum(2)
    return replace(patch, node=before, a=patch.a * torch.where(patch.a > 0, low, high), total=patch.total + constant)


def _sizes(line: Lines, reach: Tensor, steepest: float) -> Tensor:
    """Return the sizes of the terms of lines with lower slopes up to `steepest`."""
    size = (line.low_slope.abs().clamp_min(steepest) + line.high_slope.abs()) * reach
    return size + line.low_shift.abs() + line.high_shift.abs()


def default_slopes(bounds: Bounds, patch: Patch) -> Tensor | None:
    """Return the lower slopes in windows of an activation, (R, h, w, C); None if they are not free."""
    line = bounds.lines(patch.node) if bounds.network.nodes[patch.node].curved else None
    return None if not isinstance(line, Lines) or line.free is None else patch.cut("slopes", lambda: line.low_slope)


def _through_scale(bounds: Bounds, patch: Patch, operation: Scale) -> Patch:
    """Return the functions before a scale and a shift."""
    i, node = patch.node, bounds.network.nodes[patch.node]
    shift = patch.cut("shift", lambda: bounds.network.shift(i).expand(1, *node.shape))
    total, a = patch.total + (patch.a * shift).flatten(2).sum(2), patch.a
    if (factor := operation.factor) is not None:
        a = a * patch.cut("factor", lambda: factor.expand(1, *node.shape))
    shifts = (patch.a * shift).abs().flatten(2).sum(2) if bounds.unit else 0.0
    return _with_slack(bounds, replace(patch, node=node.inputs[0], a=a, total=total), i, a.abs(), shifts)


def _through_convolution(bounds: Bounds, patch: Patch, operation: Convolution) -> Patch:
    """Return the functions before a convolution."""
    i, node = patch.node, bounds.network.nodes[patch.node]
    stride, padding = (torch.tensor(option, device=patch.a.device) for option in operation.options[:2])
    sums, total = patch.a.flatten(2, 3).sum(2), patch.total
    shifts: Tensor | float = 0.0
    if operation.bias is not None:
        total = total + sums @ operation.bias
        shifts = patch.a.abs().flatten(2, 3).sum(2) @ operation.bias.abs() if bounds.unit else 0.0
    wide = replace(
        patch, node=node.inputs[0], a=_spread(patch.a, operation.weight, operation.options[0]),
        corner=patch.corner * stride - padding, total=total,
    )  # fmt: skip
    sizes = _spread(patch.a.abs(), operation.weight.abs(), operation.options[0]) if bounds.unit else wide.a
    wide = _inside(bounds, wide)
    return _with_slack(bounds, wide, i, _inside(bounds, replace(wide, a=sizes)).a if bounds.unit else sizes, shifts)


def _spread(a: Tensor, weight: Tensor, stride: list[int]) -> Tensor:
    """Return W^T a for windows, (S, R, h, w, C) -> (S, R, h', w', C')."""
    images = a.flatten(0, 1)
    if weight.shape[1] <= FEW:
        sides = [(n - 1) * s + k for n, s, k in zip(a.shape[2:4], stride, weight.shape[2:], strict=True)]
        blocks = (images.flatten(1, 2) @ weight.flatten(1)).transpose(1, 2)
        back = F.fold(blocks, (sides[0], sides[1]), tuple(weight.shape[2:]), stride=tuple(stride))
    else:
        back = F.conv_transpose2d(images.permute(0, 3, 1, 2), weight, stride=list(stride))
    return back.permute(0, 2, 3, 1).unflatten(0, a.shape[:2])


def least(bounds: Bounds, patch: Patch) -> Tensor:
    """Return the smallest values of functions of windows of the input over regions of the infinity norm, (S, R)."""
    region = bounds.region
    low, high = patch.cut("low", lambda: region.low), patch.cut("high", lambda: region.high)
    value = (patch.a * torch.where(patch.a > 0, low, high)).flatten(2).sum(2)
    if bounds.unit:
        size = (patch.a.abs() * patch.cut("reach", lambda: bounds.reach(0))).flatten(2).sum(2)
        value = value - gamma(math.prod(region.x.shape[1:]), bounds.unit) * 2 * size
    return patch.total + value
