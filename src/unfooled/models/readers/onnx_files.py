"""ONNX files: the runtime judges, a conversion to torch gives the gradients.

    f(x) = runtime(x),   f'(x) = converted'(x),   where both agree on random inputs

A graph with an operation that cannot be converted, or whose conversion disagrees with the runtime, is a black box.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import limits_now, regular
from unfooled.core.model.calls import notice
from unfooled.models.black_boxes.box import Array, BlackBox
from unfooled.models.readers.exported import Exported
from unfooled.models.readers.loaded import Loaded
from unfooled.models.readers.onnx_ops import DTYPES, OPERATIONS, Node, NotConvertible

TOLERANCE = 1e-3
"""Largest relative distance of the conversion's outputs from those of the runtime."""


class Converted(nn.Module):
    """A graph of ONNX as a module of torch.

    Args:
        nodes: Operations in order.
        constants: Name -> constant tensor.
        source: Name of the input.
        results: Names of the outputs.
    """

    def __init__(
        self, nodes: Sequence[Node], constants: dict[str, Tensor], source: str, results: Sequence[str]
    ) -> None:
        super().__init__()
        self.nodes, self.source, self.results = tuple(nodes), source, tuple(results)
        self.sides: tuple[int | None, ...] = ()
        self.names = tuple(constants)
        for i, value in enumerate(constants.values()):
            self.register_buffer(f"constant_{i}", value)
        last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        self.dropped = [[name for name in set(n.inputs) if last[name] == i] for i, n in enumerate(self.nodes)]

    def forward(self, x: Tensor) -> Any:
        """Return the outputs: a tensor, or several in a tuple."""
        values: dict[str, Any] = {name: getattr(self, f"constant_{i}") for i, name in enumerate(self.names)}
        values[self.source] = x
        for node, dropped in zip(self.nodes, self.dropped, strict=True):
            inputs = [values[name] if name else None for name in node.inputs]
            while inputs and inputs[-1] is None:
                inputs.pop()
            outputs = OPERATIONS[node.kind](node, *inputs)
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            values |= dict(zip(node.outputs, parts, strict=False))
            for name in dropped:
                if name not in self.results:
                    values.pop(name, None)
        found = tuple(values[name] for name in self.results)
        return found[0] if len(found) == 1 else found


