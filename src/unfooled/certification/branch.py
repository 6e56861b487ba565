"""Branch and bound: the region is cut at unstable ReLUs until every part is proven, or a counterexample is found.

A part restricts some ReLUs to one side of 0; each restriction enters the bound with a price (beta-CROWN). The part with
the worst bound is cut next, at the ReLU whose two sides have the best bounds among a few candidates.

References:
    Bunel et al., Branch and bound for piecewise linear neural network verification, JMLR 2020, arXiv:1909.06588.
    Wang et al., Beta-CROWN, NeurIPS 2021, arXiv:2103.06624.
    De Palma et al., Improved branch and bound for neural network verification via Lagrangian decomposition, 2021,
    arXiv:2104.06718 (candidates are tried before one is chosen).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from unfooled.certification.alpha import Optimised, Steps, optimise
from unfooled.certification.crown import Bounds, Relaxed, Rows, backward, lower_bounds
from unfooled.certification.proof import Domains
from unfooled.certification.reduced import Reduced, reduced
from unfooled.certification.relaxation import Lines, coded, decoded
from unfooled.core.shapes import flat

Search = Callable[[Tensor], Tensor | None]
"""Points of the region, (M, *D) -> an adversarial example that was found from them, (*D), or None."""


@dataclass(frozen=True)
class Limits:
    """Limits of the search on one sample.

    Attributes:
        seconds: Time.
        domains: Parts that are open at once, which bounds the memory.
        batch: Parts cut at once.
        candidates: ReLUs tried before one is chosen.
        first: Ascent of the first bounds.
        later: Ascent of the bounds of parts.
        last: Ascent of the bounds of parts in which no ReLU is left to be cut.
        goal: Bound above which a part is proven.
        clock: Function that returns the seconds that are counted; `time.process_time` on a loaded machine.
    """

    seconds: float = 30.0
    domains: int = 4096
    batch: int = 64
    candidates: int = 3
    first: Steps = Steps(40)  # noqa: RUF009  (frozen)
    later: Steps = Steps(12, slope=0.05, price=0.1)  # noqa: RUF009
    last: Steps = Steps(300, slope=0.05, price=0.2, decay=0.99)  # noqa: RUF009
    goal: float = 0.0
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a search.

    Attributes:
        lower: Lower bound of every margin that was open, (R,).
        domains: Proven parts, if all of them are. None: some are open.
        example: Counterexample, (*D). None: none was found.
        count: Parts that were bounded.
    """

    lower: Tensor
    domains: Domains | None
    example: Tensor | None
    count: int


@dataclass(eq=False)
class Parts:
    """Parts of the region, open or proven.

    Attributes:
        rows: Rows of their bounds.
        margin: Position of the margin, (M,).
        lower: Lower bounds, (M,).
    """

    rows: Rows
    margin: Tensor
    lower: Tensor

    def __len__(self) -> int:
        return len(self.lower)

    def take(self, at: Tensor) -> Parts:
        """Return some of the parts."""
        return Parts(self.rows.take(at), self.margin[at], self.lower[at])

    def joined(self, other: Parts) -> Parts:
        """Return these parts and others."""
        return Parts(
            _stacked(self.rows, other.rows), torch.cat([self.margin, other.margin]),
            torch.cat([self.lower, other.lower]),
        )  # fmt: skip


def _stacked(a: Rows, b: Rows) -> Rows:
    def each(name: str) -> dict[int, Tensor]:
        return {i: torch.cat([value, getattr(b, name)[i]]) for i, value in getattr(a, name).items()}

    return replace(
        a, a=torch.cat([a.a, b.a]), owner=torch.cat([a.owner, b.owner]), slopes=each("slopes"), splits=each("splits"),
        prices=each("prices"),
    )  # fmt: skip


