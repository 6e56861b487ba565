"""A network as it is around one sample: only its ReLUs of unknown sign are left, all else is merged into matrices.

Inside the region of a sample a ReLU of known sign is a linear function, so that the entries before the others, and the
logits, are linear functions of the input and of the ReLUs left before them. Bounds are the same, and much cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unfooled.certification.crown import Relaxed, Rows, backward, in_parts, rows_at_once
from unfooled.certification.ibp import intervals
from unfooled.certification.network import Network, Node
from unfooled.certification.nodes import Bounds
from unfooled.certification.operations import Activation, Matrix, Reshape
from unfooled.certification.relaxation import Lines
from unfooled.core.shapes import flat

MOST = 2**25  # entries of all matrices; a network with more of them stays as it is


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network around one sample.

    Attributes:
        bounds: Bounds of its nodes.
        bends: Positions of its ReLUs, by their positions in the whole network; ReLUs without entries left are missing.
        places: Flat positions of the entries left of each ReLU in the whole network.
        whole: The whole network.
    """

    bounds: Bounds
    bends: Mapping[int, int]
    places: Mapping[int, Tensor]
    whole: Network

    def expanded(self, rows: Rows) -> Rows:
        """Return rows of the whole network; slopes, splits and prices of entries that were merged are 0."""

        def wide(values: Mapping[int, Tensor]) -> dict[int, Tensor]:
            result = {}
            for i in self.whole.bends if values else ():
                shape = self.whole.nodes[i].shape
                full = rows.a.new_zeros(len(rows.owner), math.prod(shape))
                if i in self.bends:
                    full[:, self.places[i]] = flat(values[self.bends[i]]).to(full)
                result[i] = full.reshape(-1, *shape)
            return result

        return replace(
            rows, start=len(self.whole.nodes) - 1, slopes=wide(rows.slopes), splits=wide(rows.splits),
            prices=wide(rows.prices),
        )  # fmt: skip


def reduced(bounds: Bounds) -> Reduced:
    """Return the network around one sample; the network itself where it is too large, or has other activations."""
    network = bounds.network
    places = {i: _free(bounds, i) for i in network.bends}
    counts = [len(place) for place in places.values()]
    size = sum(n * (math.prod(network.nodes[0].shape) + sum(counts[:k])) for k, n in enumerate([*counts]))
    if network.curved != network.bends or size > MOST:
        every = {i: torch.arange(math.prod(network.nodes[i].shape)) for i in network.bends}
        return Reduced(bounds, {i: i for i in network.bends}, every, network)
    width = math.prod(network.nodes[0].shape)
    nodes = [Node(None, (), network.nodes[0].shape), Node(Reshape((width,)), (0,), (width,))]
    bends: dict[int, int] = {}
    known = {}
    for i, place in places.items():
        if not len(place):
            continue
        before, operation = network.nodes[i].inputs[0], network.nodes[i].operation
        assert isinstance(operation, Activation)
        _add(nodes, bends, places, _functions(bounds, before, place, places))
        low, high = bounds.nodes[before]
        known[len(nodes) - 1] = flat(low)[:, place], flat(high)[:, place]
        nodes.append(Node(operation, (len(nodes) - 1,), (len(place),)))
        bends[i] = len(nodes) - 1
    last = len(network.nodes) - 1
    _add(nodes, bends, places, _functions(bounds, last, torch.arange(network.classes), places))
    small = Network(tuple(nodes), network.dtype, network.head)
    ends = intervals(small, bounds.region)
    for k, pair in known.items():
        ends[k] = pair  # exactly those of the whole network, which a check computes
    return Reduced(Bounds(small, bounds.region, ends, bounds.unit), bends, places, network)


def _free(bounds: Bounds, i: int) -> Tensor:
    """Return the flat positions of the entries of a ReLU whose sign is not known."""
    line = bounds.lines(i)
    assert isinstance(line, Lines)
    assert line.free is not None
    return flat(line.free)[0].nonzero()[:, 0]


def _functions(
    bounds: Bounds, i: int, place: Tensor, places: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Return entries of a node as linear functions: constants, and coefficients of the input and of ReLUs left."""
    network, shape = bounds.network, bounds.network.nodes[i].shape
    constants, inputs, parts = [], [], []
    for part in in_parts(place, rows_at_once(network, i)):
        a = torch.zeros(len(part), math.prod(shape), dtype=network.dtype, device=part.device)
        a = a.scatter(1, part[:, None], 1.0).reshape(-1, *shape)
        rows = Rows(i, a, torch.zeros(len(part), dtype=torch.int64, device=part.device))
        relaxed = Relaxed.of(bounds, rows)
        merged = replace(relaxed, lines={k: _without_free(line) for k, line in relaxed.lines.items()})
        total, coefficients, at_bends = backward(rows, merged)
        constants.append(total - relaxed.bounds.region.minimum(coefficients))
        inputs.append(flat(coefficients))
        parts.append({k: flat(value)[:, places[k]] for k, value in at_bends.items()})
    joined = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
    return torch.cat(constants), torch.cat(inputs), joined


def _without_free(line: object) -> Lines:
    """Return lines that leave out the entries of unknown sign."""
    assert isinstance(line, Lines)
    assert line.free is not None
    low, high, shift = (torch.where(line.free, 0.0, t) for t in (line.low_slope, line.high_slope, line.high_shift))
    return replace(line, low_slope=low, high_slope=high, high_shift=shift)


def _add(
    nodes: list[Node], bends: Mapping[int, int], places: Mapping[int, Tensor],
    functions: tuple[Tensor, Tensor, dict[int, Tensor]],
) -> None:  # fmt: skip
    """Add nodes that compute linear functions of the input and of ReLUs."""
    constants, inputs, coefficients = functions
    shape = (len(constants),)
    terms = [len(nodes)]
    nodes.append(Node(Matrix(inputs.t().contiguous(), constants), (1,), shape))
    for k, value in coefficients.items():
        if len(places[k]) and bool(value.any()):
            terms.append(len(nodes))
            nodes.append(Node(Matrix(value.t().contiguous(), None), (bends[k],), shape))
    if len(terms) > 1:
        nodes.append(Node(None, tuple(terms), shape))
