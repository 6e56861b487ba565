"""A record of the operations of PyTorch that a function performs on its input.

The operations are those below autograd, after views and changes in place are replaced by operations that return new
tensors. PyTorch's own `make_fx` records the same, and imports its compiler first, which takes longer than most proofs.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map

from unfooled.core.errors import Unrecordable
from unfooled.core.model.recorded import recorded

LEAVING = frozenset(
    ("__array__", "__dlpack__", "__repr__", "__format__", "data_ptr", "numpy", "storage", "tolist", "untyped_storage")
)
"""Names of methods that take values of a tensor out of PyTorch; in a recorded call, these have no memory."""
BY_VALUES = frozenset((torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
"""Tags of operations whose result, or its shape, lets a model decide by the values of a tensor."""


class Recorder(TorchDispatchMode):
    """A record of every operation performed while it is active.

    Attributes:
        graph: Recorded calls; the result of each one without its values is stored as `meta["val"]`.
        constants: Tensors that do not come from the input, by the name of their node.
    """

    def __init__(self) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self._nodes: dict[int, tuple[Tensor, fx.Node]] = {}  # by identity; the tensors stay, so that it is unique
        self._follows: set[fx.Node] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: PyTorch would import its compiler to exclude this class from it."""
        return False

    def start(self, x: Tensor) -> None:
        """Record the input."""
        node = self.graph.placeholder("x")
        self._follows.add(node)
        self._name(x, node)

    def finish(self, result: Any) -> None:
        """Record the result."""
        self.graph.output(tree_map(self._node, result))
        self.graph.eliminate_dead_code()
        self._nodes.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Perform one operation and record it."""
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if not BY_VALUES.isdisjoint(func.tags):
            if tree_any(self._comes_from_input, (args, kwargs)):
                raise Unrecordable(f"its operations depend on values of the input ({func})")
            if torch.Tag.data_dependent_output in func.tags:
                return func(*args, **kwargs)
        result = func(*args, **kwargs)
        inputs, options = tree_map(self._node, (args, kwargs))
        node = self.graph.call_function(func, inputs, options)
        if any(before in self._follows for before in node.all_input_nodes):
            self._follows.add(node)
        if isinstance(result, Tensor):
            self._name(result, node)
        else:
            self._name_parts(result, node)
        return result

    def _name(self, value: Tensor, node: fx.Node) -> None:
        node.meta["val"] = torch.empty(value.shape, device="meta")
        self._nodes[id(value)] = value, node

    def _name_parts(self, values: Any, node: fx.Node) -> None:
        """Record the parts of a result of several tensors."""
        node.meta["val"] = tree_map(lambda v: torch.empty(v.shape, device="meta") if _is_tensor(v) else v, values)
        for i, value in enumerate(values if isinstance(values, (tuple, list)) else ()):
            if _is_tensor(value):
                part = self.graph.call_function(operator.getitem, (node, i))
                if node in self._follows:
                    self._follows.add(part)
                self._name(value, part)

    def _node(self, value: Any) -> Any:
        """Return the node of a tensor, a new one for a constant; any other value as it is."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            node = self.graph.create_node("get_attr", name)
            self._nodes[id(value)] = value, node
        return self._nodes[id(value)][1]

    def _comes_from_input(self, value: Any) -> bool:
        entry = self._nodes.get(id(value)) if isinstance(value, Tensor) else None
        return entry is not None and entry[1] in self._follows


class _Inside(TorchFunctionMode):
    """Refusal of methods that would read the memory of a tensor of a recorded call, which has none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch unless it leaves it."""
        if getattr(func, "__name__", "") in LEAVING and torch._C._functorch.is_functionaltensor(args[0]):
            raise Unrecordable(f"it computes outside of PyTorch ({func.__name__})")
        return func(*args, **(kwargs or {}))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def record(function: Callable[[Tensor], Any], x: Tensor) -> tuple[fx.Graph, dict[str, Tensor]]:
    """Return the operations that a function performs on an input, and the constants that they use, by node name.

    Args:
        function: Function of one tensor.
        x: Its input; its values are those of the recorded call.
    """
    from torch.func import functionalize

    recorder = Recorder()
    recorder.start(x)
    with recorder, _Inside(), recorded():
        result = functionalize(function)(x)
    recorder.finish(result)
    return recorder.graph, recorder.constants
