"""What is stored of a proof, and its second check in float64 with outward rounding.

A sample is proven by a level alone (intervals, CROWN-IBP, CROWN), or by domains: parts of its region, each with the
slopes and prices for which its bound is above 0. The check computes every bound anew, in float64 with all rounding
errors added on the unfavourable side, and refuses domains that do not cover the whole region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Self

import torch
from torch import Tensor

from unfooled.certification.crown import (
    Bounds,
    Rows,
    crown_bounds,
    in_parts,
    interval_bounds,
    lower_bounds,
    margin_rows,
    samples_at_once,
)
from unfooled.certification.ibp import UNIT
from unfooled.certification.inner import Inner, Stored
from unfooled.certification.network import Network
from unfooled.certification.region import Region
from unfooled.certification.relaxation import coded, decoded
from unfooled.core.shapes import flat


class Level(IntEnum):
    """Method that proves a sample."""

    OPEN = 0
    INTERVALS = 1
    CROWN_IBP = 2
    CROWN = 3
    DOMAINS = 4


@dataclass(frozen=True, eq=False)
class Domains:
    """Parts of regions on which a margin is above 0.

    Attributes:
        owner: Sample, (M,).
        margin: Position of the margin among those of the sample, (M,).
        slopes: Lower slopes of all ReLUs in multiples of 1 / 255, (M, N) uint8.
        places: ReLUs that are split, as positions among all of them, (M, S); -1 fills up.
        sides: Their sides, 1 or -1, (M, S); 0 fills up.
        prices: Their multipliers, (M, S).
    """

    owner: Tensor
    margin: Tensor
    slopes: Tensor
    places: Tensor
    sides: Tensor
    prices: Tensor

    @classmethod
    def none(cls, bends: int) -> Self:
        """Return no domains of a network with a number of ReLUs."""
        row = torch.zeros(0, dtype=torch.int64)
        return cls(
            row, row, torch.zeros(0, bends, dtype=torch.uint8), torch.zeros(0, 0, dtype=torch.int64),
            torch.zeros(0, 0, dtype=torch.int8), torch.zeros(0, 0),
        )  # fmt: skip

    @classmethod
    def of(cls, network: Network, rows: Rows, margin: Tensor) -> Self:
        """Return the domains of optimised rows."""
        sizes = [flat(rows.slopes[i]).shape[1] for i in network.bends]
        slopes = torch.cat([flat(rows.slopes[i]) for i in network.bends], 1)
        n = len(rows.owner)
        zeros = {i: torch.zeros(n, size, device=slopes.device) for i, size in zip(network.bends, sizes, strict=True)}
        splits, prices = (
            torch.cat([flat(given.get(i, zeros[i])) for i in network.bends], 1) for given in (rows.splits, rows.prices)
        )
        width = int((splits != 0).sum(1).amax()) if n else 0
        order = (splits != 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
        sides = splits.gather(1, order).to(torch.int8)
        places = torch.where(sides != 0, order, -1)
        stored = coded(slopes)
        return cls(
            rows.owner.cpu(), margin.cpu(), stored.cpu(), places.cpu(), sides.cpu(),
            (prices.gather(1, order) * (sides != 0)).float().cpu(),
        )  # fmt: skip

    def joined(self, other: Domains) -> Self:
        """Return these domains and others."""
        width = max(self.places.shape[1], other.places.shape[1])

        def wide(value: Tensor, fill: int) -> Tensor:
            return torch.nn.functional.pad(value, (0, width - value.shape[1]), value=fill)

        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        for name, fill in (("places", -1), ("sides", 0), ("prices", 0)):
            pairs[name] = (wide(pairs[name][0], fill), wide(pairs[name][1], fill))
        return replace(self, **{name: torch.cat(pair) for name, pair in pairs.items()})

    def take(self, rows: Tensor) -> Self:
        """Return some of the domains."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def rows(self, network: Network, margins: Rows) -> Rows:
        """Return the rows of bounds that these domains stand for."""
        device, per_sample = margins.a.device, network.classes - 1
        own = margins.take((self.owner * per_sample + self.margin).to(device))
        n, bends = len(self.owner), self.slopes.shape[1]
        places = self.places.clamp_min(0)
        sides = torch.zeros(n, bends, dtype=torch.int64).scatter_add(1, places, self.sides.long())
        prices = torch.zeros(n, bends, dtype=network.dtype)
        prices = prices.scatter_add(1, places, self.prices.clamp_min(0).to(network.dtype) * (self.sides != 0))
        slopes = decoded(self.slopes, network.dtype)
        shapes = {i: network.nodes[i].shape for i in network.bends}
        sizes = [int(torch.tensor(shape).prod()) for shape in shapes.values()]

        def parts(value: Tensor) -> dict[int, Tensor]:
            pieces = value.to(device).split(sizes, 1)
            return {i: piece.reshape(n, *shapes[i]) for i, piece in zip(shapes, pieces, strict=True)}

        return replace(own, slopes=parts(slopes), splits=parts(sides), prices=parts(prices))


