"""Bounds of the nodes in between with slopes of their own (the inner bounds of alpha-CROWN).

Every entry before a ReLU whose sign is unknown gets its own lower slopes of the ReLUs before it, which are raised by
Adam; any slopes give valid bounds. The slopes are stored in multiples of 1 / 255, so that a check can repeat the
bounds.

References:
    Xu et al., Fast and complete: enabling complete verification with rapid and massively parallel incomplete verifiers,
    ICLR 2021, arXiv:2011.13824.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.certification import patches
from unfooled.certification.alpha import Steps, raised
from unfooled.certification.crown import Relaxed, Rows, backward, in_parts
from unfooled.certification.network import Interval
from unfooled.certification.nodes import Bounds
from unfooled.certification.relaxation import Lines, coded, decoded
from unfooled.core.shapes import flat

FEW, MANY = 32, 256  # entries bounded at once: by coefficients of whole nodes, and of windows
MOST = 2048  # entries of a node that get slopes of their own


@dataclass(frozen=True, eq=False)
class Inner:
    """Slopes for bounds of entries in between, one row an entry.

    Attributes:
        owner: Sample, (N,).
        node: Position of the node, (N,).
        place: Flat position of the entry, (N,).
        count: Number of slopes, (N,); the first half is for the lower bound, the second for the upper one.
        slopes: Slopes of all rows, one row after another, in multiples of 1 / 255; uint8.
    """

    owner: Tensor
    node: Tensor
    place: Tensor
    count: Tensor
    slopes: Tensor

    @classmethod
    def none(cls) -> Self:
        """Return no slopes."""
        empty = torch.zeros(0, dtype=torch.int64)
        return cls(empty, empty, empty, empty, torch.zeros(0, dtype=torch.uint8))

    def joined(self, *others: Inner) -> Self:
        """Return these rows and others."""
        return replace(
            self, **{f.name: torch.cat([getattr(part, f.name) for part in (self, *others)]) for f in fields(self)}
        )

    def take(self, rows: Tensor) -> Self:
        """Return some of the rows."""
        ends = self.count.cumsum(0)
        parts = [self.slopes[int(ends[k] - self.count[k]) : int(ends[k])] for k in rows]
        slopes = torch.cat(parts) if parts else self.slopes[:0]
        chosen = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "slopes"}
        return replace(self, slopes=slopes, **chosen)

    def of_samples(self, samples: Tensor) -> Self:
        """Return the rows of some samples, whose positions among these become their owners."""
        place = {int(sample): k for k, sample in enumerate(samples)}
        rows = torch.tensor([k for k, owner in enumerate(self.owner.tolist()) if owner in place], dtype=torch.int64)
        own = self.take(rows)
        return replace(own, owner=torch.tensor([place[int(k)] for k in own.owner], dtype=torch.int64))


@dataclass(eq=False)
class Entries:
    """Some entries of a node, and their negatives, whose bounds are functions of slopes.

    Attributes:
        bounds: Bounds of the nodes.
        node: Position of the node.
        owner: Sample of each entry, (R,).
        place: Flat position of each entry, (R,).
        patch: The entries as functions of windows. None: they are none.
        relaxed: Relaxation of both signs of the entries, where coefficients are those of whole nodes.
    """

    bounds: Bounds
    node: int
    owner: Tensor
    place: Tensor
    patch: patches.Patch | None = None
    relaxed: Relaxed | None = None

    def __post_init__(self) -> None:
        if patches.sees_windows(self.bounds, self.node):
            self.patch = patches.entries(self.bounds, self.node, self.owner, self.place)

    def start(self) -> dict[int, Tensor]:
        """Return the default slopes by position, (2 R, *shape)."""
        found, patch, last = {}, self.patch, self.node
        while patch is not None:
            last = patch.node
            slopes, before = patches.default_slopes(self.bounds, patch), patches.stepped(patch, self.bounds)
            if before is not None and slopes is not None:
                found[last] = torch.cat([slopes, slopes])
            patch = before
        twice = torch.cat([self.owner, self.owner])
        for k in self.bounds.network.bends:
            line = self.bounds.lines(k) if k <= last and k not in found else None
            if isinstance(line, Lines):
                found[k] = line.low_slope[twice]
        return found

    def lower(self, slopes: Mapping[int, Tensor]) -> Tensor:
        """Return lower bounds of the entries, and then of their negatives, (2 R,)."""
        network = self.bounds.network
        if self.patch is None:
            one = torch.zeros(len(self.place), math.prod(network.nodes[self.node].shape), device=self.place.device)
            one = one.to(network.dtype).scatter(1, self.place[:, None], 1.0)
            one = one.reshape(-1, *network.nodes[self.node].shape)
            return self._whole(self.node, torch.cat([one, -one]), slopes)
        own = {k: value.unflatten(0, (2, -1)) for k, value in slopes.items()}
        patch = patches.taken_back(self.patch, self.bounds, own)
        if not network.nodes[patch.node].inputs and self.bounds.region.norm == math.inf:
            return patches.least(self.bounds, patch).flatten()
        a = patch.dense(network.nodes[patch.node].shape).flatten(0, 1)
        return self._whole(patch.node, a, slopes) + patch.total.flatten()

    def _whole(self, node: int, a: Tensor, slopes: Mapping[int, Tensor]) -> Tensor:
        own = {k: value for k, value in slopes.items() if k <= node and value.shape[1:] == self._shape(k)}
        rows = Rows(node, a, torch.cat([self.owner, self.owner]), own)
        if self.relaxed is None:
            with torch.no_grad():
                self.relaxed = Relaxed.of(self.bounds, rows)
        return backward(rows, self.relaxed)[0]

    def _shape(self, k: int) -> torch.Size:
        return torch.Size(self.bounds.network.nodes[k].shape)


@dataclass(eq=False)
class Ascents:
    """Better bounds of nodes by ascents of slopes, for `crown_bounds`.

    Attributes:
        steps: The ascents.
        goes_on: Function that returns whether there is time left.
        rows: Slopes of all bounds so far.
    """

    steps: Steps
    goes_on: Callable[[], bool] = lambda: True
    rows: list[Inner] = field(default_factory=list)

    def __call__(self, bounds: Bounds, i: int) -> Interval:
        """Return better bounds of a node."""
        low, high = (flat(end).clone() for end in bounds.nodes[i])
        owner, place = ((low < 0) & (high > 0)).nonzero(as_tuple=True)
        if len(owner) > MOST * len(low) or not any(k < i for k in bounds.network.bends):
            return bounds.nodes[i]
        for part in in_parts(torch.arange(len(owner), device=owner.device), _at_once(bounds, i)):
            if not self.goes_on():
                break
            self._raise(Entries(bounds, i, owner[part], place[part]), low, high)
        shape = bounds.nodes[i][0].shape
        return low.reshape(shape), high.reshape(shape)

    def _raise(self, entries: Entries, low: Tensor, high: Tensor) -> None:
        start = entries.start()

        def bound(leaves: Sequence[Tensor]) -> Tensor:
            return entries.lower(dict(zip(start, leaves, strict=True)))

        kept = raised(bound, [*start.values()], [], self.steps)[1]
        signs = torch.cat([flat(coded(value)) for value in kept], 1).chunk(2)  # slopes of signs 1 and -1
        stored = torch.cat(signs, 1).cpu()
        count = torch.full((len(stored),), stored.shape[1])
        node = torch.full((len(stored),), entries.node)
        rows = Inner(entries.owner.cpu(), node, entries.place.cpu(), count, stored.flatten())
        self.rows.append(rows)
        _meet(entries, rows, low, high)


@dataclass(frozen=True, eq=False)
class Stored:
    """Better bounds of nodes by stored slopes, for `crown_bounds`.

    Attributes:
        inner: The slopes, whose owners are positions in the bounds.
    """

    inner: Inner

    def __call__(self, bounds: Bounds, i: int) -> Interval:
        """Return better bounds of a node."""
        low, high = (flat(end).clone() for end in bounds.nodes[i])
        for part in in_parts((self.inner.node == i).nonzero()[:, 0], _at_once(bounds, i)):
            own = self.inner.take(part)
            _meet(Entries(bounds, i, own.owner.to(low.device), own.place.to(low.device)), own, low, high)
        shape = bounds.nodes[i][0].shape
        return low.reshape(shape), high.reshape(shape)


def _at_once(bounds: Bounds, i: int) -> int:
    return MANY if patches.sees_windows(bounds, i) else FEW


def _meet(entries: Entries, rows: Inner, low: Tensor, high: Tensor) -> None:
    """Take over better bounds of entries by stored slopes, in place; slopes of another size are of no use."""
    start = entries.start()
    sizes = [flat(value).shape[1] for value in start.values()]
    if not bool((rows.count == 2 * sum(sizes)).all()):
        return
    stored = rows.slopes.reshape(len(rows.owner), 2, -1).transpose(0, 1).flatten(0, 1).to(low.device)
    slopes = {
        k: decoded(part, value.dtype).reshape(value.shape)
        for part, (k, value) in zip(stored.split(sizes, 1), start.items(), strict=True)
    }
    with torch.no_grad():
        below, above = entries.lower(slopes).chunk(2)
    at = entries.owner, entries.place
    low[at], high[at] = torch.maximum(low[at], below), torch.minimum(high[at], -above)
