"""Bounds of the nodes of a network, and the lines of its activations between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self, overload

import torch
from torch import Tensor

from unfooled.certification.network import Interval, Network
from unfooled.certification.operations import Activation, MaxPool
from unfooled.certification.region import Region
from unfooled.certification.relaxation import Lines, Windows, lines


class _Taken(Sequence[Interval]):
    """Bounds of nodes for some samples, copied when they are first asked for: most rows need few of them."""

    def __init__(self, nodes: Sequence[Interval], rows: Tensor) -> None:
        self._nodes, self._rows = nodes, rows
        self._copies: dict[int, Interval] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, i: int) -> Interval: ...

    @overload
    def __getitem__(self, i: slice) -> list[Interval]: ...

    def __getitem__(self, i: int | slice) -> Interval | list[Interval]:
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        if i not in self._copies:
            low, high = self._nodes[i]
            self._copies[i] = low[self._rows], high[self._rows]
        return self._copies[i]


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of the nodes of a network for some samples.

    Attributes:
        network: The network.
        whole: Set of inputs around all samples.
        nodes: Lower and upper bounds of each node, (B, *shape).
        unit: Unit of rounding by which bounds are moved outwards; 0: not at all.
        rows: Samples that the bounds are for, as positions in `whole`. None: all of them, in order.
    """

    network: Network
    whole: Region
    nodes: Sequence[Interval]
    unit: float = 0.0
    rows: Tensor | None = None
    _lines: dict[int, Lines | Windows] = field(init=False, repr=False, default_factory=dict)

    @cached_property
    def region(self) -> Region:
        """Set of inputs around the samples."""
        return self.whole if self.rows is None else self.whole.take(self.rows)

    def take(self, rows: Tensor) -> Self:
        """Return the bounds for some samples, in any order and number."""
        own = rows if self.rows is None else self.rows[rows]
        return replace(self, nodes=_Taken(self.nodes, rows), rows=own)

    def reach(self, i: int) -> Tensor:
        """Return the largest size of every entry of a node, (B, *shape)."""
        return torch.maximum(self.nodes[i][0].abs(), self.nodes[i][1].abs())

    def lines(self, i: int) -> Lines | Windows:
        """Return the lines of an activation; computed once."""
        if i not in self._lines:
            operation = self.network.nodes[i].operation
            assert isinstance(operation, (Activation, MaxPool))
            self._lines[i] = lines(operation, *self.nodes[self.network.nodes[i].inputs[0]], unit=self.unit)
        return self._lines[i]