def covers(parts: Sequence[dict[int, int]]) -> bool:
    """Return whether parts cover everything; each restricts some ReLUs, place -> side, to one of their two sides."""
    if any(not part for part in parts):
        return True
    if not parts:
        return False
    place = next(iter(parts[0]))
    for side in (1, -1):
        rest = [{k: s for k, s in part.items() if k != place} for part in parts if part.get(place, side) == side]
        if not covers(rest):
            return False
    return True


def checked(
    network: Network, region: Region, y: Tensor, level: Tensor, domains: Domains, inner: Inner | None = None
) -> Tensor:
    """Compute the proofs anew with outward rounding.

    Args:
        network: The network in float64.
        region: Regions of the samples in float64.
        y: Labels, (B,).
        level: Level of each proof, (B,).
        domains: Domains of the samples at level `DOMAINS`.
        inner: Slopes of their nodes in between. None: the default ones.

    Returns:
        Lower bound of the smallest margin, (B,); -inf for open samples and where domains do not cover the region.
    """
    result = torch.full((len(y),), -torch.inf, dtype=torch.float64)
    for at in (Level.INTERVALS, Level.CROWN_IBP, Level.CROWN, Level.DOMAINS):
        for part in in_parts((level == at).nonzero()[:, 0], samples_at_once(network, 16)):
            on = part.to(y.device)
            bounds = interval_bounds(network, region.take(on), unit=UNIT)
            if at >= Level.CROWN:
                own = None if inner is None or at is Level.CROWN else Stored(inner.of_samples(part))
                bounds = crown_bounds(bounds, tighten=own)
            rows = margin_rows(network, y[on])
            lower = lower_bounds(rows, bounds, by_lines=at > Level.INTERVALS).reshape(len(part), -1)
            if at is Level.DOMAINS:
                lower = _by_domains(network, bounds, rows, lower, part, domains)
            result[part] = lower.amin(1).cpu().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return result


def _by_domains(
    network: Network, bounds: Bounds, margins: Rows, lower: Tensor, part: Tensor, domains: Domains
) -> Tensor:
    """Return the bounds of the margins: the worst of their domains, if these cover the region, where that is better."""
    result = lower.clone()
    place = {int(sample): k for k, sample in enumerate(part)}
    mine = torch.tensor([i for i, owner in enumerate(domains.owner.tolist()) if owner in place], dtype=torch.int64)
    some = domains.take(mine)
    some = replace(some, owner=torch.tensor([place[int(owner)] for owner in some.owner], dtype=torch.int64))
    values = []
    for piece in in_parts(torch.arange(len(mine)), 256):
        own = some.take(piece)
        values.append(lower_bounds(own.rows(network, margins), bounds).cpu())
    value = torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
    for sample, margin in sorted(set(zip(some.owner.tolist(), some.margin.tolist(), strict=True))):
        its = ((some.owner == sample) & (some.margin == margin)).nonzero()[:, 0]
        if covers([sides for i in its.tolist() if (sides := _part(some, i)) is not None]):
            result[sample, margin] = torch.maximum(lower[sample, margin], value[its].amin().to(lower))
    return torch.where(result > 0, result, -torch.inf)


def _part(domains: Domains, i: int) -> dict[int, int] | None:
    """Return the sides of the ReLUs of a domain; None if one of them has two."""
    pairs = [(int(p), int(s)) for p, s in zip(domains.places[i], domains.sides[i], strict=True) if s != 0]
    return dict(pairs) if len(dict(pairs)) == len(pairs) else None
