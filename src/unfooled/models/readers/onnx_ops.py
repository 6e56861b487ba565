"""Operations of ONNX as functions of torch, differentiable; those that image classifiers are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class NotConvertible(Exception):
    """Sign that an operation, or a way of using one, has no function here."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a graph.

    Attributes:
        kind: Name of the operation.
        inputs: Names of its inputs; empty names are inputs that are left out.
        outputs: Names of its outputs.
        attributes: Its settings; arrays are tensors.
        opset: Version of the operations.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 13

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting."""
        return self.attributes.get(name, default)


Operation = Callable[..., Any]
DTYPES: dict[int, torch.dtype] = {
    1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64,
}  # fmt: skip
"""Number of a type in ONNX -> dtype; a cast to another one is not converted."""
OPERATIONS: dict[str, Operation] = {
    "Abs": lambda n, x: x.abs(),
    "Add": lambda n, a, b: a + b,
    "Cast": lambda n, x: x.to(DTYPES[n.get("to")]),
    "Concat": lambda n, *xs: torch.cat(xs, n.get("axis", 0)),
    "Div": lambda n, a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc"),
    "Dropout": lambda n, x, *_: x,
    "Elu": lambda n, x: F.elu(x, n.get("alpha", 1.0)),
    "Erf": lambda n, x: torch.erf(x),
    "Exp": lambda n, x: x.exp(),
    "Flatten": lambda n, x: _flattened(x, n.get("axis", 1)),
    "Gather": lambda n, x, i: _gather(x, i, n.get("axis", 0)),
    "Gelu": lambda n, x: F.gelu(x, approximate=_text(n.get("approximate", "none"))),
    "GlobalAveragePool": lambda n, x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda n, x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": lambda n, x: (n.get("alpha", 0.2) * x + n.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda n, x: F.hardswish(x),
    "Identity": lambda n, x: x,
    "LeakyRelu": lambda n, x: F.leaky_relu(x, n.get("alpha", 0.01)),
    "Log": lambda n, x: x.log(),
    "LogSoftmax": lambda n, x: _softmax(n, x).log() if _coerced(n, x) else x.log_softmax(n.get("axis", -1)),
    "MatMul": lambda n, a, b: a @ b,
    "Max": lambda n, *xs: _folded(torch.maximum, xs),
    "Min": lambda n, *xs: _folded(torch.minimum, xs),
    "Mul": lambda n, a, b: a * b,
    "Neg": lambda n, x: -x,
    "PRelu": lambda n, x, slope: torch.where(x < 0, slope * x, x),
    "Pow": lambda n, a, b: a**b,
    "Reciprocal": lambda n, x: 1 / x,
    "Relu": lambda n, x: x.relu(),
    "Selu": lambda n, x: F.selu(x),
    "Shape": lambda n, x: torch.tensor(x.shape[n.get("start", 0) : n.get("end", x.ndim)], device=x.device),
    "Sigmoid": lambda n, x: x.sigmoid(),
    "Softplus": lambda n, x: F.softplus(x),
    "Sqrt": lambda n, x: x.sqrt(),
    "Sub": lambda n, a, b: a - b,
    "Sum": lambda n, *xs: _folded(torch.add, xs),
    "Tanh": lambda n, x: x.tanh(),
    "Transpose": lambda n, x: x.permute(n.get("perm", list(range(x.ndim))[::-1])),
    "Where": lambda n, c, a, b: torch.where(c, a, b),
}
"""Name -> function of the node and its inputs."""


def operation(name: str) -> Callable[[Operation], Operation]:
    """Return a decorator that adds an operation to the table."""

    def add(function: Operation) -> Operation:
        OPERATIONS[name] = function
        return function

    return add


@operation("Conv")
def conv(n: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve in one, two or three dimensions."""
    d = x.ndim - 2
    strides, dilations = n.get("strides", [1] * d), n.get("dilations", [1] * d)
    x = F.pad(x, _pads(n, x.shape[2:], weight.shape[2:], strides, dilations))
    return _of_dimension(d, F.conv1d, F.conv2d, F.conv3d)(
        x, weight, bias, stride=strides, dilation=dilations, groups=n.get("group", 1)
    )


