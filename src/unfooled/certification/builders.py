"""Rules from recorded operations of PyTorch to the operations that can be bounded.

A rule reads the arguments of a call, and adds nodes; it raises `Unknown` with a reason where they do not fit, such as
an operation that mixes the samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from unfooled.certification.network import Head, Node
from unfooled.certification.operations import (
    Activation,
    Affine,
    Arrangement,
    Convolution,
    Curve,
    Matrix,
    MaxPool,
    Reshape,
    Scale,
    Shape,
)


class Unknown(Exception):
    """Sign that an operation cannot be bounded.

    Args:
        reason: Words behind the name of the operation. Empty: none.
        name: Name of another operation that is the reason. Empty: there is none.
    """

    def __init__(self, reason: str = "", name: str = "") -> None:
        super().__init__(reason)
        self.reason, self.name = reason, name


@dataclass(eq=False)
class Builder:
    """Nodes of a network while its recorded calls are read.

    Attributes:
        dtype: Type of the weights.
        batch: Number of samples of the recorded call.
        nodes: Nodes so far.
        positions: Recorded call -> position of its node.
        constants: Recorded call -> its value, where it does not depend on the input.
        heads: Recorded call after the logits -> its kind, and the logits.
        follows: True: gradients of the weights can be taken through the network.
    """

    dtype: torch.dtype
    batch: int
    nodes: list[Node] = field(default_factory=list)
    positions: dict[Any, int] = field(default_factory=dict)
    constants: dict[Any, Any] = field(default_factory=dict)
    heads: dict[Any, tuple[Head, Any]] = field(default_factory=dict)
    follows: bool = False

    def place(self, call: fx.Node) -> None:
        """Add the input."""
        self.positions[call] = 0
        self.nodes.append(Node(None, (), tuple(call.meta["val"].shape[1:])))

    def is_constant(self, call: fx.Node) -> bool:
        """Return whether a call does not depend on the input."""
        return all(before in self.constants for before in call.all_input_nodes)

    def evaluate(self, call: fx.Node) -> None:
        """Evaluate a constant call, in the type of the network."""
        assert callable(call.target)
        args, given = fx.node.map_arg((call.args, dict(call.kwargs)), self.value)
        kwargs = dict(given)
        if "dtype" in kwargs and getattr(kwargs["dtype"], "is_floating_point", False):
            kwargs["dtype"] = self.dtype
        self.constants[call] = call.target(*args, **kwargs)

    def value(self, item: Any) -> Any:
        """Return the value of a constant argument; tensors of fractions in the type of the network."""
        value = self.constants[item] if isinstance(item, fx.Node) else item
        if not isinstance(value, Tensor):
            return value
        value = value if self.follows else value.detach()
        return value.to(self.dtype) if value.is_floating_point() else value

    def add(self, call: fx.Node, operation: Affine | Activation | MaxPool | None, *inputs: int) -> None:
        """Add a node."""
        value = call.meta["val"]
        shape = (value[0] if isinstance(value, (tuple, list)) else value).shape
        if not shape or shape[0] != self.batch:
            raise Unknown("it mixes the samples of a batch")
        self.positions[call] = len(self.nodes)
        self.nodes.append(Node(operation, inputs, tuple(shape[1:])))

    def before(self, call: Any) -> int:
        """Return the position of an argument that depends on the input."""
        if call in self.heads:
            raise Unknown("before the last layer", self.heads[call][0].value)
        if call not in self.positions:
            raise Unknown("in this form")
        return self.positions[call]

    def shape(self, call: Any) -> Shape:
        """Return the shape of an argument that depends on the input, for one sample."""
        return self.nodes[self.before(call)].shape

    def only_first(self, call: fx.Node) -> int:
        """Return the position of the first argument, if no other one depends on the input."""
        if any(other not in self.constants for other in call.all_input_nodes if other is not call.args[0]):
            raise Unknown("two of its arguments depend on the input")
        return self.before(call.args[0])


def kind_of(call: fx.Node) -> str:
    """Return the name of a recorded operation: `relu`, `convolution`, `getitem`."""
    packet = getattr(call.target, "overloadpacket", None)
    text = getattr(call.target, "__name__", str(call.target)) if packet is None else str(packet)
    return text.rpartition(".")[2]


def _argument(call: fx.Node, position: int, name: str, default: Any) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name, default)


def _same(build: Builder, call: fx.Node) -> None:
    """A copy of a tensor, in the same or in another precision."""
    build.positions[call] = build.only_first(call)


def _item(build: Builder, call: fx.Node) -> None:
    """A part of a split; or the first of several results, such as the values of max pooling."""
    owner: Any = call.args[0]
    if (make := PARTS.get(kind_of(owner))) is not None:
        build.add(call, Arrangement(make(owner, call)), build.before(owner))
        return
    if call.args[1] != 0:
        raise Unknown("of which another result than the values is used")
    build.positions[call] = build.before(call.args[0])


def _activation(curve: Curve) -> Callable[[Builder, fx.Node], None]:
    def rule(build: Builder, call: fx.Node) -> None:
        slope = 0.0
        if curve is Curve.LEAKY_RELU:
            slope = float(_argument(call, 1, "negative_slope", 0.01))
            if not 0 <= slope <= 1:
                raise Unknown(f"with the slope {slope:g}")
        build.add(call, Activation(curve, slope), build.only_first(call))

    return rule


def _max_pool(build: Builder, call: fx.Node) -> None:
    """Max pooling of one or two dimensions."""
    kernel = list(call.args[1])  # type: ignore[arg-type]
    sides = len(kernel)
    if sides > 2:
        raise Unknown("in three dimensions")
    stride = list(_argument(call, 2, "stride", [])) or kernel
    padding = _argument(call, 3, "padding", [0] * sides)
    dilation = _argument(call, 4, "dilation", [1] * sides)
    pool = MaxPool(kernel, stride, list(padding), list(dilation), bool(_argument(call, 5, "ceil_mode", False)))
    build.add(call, pool, build.only_first(call))


def _adaptive_max(build: Builder, call: fx.Node) -> None:
    """Adaptive max pooling whose windows all have the same size."""
    before, after = build.shape(call.args[0])[1:], list(call.args[1])  # type: ignore[arg-type]
    if any(size % cells for size, cells in zip(before, after, strict=True)):
        raise Unknown("with windows of different sizes")
    kernel = [size // cells for size, cells in zip(before, after, strict=True)]
    build.add(call, MaxPool(kernel, kernel, [0] * len(kernel), [1] * len(kernel)), build.only_first(call))


def _addmm(build: Builder, call: fx.Node) -> None:
    """A linear layer, b + z W."""
    bias, z, weight = call.args
    if bias not in build.constants or weight not in build.constants or call.kwargs:
        raise Unknown("in this form")
    build.add(call, Matrix(build.value(weight), build.value(bias)), build.before(z))


def _matmul(build: Builder, call: fx.Node) -> None:
    """A linear layer without a bias, z W."""
    weight = build.value(call.args[1]) if call.args[1] in build.constants else None
    if weight is None or weight.ndim != 2:
        raise Unknown("of two matrices that depend on the input")
    build.add(call, Matrix(weight, None), build.only_first(call))


def _linear(build: Builder, call: fx.Node) -> None:
    """A linear layer as one operation."""
    bias = _argument(call, 2, "bias", None)
    at = build.only_first(call)
    build.add(call, Matrix(build.value(call.args[1]).t(), None if bias is None else build.value(bias)), at)


def _convolution(build: Builder, call: fx.Node) -> None:
    at = build.only_first(call)
    weight, bias = build.value(call.args[1]), build.value(call.args[2])
    build.add(call, Convolution(weight, bias, tuple(build.value(a) for a in call.args[3:])), at)


def _batch_norm(build: Builder, call: fx.Node) -> None:
    """Batch normalisation with its running statistics."""
    at = build.only_first(call)
    weight, bias, mean, var, *rest = (build.value(a) for a in call.args[1:])
    if not isinstance(var, Tensor) or (len(rest) == 3 and rest[0]):
        raise Unknown("with the statistics of the batch")
    factor = (var + rest[-1]).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * factor
    shape = (1, -1, *[1] * (len(build.nodes[at].shape) - 1))
    build.add(call, Scale(factor.reshape(shape), shift.reshape(shape)), at)


def _constant_operand(build: Builder, value: Any, like: Shape) -> Tensor | None:
    """Return a constant operand as a tensor that broadcasts against (R, *shape); None if it depends on the input."""
    if isinstance(value, fx.Node) and value not in build.constants:
        return None
    tensor = torch.as_tensor(build.value(value), dtype=build.dtype)
    if tensor.ndim > len(like) and tensor.shape[0] != 1:
        raise Unknown("with a constant for each sample of a batch")
    return tensor


def _sum(sign: int) -> Callable[[Builder, fx.Node], None]:
    def rule(build: Builder, call: fx.Node) -> None:
        """A sum or difference, of two nodes or of a node and a constant."""
        first, second = call.args[:2]
        scale = sign * float(call.kwargs.get("alpha", 1))  # type: ignore[arg-type]
        shape = tuple(call.meta["val"].shape[1:])
        a, b = (_constant_operand(build, value, shape) for value in (first, second))
        if a is None and b is not None:
            build.add(call, Scale(None, scale * b), build.before(first))
        elif b is None and a is not None:
            build.add(call, Scale(torch.as_tensor(scale, dtype=build.dtype), a), build.before(second))
        elif a is None and b is None:
            left, right = build.before(first), build.before(second)
            if build.nodes[left].shape != build.nodes[right].shape:
                raise Unknown("of two parts of different shapes")
            if scale != 1:
                build.nodes.append(
                    Node(Scale(torch.as_tensor(scale, dtype=build.dtype), None), (right,), build.nodes[right].shape)
                )
                right = len(build.nodes) - 1
            build.add(call, None, left, right)
        _same_shape(build, call)

    return rule


def _rsub(build: Builder, call: fx.Node) -> None:
    """A constant minus a node."""
    constant = _constant_operand(build, call.args[1], build.shape(call.args[0]))
    if constant is None or call.kwargs or len(call.args) > 2:
        raise Unknown("in this form")
    build.add(call, Scale(torch.as_tensor(-1.0, dtype=build.dtype), constant), build.before(call.args[0]))


def _times(divide: bool) -> Callable[[Builder, fx.Node], None]:
    def rule(build: Builder, call: fx.Node) -> None:
        """A product with a constant, or a quotient by one."""
        first, second = call.args[:2]
        shape = tuple(call.meta["val"].shape[1:])
        if not divide and isinstance(second, fx.Node) and second in build.positions:
            first, second = second, first
        factor = _constant_operand(build, second, shape)
        if factor is None or first not in build.positions or call.kwargs:
            raise Unknown("of two parts that depend on the input")
        build.add(call, Scale(1 / factor if divide else factor, None), build.before(first))
        _same_shape(build, call)

    return rule


def _negative(build: Builder, call: fx.Node) -> None:
    build.add(call, Scale(torch.as_tensor(-1.0, dtype=build.dtype), None), build.only_first(call))


def _same_shape(build: Builder, call: fx.Node) -> None:
    """Refuse an operation with a constant that makes the sample larger."""
    node = build.nodes[build.positions[call]]
    if any(build.nodes[i].shape != node.shape for i in node.inputs):
        raise Unknown("with a constant of more dimensions than the input")


def _view(build: Builder, call: fx.Node) -> None:
    if isinstance(call.args[1], torch.dtype):
        raise Unknown("as another type")
    build.add(call, Reshape(tuple(call.meta["val"].shape[1:])), build.only_first(call))


def _arranged(*dimensions: int) -> Callable[[Builder, fx.Node], None]:
    """Return the rule of an operation without weights; its arguments at these positions are dimensions, not the first.

    Sizes that begin with the number of samples get the number of rows instead.
    """

    def rule(build: Builder, call: fx.Node) -> None:
        at, rank = build.only_first(call), len(build.shape(call.args[0])) + 1
        arguments = [build.value(a) for a in call.args[1:]]
        for position in dimensions:
            named: Any = call.args[position] if len(call.args) > position else None
            values = named if isinstance(named, Sequence) else [named]
            if any(value is None or value % rank == 0 for value in values):
                raise Unknown("it mixes the samples of a batch")
        target, options = call.target, dict(call.kwargs)
        assert callable(target)
        build.add(call, Arrangement(lambda z: target(z, *arguments, **options)), at)

    return rule


def _permuted(build: Builder, call: fx.Node) -> None:
    order: Any = call.args[1]
    if order[0] % len(order) != 0:
        raise Unknown("it moves the dimension of the samples")
    build.add(call, Arrangement(lambda z: z.permute(*order)), build.only_first(call))


def _expanded(build: Builder, call: fx.Node) -> None:
    sizes: Any = tuple(call.meta["val"].shape[1:])
    build.add(call, Arrangement(lambda z: z.expand(len(z), *sizes)), build.only_first(call))


def _averaged(build: Builder, call: fx.Node) -> None:
    """Average pooling."""
    if float(_argument(call, 6, "divisor_override", None) or 1) < 0:
        raise Unknown("with a divisor below 0")
    _arranged()(build, call)


def _padded(build: Builder, call: fx.Node) -> None:
    """Padding with zeros."""
    if float(_argument(call, 2, "value", 0.0)) != 0 or len(call.args[1]) >= 2 * (len(build.shape(call.args[0])) + 1):  # type: ignore[arg-type]
        raise Unknown("with another value than 0")
    _arranged()(build, call)


def _joined(build: Builder, call: fx.Node) -> None:
    """Several parts side by side: the sum of each of them padded with zeros, and of the constant ones."""
    parts: Any = call.args[0]
    dim, rank = int(_argument(call, 1, "dim", 0)), len(call.meta["val"].shape)
    if dim % rank == 0:
        raise Unknown("it joins samples")
    sizes = [int(part.meta["val"].shape[dim]) for part in parts]
    pieces = []
    for k, part in enumerate(parts):
        if part in build.constants:
            raise Unknown("with a constant part")
        put = _put_at(dim % rank, sum(sizes[:k]), sum(sizes[k + 1 :]))
        build.nodes.append(Node(Arrangement(put), (build.before(part),), tuple(call.meta["val"].shape[1:])))
        pieces.append(len(build.nodes) - 1)
    build.add(call, None, *pieces)


def _split(build: Builder, call: fx.Node) -> None:
    """Several parts of one tensor, each of which `_item` takes out."""
    rank = len(build.shape(call.args[0])) + 1
    if int(_argument(call, 1 if kind_of(call) == "unbind" else 2, "dim", 0)) % rank == 0:
        raise Unknown("it parts samples")
    build.positions[call] = build.only_first(call)


def _narrowed(owner: fx.Node, call: fx.Node) -> Callable[[Tensor], Tensor]:
    """Return the function that takes a part of a split out."""
    parts: Any = owner.meta["val"]
    k: Any = call.args[1]
    dim = int(_argument(owner, 2, "dim", 0)) % parts[0].ndim
    sizes = [int(part.shape[dim]) for part in parts]
    return lambda z: z.narrow(dim, sum(sizes[:k]), sizes[k])


def _selected(owner: fx.Node, call: fx.Node) -> Callable[[Tensor], Tensor]:
    """Return the function that selects an index of a dimension."""
    k: Any = call.args[1]
    dim = int(_argument(owner, 1, "dim", 0))
    dim %= owner.meta["val"][0].ndim + 1
    return lambda z: z.select(dim, k)


PARTS = {"split": _narrowed, "split_with_sizes": _narrowed, "unbind": _selected}
"""Recorded operation with several results -> the function that takes out one of them."""


def _stacked(build: Builder, call: fx.Node) -> None:
    """Several parts side by side in a new dimension."""
    parts: Any = call.args[0]
    dim, shape = int(_argument(call, 1, "dim", 0)), call.meta["val"].shape
    dim %= len(shape)
    if dim == 0:
        raise Unknown("it joins samples")
    pieces = []
    for k, part in enumerate(parts):
        if part in build.constants:
            raise Unknown("with a constant part")
        put = _put_at(dim, k, len(parts) - k - 1)

        def stack(z: Tensor, put: Callable[[Tensor], Tensor] = put) -> Tensor:
            return put(z.unsqueeze(dim))

        build.nodes.append(Node(Arrangement(stack), (build.before(part),), tuple(shape[1:])))
        pieces.append(len(build.nodes) - 1)
    build.add(call, None, *pieces)


def _put_at(dim: int, before: int, after: int) -> Callable[[Tensor], Tensor]:
    """Return the function that pads one dimension with zeros."""

    def put(z: Tensor) -> Tensor:
        zeros = [z.new_zeros([*z.shape[:dim], count, *z.shape[dim + 1 :]]) for count in (before, after)]
        return torch.cat([zeros[0], z, zeros[1]], dim)

    return put


HEADS = {"_log_softmax": "log_softmax", "_softmax": "softmax"}
"""Recorded operations after the logits that keep the order of the classes."""

BUILDERS: dict[str, Callable[[Builder, fx.Node], None]] = {
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "lift_fresh_copy", "contiguous"), _same),
    "getitem": _item,
    "relu": _activation(Curve.RELU),
    "leaky_relu": _activation(Curve.LEAKY_RELU),
    "sigmoid": _activation(Curve.SIGMOID),
    "tanh": _activation(Curve.TANH),
    **dict.fromkeys(("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool2d", "max_pool1d"), _max_pool),
    **dict.fromkeys(("adaptive_max_pool2d", "adaptive_max_pool1d"), _adaptive_max),
    "addmm": _addmm,
    "mm": _matmul,
    "matmul": _matmul,
    "linear": _linear,
    "convolution": _convolution,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "_native_batch_norm_legit"),
        _batch_norm,
    ),
    "add": _sum(1),
    "sub": _sum(-1),
    "rsub": _rsub,
    "mul": _times(False),
    "div": _times(True),
    "neg": _negative,
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), _view),
    **dict.fromkeys(("unsqueeze", "squeeze", "mean", "sum", "select", "slice", "flip"), _arranged(1)),
    "transpose": _arranged(1, 2),
    "permute": _permuted,
    "expand": _expanded,
    **dict.fromkeys(("avg_pool2d", "avg_pool1d", "avg_pool3d"), _averaged),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_avg_pool1d"), _arranged()),
    "constant_pad_nd": _padded,
    "cat": _joined,
    "stack": _stacked,
    **dict.fromkeys(("split", "split_with_sizes", "unbind"), _split),
}
"""Name of a recorded operation -> its rule."""