class Judged(nn.Module):
    """A converted graph with the runtime's values.

    Args:
        converted: Gives the gradients.
        runtime: Gives the values.
    """

    def __init__(self, converted: Converted, runtime: Runtime) -> None:
        super().__init__()
        self.converted, self.runtime = converted, runtime

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        values = torch.from_numpy(self.runtime(x.detach().cpu().numpy())).to(x.device, x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return values
        return _Values.apply(self.converted(x), values)


class _Values(torch.autograd.Function):
    """Values of one tensor, gradient of another."""

    @staticmethod
    def forward(_ctx: Any, _followed: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0], None


class Runtime:
    """A session of onnxruntime on the processor, as a function of arrays; a copy has a session of its own.

    Args:
        path: File.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.path = path
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        (self.source, *others) = self.session.get_inputs()
        if others:
            raise BadInput(f"{path} takes {len(others) + 1} inputs; a classifier takes one, (B, *D)")

    def __deepcopy__(self, _memo: Any) -> Runtime:
        return Runtime(self.path)

    def __reduce__(self) -> Any:
        return Runtime, (self.path,)

    def __call__(self, x: Array) -> Array:
        """Return scores, (B, K), or labels, (B,)."""
        outputs = self.session.run(None, {self.source.name: x.astype(TYPES.get(self.source.type, np.float32))})
        scores = next((_rows(output) for output in reversed(outputs) if _rows(output) is not None), None)
        return np.asarray(outputs[0]) if scores is None else scores

    @property
    def sides(self) -> tuple[int | None, ...]:
        """Shape of the input; None for a side of any length."""
        return tuple(side if isinstance(side, int) and side > 0 else None for side in self.source.shape or ())


TYPES = {"tensor(double)": np.float64, "tensor(float16)": np.float16}
"""Type of an input of the runtime -> type of the array."""


def _rows(output: Any) -> Array | None:
    """Return an output as scores: a matrix of numbers, or mappings from labels to scores; None for another one."""
    if isinstance(output, list) and output and isinstance(output[0], dict):
        return np.array([list(row.values()) for row in output])
    array = np.asarray(output)
    return array if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind == "f" else None


def from_onnx(path: Path) -> Loaded:
    """Load a classifier from an ONNX file of one input.

    Raises:
        BadInput: The file is damaged or too large, takes several inputs, or the libraries that it needs are missing.
    """
    size, most = regular(path).stat().st_size, limits_now().max_bytes
    if size > most:
        raise BadInput(f"{path} has {size:,} bytes, more than the {most:,} that are read; raise {option('max_bytes')}")
    runtime, converted, reason = _runtime(path), None, ""
    try:
        converted = _converted(path)
        reason = "" if runtime is None else _disagreement(converted, runtime)
    except NotConvertible as error:
        reason = str(error)
    module, sides = _module(path, runtime, None if reason else converted, reason)
    if module is None:
        raise BadInput(f"{path} cannot be converted: {reason}; pip install onnxruntime to audit it as a black box")
    known = [side for side in sides[1:] if side is not None]
    return Loaded(module, path.stem, input_shape=known if known and len(known) == len(sides) - 1 else None)


def _module(
    path: Path, runtime: Runtime | None, converted: Converted | None, reason: str
) -> tuple[nn.Module | None, tuple[int | None, ...]]:
    """Return the module of a file and the shape of its input; None where nothing can run it."""
    source = runtime or converted
    if source is None:
        return None, ()
    fixed = source.sides[0] if source.sides else None
    if converted is None:
        assert runtime is not None
        return _black_box(runtime, path, reason, fixed), source.sides
    if runtime is None:
        notice(converted, f"onnxruntime is not installed, so that {path.name} was judged by its conversion to torch.")
    module = converted if runtime is None else Judged(converted, runtime)
    return (module if fixed is None else Exported(module, fixed, fixed)).eval(), source.sides


def _runtime(path: Path) -> Runtime | None:
    """Return a session; None where onnxruntime is not installed."""
    try:
        return Runtime(path)
    except ImportError:
        return None
    except BadInput:
        raise
    except Exception as error:  # the runtime has errors of its own
        text = (str(error).splitlines() or [""])[0][:200]
        raise BadInput(f"{path} cannot be read as ONNX: {text}") from error


def _converted(path: Path) -> Converted:
    """Return a file's graph as a module of torch.

    Raises:
        NotConvertible: It holds an operation that has no function here.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise NotConvertible("onnx, which reads the graph, is not installed; pip install onnx") from None
    try:
        model = onnx.load(str(path))
    except Exception as error:  # whatever protobuf raises on a damaged file
        raise BadInput(f"{path} cannot be read as ONNX: {type(error).__name__}: {str(error)[:200]}") from error
    graph = model.graph
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=13)
    constants = {each.name: _tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    sources = [each for each in graph.input if each.name not in constants]
    if len(sources) != 1:
        raise BadInput(f"{path} takes {len(sources)} inputs; a classifier takes one, (B, *D)")
    nodes = [_node(each, opset) for each in graph.node]
    module = Converted(nodes, constants, sources[0].name, [each.name for each in graph.output])
    sides = sources[0].type.tensor_type.shape.dim
    module.sides = tuple(side.dim_value if side.dim_value > 0 else None for side in sides)
    return module


def _node(given: Any, opset: int) -> Node:
    """Return one operation of a graph."""
    from onnx import helper, numpy_helper

    if given.op_type not in OPERATIONS or given.domain not in ("", "ai.onnx"):
        raise NotConvertible(f"the operation {given.op_type} has no conversion")
    attributes: dict[str, Any] = {}
    for each in given.attribute:
        value = helper.get_attribute_value(each)
        attributes[each.name] = _tensor(numpy_helper.to_array(value)) if hasattr(value, "raw_data") else value
        if each.type == each.INTS:
            attributes[each.name] = [int(item) for item in value]
    if given.op_type == "Cast" and attributes.get("to") not in DTYPES:
        raise NotConvertible("a cast to a type that torch lacks")
    if given.op_type == "BatchNormalization" and attributes.get("training_mode"):
        raise NotConvertible("BatchNormalization is in training mode; export the network after model.eval()")
    return Node(given.op_type, tuple(given.input), tuple(given.output), attributes, opset)


def _tensor(array: Array) -> Tensor:
    """Return an array as a tensor of its own."""
    return torch.from_numpy(np.array(array))


def _disagreement(converted: Converted, runtime: Runtime) -> str:
    """Return why a conversion cannot be used: it fails, or its outputs are others; empty where it agrees."""
    first, *others = runtime.sides or (None,)
    if not others:
        return "its input has no shape"
    x = torch.rand(first or 2, *(side or 32 for side in others), generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            ours, theirs = converted(x), torch.from_numpy(np.array(runtime(x.numpy())))
    except Exception as error:  # an operation that is used in a way that is not converted
        return f"the conversion fails with {type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        return "its outputs are no single matrix of logits"
    apart = float((ours.double() - theirs.double()).abs().max()) / max(float(theirs.double().abs().max()), 1e-12)
    return "" if apart <= TOLERANCE else f"the conversion differs from the runtime by {apart:.2g}"


def _black_box(runtime: Runtime, path: Path, reason: str, fixed: int | None) -> BlackBox:
    """Return the runtime as a black box, and say why."""
    answer = runtime if fixed is None else partial(_in_groups, runtime, fixed)
    box = BlackBox(answer, name=path.name, identity=f"{path.name} {_content(path)}")
    notice(box, f"{path.name} was audited as a black box, without gradients: {reason}.")
    return box


def _in_groups(runtime: Runtime, size: int, x: Array) -> Array:
    """Return the answers of a graph that takes a fixed number of samples."""
    parts = []
    for start in range(0, len(x), size):
        part = x[start : start + size]
        short = np.zeros((size - len(part), *part.shape[1:]), dtype=part.dtype)
        parts.append(runtime(np.concatenate([part, short]))[: len(part)])
    return np.concatenate(parts)


def _content(path: Path) -> str:
    """Return a hash of a file."""
    return sha256(path.read_bytes()).hexdigest()[:16]