@operation("MaxPool")
def max_pool(n: Node, x: Tensor) -> Tensor:
    """Take the maximum of windows."""
    d, kernel = x.ndim - 2, n.get("kernel_shape")
    strides, dilations = n.get("strides", [1] * d), n.get("dilations", [1] * d)
    if len(n.outputs) > 1:
        raise NotConvertible("MaxPool with indices")
    x = F.pad(x, _pads(n, x.shape[2:], kernel, strides, dilations), value=-torch.inf)
    pool = _of_dimension(d, F.max_pool1d, F.max_pool2d, F.max_pool3d)
    pooled: Tensor = pool(x, kernel, strides, 0, dilations, ceil_mode=bool(n.get("ceil_mode", 0)))
    return pooled


@operation("AveragePool")
def average_pool(n: Node, x: Tensor) -> Tensor:
    """Take the mean of windows; padding counts if the node says so."""
    d, kernel = x.ndim - 2, n.get("kernel_shape")
    strides = n.get("strides", [1] * d)
    if n.get("dilations", [1] * d) != [1] * d:
        raise NotConvertible("AveragePool with dilations")
    pads, ceil = _pads(n, x.shape[2:], kernel, strides, [1] * d), bool(n.get("ceil_mode", 0))
    pool = _of_dimension(d, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    total: Tensor = pool(F.pad(x, pads), kernel, strides, ceil_mode=ceil)
    if n.get("count_include_pad", 0) or not any(pads):
        return total
    ones = F.pad(torch.ones_like(x[:1, :1]), pads)
    return total / pool(ones, kernel, strides, ceil_mode=ceil)


@operation("BatchNormalization")
def batch_norm(n: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """Normalise by stored statistics."""
    if n.get("training_mode", 0):
        raise NotConvertible("BatchNormalization in training mode; export the network after model.eval()")
    return F.batch_norm(x, mean, var, scale, bias, eps=n.get("epsilon", 1e-5))


@operation("LayerNormalization")
def layer_norm(n: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Normalise over the last dimensions."""
    shape = x.shape[n.get("axis", -1) :] if n.get("axis", -1) < 0 else x.shape[n.get("axis") :]
    return F.layer_norm(
        x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), n.get("epsilon", 1e-5)
    )


@operation("InstanceNormalization")
def instance_norm(n: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise each channel of each sample."""
    return F.instance_norm(x, weight=scale, bias=bias, eps=n.get("epsilon", 1e-5))


@operation("Gemm")
def gemm(n: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """Multiply matrices, transposed and scaled, and add a third."""
    product = n.get("alpha", 1.0) * ((a.T if n.get("transA", 0) else a) @ (b.T if n.get("transB", 0) else b))
    return product if c is None else product + n.get("beta", 1.0) * c


@operation("Reshape")
def reshape(n: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Change the shape; 0 leaves a side as it is."""
    sides = [int(side) for side in shape]
    if not n.get("allowzero", 0):
        sides = [x.shape[i] if side == 0 else side for i, side in enumerate(sides)]
    return x.reshape(sides)


@operation("Squeeze")
def squeeze(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Remove sides of length one."""
    chosen = _axes(n, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@operation("Unsqueeze")
def unsqueeze(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Add sides of length one."""
    chosen = _axes(n, axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = x.unsqueeze(axis)
    return x


@operation("Clip")
def clip(n: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Limit values."""
    low, high = (n.get(name) if given is None else given for name, given in (("min", low), ("max", high)))
    x = x if low is None else torch.clamp(x, min=low)
    return x if high is None else torch.clamp(x, max=high)


@operation("Pad")
def pad(
    n: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Pad with a constant, or by reflection or repetition."""
    sides = [int(side) for side in (n.get("pads") if pads is None else pads)]
    if axes is not None:
        raise NotConvertible("Pad of chosen axes")
    pairs = list(zip(sides[: len(sides) // 2], sides[len(sides) // 2 :], strict=True))
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(_text(n.get("mode", "constant")))
    if mode is None:
        raise NotConvertible("Pad that wraps")
    if mode != "constant":  # torch pads the last sides alone
        while pairs and pairs[0] == (0, 0) and len(pairs) > x.ndim - 2:
            pairs = pairs[1:]
    flat = [side for pair in reversed(pairs) for side in pair]
    if mode != "constant":
        return F.pad(x, flat, mode=mode)
    return F.pad(x, flat, value=float(n.get("value", 0.0) if value is None else value))


@operation("Slice")
def slice_(n: Node, x: Tensor, *given: Tensor) -> Tensor:
    """Take a part along some axes."""
    starts, ends = given[:2] if given else (n.get("starts"), n.get("ends"))
    axes = given[2] if len(given) > 2 and given[2] is not None else n.get("axes", range(len(starts)))
    steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if int(step) < 1:
            raise NotConvertible("Slice backwards")
        place = [slice(None)] * x.ndim
        place[int(axis)] = slice(int(start), int(end), int(step))
        x = x[tuple(place)]
    return x


@operation("Split")
def split(n: Node, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    """Split along an axis."""
    given, axis = n.get("split") if sizes is None else [int(size) for size in sizes], n.get("axis", 0)
    if given is None:
        return tuple(x.split(-(-x.shape[axis] // len(n.outputs)), axis))
    return tuple(x.split(given, axis))


@operation("Expand")
def expand(n: Node, x: Tensor, shape: Tensor) -> Tensor:
    """Repeat along sides of length one."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(int(side) for side in shape)))


@operation("ReduceMean")
def reduce_mean(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Take the mean over axes."""
    return _reduced(torch.mean, n, x, axes)


@operation("ReduceSum")
def reduce_sum(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Take the sum over axes."""
    return _reduced(torch.sum, n, x, axes)


@operation("ReduceMax")
def reduce_max(n: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Take the maximum over axes."""
    return _reduced(torch.amax, n, x, axes)


def _reduced(function: Callable[..., Tensor], n: Node, x: Tensor, axes: Tensor | None) -> Tensor:
    chosen = _axes(n, axes)
    if not chosen:
        if n.get("noop_with_empty_axes", 0):
            return x
        chosen = list(range(x.ndim))
    return function(x, dim=tuple(chosen), keepdim=bool(n.get("keepdims", 1)))


def _axes(n: Node, axes: Tensor | None) -> list[int] | None:
    """Return the axes of a node, which later versions take as an input."""
    given = n.get("axes") if axes is None else axes
    return None if given is None else [int(axis) for axis in given]


def _pads(n: Node, sides: Any, kernel: Any, strides: Any, dilations: Any) -> list[int]:
    """Return the padding of a window as torch takes it, the last side first."""
    d, mode = len(kernel), _text(n.get("auto_pad", "NOTSET"))
    pads = n.get("pads", [0] * (2 * d))
    pairs = list(zip(pads[:d], pads[d:], strict=True))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for side, k, stride, dilation in zip(sides, kernel, strides, dilations, strict=True):
            whole = max(0, (-(-side // stride) - 1) * stride + dilation * (k - 1) + 1 - side)
            small, large = whole // 2, whole - whole // 2
            pairs.append((small, large) if mode == "SAME_UPPER" else (large, small))
    return [side for pair in reversed(pairs) for side in pair]


def _of_dimension(d: int, *functions: Callable[..., Any]) -> Callable[..., Any]:
    if not 1 <= d <= len(functions):
        raise NotConvertible(f"windows in {d} dimensions")
    return functions[d - 1]


def _coerced(n: Node, x: Tensor) -> bool:
    """Return whether a softmax of an early version runs over all sides from its axis on."""
    return n.opset < 13 and n.get("axis", 1) % x.ndim != x.ndim - 1


@operation("Softmax")
def _softmax(n: Node, x: Tensor) -> Tensor:
    if _coerced(n, x):
        return _flattened(x, n.get("axis", 1)).softmax(1).reshape(x.shape)
    return x.softmax(n.get("axis", -1 if n.opset >= 13 else 1))


def _flattened(x: Tensor, axis: int) -> Tensor:
    rows = 1
    for side in x.shape[: axis % (x.ndim + 1) if axis < 0 else axis]:
        rows *= side
    return x.reshape(rows, -1) if x.numel() else x.reshape(rows, 0)


def _gather(x: Tensor, index: Tensor, axis: int) -> Tensor:
    axis %= x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _folded(function: Callable[[Tensor, Tensor], Tensor], xs: tuple[Tensor, ...]) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = function(total, x)
    return total


@operation("Constant")
def _constant(n: Node) -> Tensor:
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if name in n.attributes:
            return torch.as_tensor(n.attributes[name])
    raise NotConvertible("Constant of text or of a sparse tensor")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