def branch_and_bound(
    bounds: Bounds, rows: Rows, margin: Tensor, limits: Limits = Limits(), *, search: Search | None = None
) -> Outcome:
    """Decide the margins of one sample.

    Args:
        bounds: Bounds of the nodes for this one sample.
        rows: Rows of its open margins.
        margin: Their positions among the margins of the sample, (R,).
        limits: Limits of time and memory.
        search: Function that looks for an adversarial example from the minimisers of open parts. None: the minimisers
            alone are tried.
    """
    end = limits.clock() + limits.seconds
    small = reduced(bounds)
    network, rows = small.bounds.network, replace(rows, start=len(small.bounds.network.nodes) - 1)
    zeros = {i: torch.zeros(len(rows.owner), *network.nodes[i].shape, device=rows.a.device) for i in network.bends}
    done = optimise(replace(rows, splits={}, prices={}), small.bounds, limits.first, goal=limits.goal)
    splits = {i: z.to(torch.int8) for i, z in zeros.items()}
    tree = _Tree(small, limits, search, {int(k): -torch.inf for k in margin})
    tree.take_over(replace(done, rows=replace(done.rows, splits=splits, prices=zeros)), margin)
    while tree.left and tree.example is None and limits.clock() < end and len(tree.left) <= limits.domains:
        tree.grow()
    open_margins = tree.open_margins
    closed = None if open_margins or tree.example is not None else _domains(small, tree.proven)
    return Outcome(torch.tensor([tree.lower(int(k)) for k in margin]), closed, tree.example, tree.count)


@dataclass(eq=False)
class _Tree:
    """Parts of a region while it is cut.

    Attributes:
        small: The network around the sample.
        limits: Limits.
        search: Function that looks for adversarial examples. None: there is none.
        best: Best lower bound of each margin so far.
        left: Parts to be cut. None: none yet.
        proven: Proven parts.
        stuck: Open parts in which nothing is left to be cut.
        example: Counterexample. None: none was found.
        count: Parts that were bounded.
    """

    small: Reduced
    limits: Limits
    search: Search | None
    best: dict[int, float]
    left: Parts | None = None
    proven: list[Parts] = field(default_factory=list)
    stuck: list[Parts] = field(default_factory=list)
    example: Tensor | None = None
    count: int = 0

    @property
    def bounds(self) -> Bounds:
        """Bounds of the nodes."""
        return self.small.bounds

    @property
    def unfinished(self) -> list[Parts]:
        """Open parts."""
        return [*([] if self.left is None else [self.left]), *self.stuck]

    @property
    def open_margins(self) -> set[int]:
        """Margins with an open part."""
        return {int(k) for parts in self.unfinished for k in parts.margin}

    def lower(self, margin: int) -> float:
        """Return the best lower bound of a margin: that of its worst part, or an earlier one."""
        among = self.unfinished if margin in self.open_margins else self.proven
        worst = torch.cat([parts.lower[parts.margin == margin] for parts in among])
        self.best[margin] = max(self.best[margin], float(worst.amin()))
        return self.best[margin]

    def take_over(self, done: Optimised, margin: Tensor) -> None:
        """Sort bounded parts into proven and open ones."""
        self.count += len(margin)
        parts, self.example = _sorted_out(done, margin, self.proven, self.small, self.limits, self.search)
        self.left = parts if self.left is None else self.left.joined(parts)

    def grow(self) -> None:
        """Cut the worst parts, or raise the bounds of those in which nothing is left to be cut."""
        assert self.left is not None
        for margin in {int(k) for k in self.left.margin}:
            self.lower(margin)
        order = self.left.lower.argsort()
        now, self.left = self.left.take(order[: self.limits.batch]), self.left.take(order[self.limits.batch :])
        with torch.no_grad():
            relaxed = Relaxed.of(self.bounds, now.rows)
            at_bends = backward(now.rows, relaxed)[2]
        network = self.bounds.network
        scores = torch.cat([_scores(relaxed.lines[i], at_bends[i], now.rows.splits[i]) for i in network.bends], 1)
        whole = scores.amax(1) > 0
        if not bool(whole.all()):
            last = now.take((~whole).nonzero()[:, 0])
            done = optimise(last.rows, self.bounds, self.limits.last, goal=self.limits.goal)
            rest, self.example = _sorted_out(done, last.margin, self.proven, self.small, self.limits, self.search)
            self.stuck += [rest] if len(rest) else []
        at = whole.nonzero()[:, 0]
        if len(at) and self.example is None:
            children = _cut(now.take(at), scores[at], self.bounds, self.limits)
            done = optimise(children.rows, self.bounds, self.limits.later, goal=self.limits.goal)
            self.take_over(replace(done, lower=torch.maximum(done.lower, children.lower)), children.margin)
        elif len(at):
            self.stuck.append(now.take(at))


