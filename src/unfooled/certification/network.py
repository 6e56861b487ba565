"""A network as a list of operations in order: its forward pass, and what bounds need of it.

A `Network` holds the weights of a traced model in one type; see `graph.py` for how it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from unfooled.certification.operations import Activation, Affine, MaxPool, Shape

Interval = tuple[Tensor, Tensor]
"""Lower and upper bounds, (B, *shape) each."""


class Head(StrEnum):
    """Last operation of a network, which leaves the order of the classes as it is and is left out of the bounds."""

    NONE = ""
    LOG_SOFTMAX = "log_softmax"
    SOFTMAX = "softmax"


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Attributes:
        operation: The operation. None: the input, or the sum of several nodes.
        inputs: Positions of the nodes before it; several for a sum.
        shape: Shape of its result for one sample.
    """

    operation: Affine | Activation | MaxPool | None
    inputs: tuple[int, ...]
    shape: Shape

    @property
    def curved(self) -> bool:
        """True if the operation is neither affine nor a sum."""
        return isinstance(self.operation, (Activation, MaxPool))


@dataclass(frozen=True, eq=False)
class Network:
    """Operations in order; the first node is the input, the last one the logits.

    Attributes:
        nodes: Operations.
        dtype: Type of the weights.
        head: Operation after the last node that is left out.
        shifts: Constant part of affine nodes, W 0 + b, by position; filled when it is first asked for.
        rows: Dual norms of the rows of the first affine nodes, by position and norm; likewise.
    """

    nodes: tuple[Node, ...]
    dtype: torch.dtype
    head: Head = Head.NONE
    shifts: dict[int, Tensor] = field(default_factory=dict, repr=False)
    rows: dict[tuple[int, float], Tensor | None] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.nodes[-1].shape[0]

    @property
    def curved(self) -> list[int]:
        """Positions of the activations and of max pooling."""
        return [i for i, node in enumerate(self.nodes) if node.curved]

    @property
    def bends(self) -> list[int]:
        """Positions of ReLU and leaky ReLU, which can be split at 0."""
        return [i for i, n in enumerate(self.nodes) if isinstance(n.operation, Activation) and n.operation.bends]

    def _value(self, node: Node, before: list[Tensor], x: Tensor) -> Tensor:
        if not before:
            return x.to(self.dtype)
        if isinstance(node.operation, Affine):
            return node.operation.forward(before[0])
        if node.operation is None:
            return torch.stack(torch.broadcast_tensors(*before)).sum(0)
        return node.operation(before[0])

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K)."""
        return self.result_at(x, len(self.nodes) - 1)

    def result_at(self, x: Tensor, i: int) -> Tensor:
        """Return the result of node i, (B, *shape); results that no later node needs are not kept in memory."""
        last = {k: j for j, node in enumerate(self.nodes[: i + 1]) for k in node.inputs}
        results: dict[int, Tensor] = {}
        for j, node in enumerate(self.nodes[: i + 1]):
            results[j] = self._value(node, [results[k] for k in node.inputs], x)
            for k in {k for k in node.inputs if last[k] == j}:
                del results[k]
        return results[i]

    def shift(self, i: int) -> Tensor:
        """Return the constant part of an affine node, W 0 + b, (1, *shape)."""
        if i not in self.shifts:
            node = self.nodes[i]
            assert isinstance(node.operation, Affine)
            before = self.nodes[node.inputs[0]].shape
            like = next((t for t in vars(node.operation).values() if isinstance(t, Tensor)), None)
            zeros = torch.zeros((1, *before), dtype=self.dtype, device=None if like is None else like.device)
            self.shifts[i] = node.operation.forward(zeros)
        return self.shifts[i]
