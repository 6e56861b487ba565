"""A model as a list of linear and elementwise operations, by a record of one call; see `recording.py`.

The model is called once, and every operation of PyTorch that it performs is recorded, whatever modules, functions or
loops it is written with. Operations that depend on parameters alone are constants. What cannot be bounded is an error
that names the operation; and the recorded operations must give the model's own answers, also at random points, so that
a model that leaves PyTorch on its way, or that is random, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from unfooled.certification.builders import BUILDERS, HEADS, Builder, Unknown, kind_of
from unfooled.certification.network import Head, Network
from unfooled.certification.recording import record
from unfooled.core.checks import check_mode
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.calls import enter
from unfooled.core.model.outputs import logits_of
from unfooled.core.model.precision import HALF, name_of_kind

BATCH = 7  # samples of the traced call; an unusual number, so that no other dimension is taken for the batch
EXACT = (None, torch.float32, torch.float64)  # types that an operation on the input may ask for
REMEDY = "randomized smoothing, unfooled.certification.smooth, needs no bounds of operations"


@dataclass(frozen=True, eq=False)
class Graph:
    """A traced model; `network` reads the weights anew, so that they may be trained in between.

    Attributes:
        calls: Recorded operations.
        constants: Parameters and other tensors that they use, by the name of their node.
        name: Name of the model in messages.
        device: Device of the traced call.
    """

    calls: fx.Graph
    constants: Mapping[str, Tensor]
    name: str
    device: torch.device

    def network(self, dtype: torch.dtype = torch.float32, *, follows: bool = False) -> Network:
        """Return the operations with the present weights in a type.

        Args:
            dtype: Type of the weights.
            follows: True: gradients of the weights can be taken through the network.

        Raises:
            BadInput: An operation cannot be bounded.
        """
        build = Builder(dtype, BATCH, follows=follows)
        for node in self.calls.nodes:
            if node.op == "placeholder":
                build.place(node)
            elif node.op == "get_attr":
                build.constants[node] = self.constants[str(node.target)]
            elif node.op == "call_function":
                _add(build, node, self.name)
            elif node.op == "output":
                return _finished(build, node, self.name)
        raise AssertionError("a graph has an output")


def _add(build: Builder, node: fx.Node, name: str) -> None:
    """Add one recorded call: a constant, a node, or an error that names it."""
    if build.is_constant(node):
        build.evaluate(node)
        return
    kind = kind_of(node)
    if kind in HEADS:
        build.heads[node] = (Head(HEADS[kind]), node.args[0])
        return
    try:
        if kind not in BUILDERS:
            raise Unknown
        if (into := node.kwargs.get("dtype")) not in EXACT:
            raise Unknown(f"to {str(into).rpartition('.')[2]}")
        BUILDERS[kind](build, node)
    except Unknown as found:
        because = f" ({found.reason})" if found.reason else ""
        raise BadInput(
            f"{name} uses {found.name or kind}{because}, which cannot be bounded; replace this operation, or use "
            f"another method: {REMEDY}"
        ) from None


def _finished(build: Builder, node: fx.Node, name: str) -> Network:
    result: Any = node.args[0]
    result = result[0] if isinstance(result, (tuple, list)) else result
    head = Head.NONE
    if result in build.heads:
        head, result = build.heads[result]
    if result not in build.positions:
        raise BadInput(f"the logits of {name} do not depend on its input, or not by operations that can be bounded")
    last = build.positions[result]
    nodes = build.nodes
    if last != len(nodes) - 1:
        nodes = [*nodes[: last + 1]]
    if len(nodes[-1].shape) != 1 or nodes[-1].shape[0] < 2:
        raise BadInput(f"{name} returns logits of shape {nodes[-1].shape} per sample; bounds need at least 2 classes")
    return Network(tuple(nodes), build.dtype, head)


def trace(model: Callable[..., Any], x: Tensor) -> Graph:
    """Record the operations of a model.

    Args:
        model: A module, or a callable around one, to logits. Not modified.
        x: Inputs, (B, *D); the first ones are used.

    Returns:
        The graph; its operations give the model's answers.

    Raises:
        BadInput: The model is in training mode, does not stay in PyTorch, is random, or uses an operation that cannot
            be bounded.
    """
    check_mode(model)
    name = str(getattr(model, "name", "")) or type(model).__name__
    sample = x[:1].detach().repeat(BATCH, *[1] * (x.ndim - 1))
    twin = _twin(model)
    try:
        with torch.no_grad():
            calls, constants = record(lambda z: logits_of(enter(twin, z), twin), sample)
    except BadInput:
        raise
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"the operations of {name} cannot be recorded: {first[:200]}; {REMEDY}") from None
    short = next((node.kwargs["dtype"] for node in calls.nodes if node.kwargs.get("dtype") in HALF), None)
    if short is not None:
        raise BadInput(
            f"{name} computes in {name_of_kind(short)}, whose rounding no bound covers; give "
            "it in float32: model.float()"
        )
    graph = Graph(calls, constants, name, x.device)
    _check_answers(graph, model, x)
    return graph


def _twin(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a model around the same tensors, so that what a recorded call stores does not stay in the model.

    A model that cannot be copied is returned itself.
    """
    kept: dict[int, Any] = {}
    for module in (inner for root in modules_of(model) for inner in root.modules()):
        if isinstance(module, torch.jit.ScriptModule):
            return model
        tensors = *module.parameters(recurse=False), *module.buffers(recurse=False), *vars(module).values()
        kept |= {id(value): value for value in tensors if isinstance(value, Tensor)}
    try:
        return deepcopy(model, kept)
    except Exception:
        return model


def _check_answers(graph: Graph, model: Callable[..., Any], x: Tensor) -> None:
    """Refuse a graph that does not give the answers of the model, at samples, one alone too, and at random points."""
    generator = torch.Generator().manual_seed(0)
    some = x[:3].detach()
    low, high = float(x.min()), float(x.max())
    network = graph.network(x.dtype if x.dtype == torch.float64 else torch.float32)
    noise = torch.rand(some.shape, generator=generator).to(some)
    for points in some, low + (high - low) * noise, some[:1]:
        with torch.no_grad():
            mine, given = network.logits(points), logits_of(enter(model, points.clone()), model)
            if network.head is Head.SOFTMAX:
                mine = mine.softmax(1)
            elif network.head is Head.LOG_SOFTMAX:
                mine = mine.log_softmax(1)
        if mine.shape != given.shape or not _agree(mine.to(given), given):
            raise BadInput(
                f"the recorded operations of {graph.name} do not give its answers: it is random, depends on earlier "
                f"calls or on the number of samples, or computes outside of PyTorch; {REMEDY}"
            )


def _agree(mine: Tensor, given: Tensor) -> bool:
    """Return whether two computations of some answers agree.

    Samples whose answers overflow must do so in both: their bounds overflow as well, which leaves them open.
    """
    finite = given.isfinite().all(1)
    if not torch.equal(finite, mine.isfinite().all(1)):
        return False
    mine, given = mine[finite], given[finite]
    apart = (mine - given).abs().amax(1)
    return bool((apart <= 1e-4 + 1e-3 * given.abs().amax(1)).all())