def _domains(small: Reduced, proven: list[Parts]) -> Domains:
    """Return the proven parts as they are stored."""
    network = small.whole
    result = Domains.none(sum(math.prod(network.nodes[i].shape) for i in network.bends))
    for part in proven:
        result = result.joined(Domains.of(network, small.expanded(part.rows), part.margin))
    return result


def _sorted_out(
    done: Optimised, margin: Tensor, proven: list[Parts], small: Reduced, limits: Limits, search: Search | None
) -> tuple[Parts, Tensor | None]:
    """Put proven parts aside; return the open ones, and a counterexample if their minimisers lead to one.

    A part is proven by its slopes as they are stored.
    """
    bounds, closed = small.bounds, done.lower > limits.goal
    at = closed.nonzero()[:, 0]
    if len(at):
        rows = done.rows.take(at)
        rows = replace(rows, slopes={i: decoded(coded(value), value.dtype) for i, value in rows.slopes.items()})
        lower = lower_bounds(rows, bounds)
        closed[at] = lower > limits.goal
        its = closed[at].nonzero()[:, 0]
        proven.append(Parts(rows.take(its), margin[at[its]], lower[its]))
    rest = (~closed).nonzero()[:, 0]
    left = Parts(done.rows.take(rest), margin[rest], done.lower[rest])
    if not len(rest):
        return left, None
    points = bounds.region.take(left.rows.owner).minimiser(done.coefficients[rest])
    with torch.no_grad():
        values = (left.rows.a * small.whole.logits(points)).sum(1)
    if bool((values < 0).any()):
        return left, points[values.argmin()]
    return left, None if search is None else search(points[values.argsort()])


def _cut(parts: Parts, scores: Tensor, bounds: Bounds, limits: Limits) -> Parts:
    """Return both sides of every part, cut at the best of the candidates with the largest scores."""
    count = min(limits.candidates, scores.shape[1])
    values, places = scores.topk(count, dim=1)
    worst = []
    for c in range(count):
        pair = [_restricted(parts, places[:, c], side, bounds) for side in (1, -1)]
        with torch.no_grad():
            lower = [backward(p.rows, Relaxed.of(bounds, p.rows))[0] for p in pair]
        gain = torch.minimum(*lower) + 0.1 * torch.maximum(*lower)
        worst.append(torch.where(values[:, c] > 0, gain, -torch.inf))
    chosen = places.gather(1, torch.stack(worst, 1).argmax(1, keepdim=True))[:, 0]
    return _restricted(parts, chosen, 1, bounds).joined(_restricted(parts, chosen, -1, bounds))


def _scores(line: object, a: Tensor, split: Tensor) -> Tensor:
    """Return how much the relaxation of each ReLU may cost at most, (M, N)."""
    assert isinstance(line, Lines)
    assert line.free is not None
    above = (-a).clamp_min(0) * line.high_shift
    # Below: the triangle's other corner, at the end of the interval on the side of the lower line's larger gap.
    below = a.clamp_min(0) * line.high_shift * 0.5
    return flat(torch.where(line.free & (split == 0), above + below + 1e-12, 0.0))


def _restricted(parts: Parts, place: Tensor, side: int, bounds: Bounds) -> Parts:
    """Return the parts with one more ReLU each restricted to a side."""
    splits, start = {}, 0
    for i in bounds.network.bends:
        value = flat(parts.rows.splits[i]).clone()
        here = (place >= start) & (place < start + value.shape[1])
        rows = here.nonzero()[:, 0]
        value[rows, place[rows] - start] = side
        splits[i] = value.reshape(parts.rows.splits[i].shape)
        start += value.shape[1]
    return Parts(replace(parts.rows, splits=splits), parts.margin, parts.lower)
