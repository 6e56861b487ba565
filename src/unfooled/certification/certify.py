"""Bounds and certificates of a model's samples: intervals first, tighter methods for what is still open.

    certified  <=>  min over k, over the region, of z_y - z_k > 0

Each method takes over the samples that the one before has left open; the best bound of all of them counts. What is
certified has passed the second check, in float64 with outward rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from unfooled.certification.alpha import Steps
from unfooled.certification.branch import Limits, branch_and_bound
from unfooled.certification.certificate import Certificate, proven_rows
from unfooled.certification.crown import (
    crown_bounds,
    in_parts,
    interval_bounds,
    is_finite,
    lower_bounds,
    margin_rows,
    samples_at_once,
    undecided,
)
from unfooled.certification.graph import Graph, trace
from unfooled.certification.inner import Ascents, Inner
from unfooled.certification.network import Network
from unfooled.certification.proof import Domains, Level, checked
from unfooled.certification.region import Region
from unfooled.certification.rounding import least_by_size, least_margins
from unfooled.core.checks import check_attack
from unfooled.core.errors import BadInput, nearest
from unfooled.core.model.batching import batched
from unfooled.core.pulse import beat
from unfooled.core.threats import Threat
from unfooled.runs.chunks import Run
from unfooled.runs.sealed import Rows as StoredRows

STAGE = "certify"
"""Name of the work in a run."""
Proof = TypeVar("Proof", Domains, Inner)
Find = Callable[[Tensor, int], Tensor | None]
"""(points, sample) -> an adversarial example of the sample found from these points of its region, or None."""


@dataclass(frozen=True)
class Effort:
    """Effort of a certification.

    Attributes:
        name: Name in records.
        level: Tightest method by relaxation.
        slopes: Ascent of the bounds by the slopes of the ReLUs. None: there is none.
        limits: Limits of branch and bound. None: there is none.
        most: Largest number of entries of unknown sign that are bounded anew, per sample; samples with more keep the
            bounds of CROWN-IBP. None: no limit.
        seconds: Time for all samples; what is not done by then stays open. None: no limit.
        inner: Ascent of the bounds of nodes in between by slopes of their own, of samples whose margins are raised by
            slopes. None: there is none.
    """

    name: str
    level: Level = Level.CROWN
    slopes: Steps | None = None
    limits: Limits | None = None
    most: int | None = None
    seconds: float | None = None
    inner: Steps | None = None


INNER = Steps(10, slope=0.25, decay=0.9)
GOAL = 2.0
"""Bound that is enough, in multiples of the least margin of a certified sample: the check differs a little."""
EFFORTS = {
    "intervals": Effort("intervals", Level.INTERVALS),
    "quick": Effort("quick", Level.CROWN, most=32),
    "normal": Effort("normal", Level.CROWN, Steps(40), inner=INNER),
    "thorough": Effort("thorough", Level.CROWN, Steps(40), Limits(), inner=INNER),
}
"""Efforts by name: intervals; relaxation where it is cheap; with the best slopes; with branch and bound, 30 seconds a
sample at most. In an audit the quick one costs about a tenth of the attack."""


def effort_of(effort: str | Effort) -> Effort:
    """Return an effort by its name.

    Raises:
        BadInput: There is no such effort.
    """
    if isinstance(effort, Effort):
        return effort
    if effort not in EFFORTS:
        raise BadInput(f"there is no effort {effort!r}; there are {', '.join(EFFORTS)}{nearest(effort, EFFORTS)}")
    return EFFORTS[effort]


@dataclass(eq=False)
class _State:
    """What is proven so far.

    Attributes:
        network: The network.
        graph: The traced model.
        y: Labels.
        region: Regions of all samples.
        margins: Lower bounds of every margin, (B, K - 1).
        level: Level of the proof, (B,).
        domains: Parts proven by branch and bound.
        inner: Slopes of their nodes in between.
        examples: Adversarial examples met.
        end: Time at which the work ends.
        least: Least lower bound of a certified sample, (B,).
        right: Samples that are classified correctly, (B,) bool; the others get bounds by intervals alone.
    """

    network: Network
    graph: Graph
    y: Tensor
    region: Region
    margins: Tensor
    level: Tensor
    domains: Domains
    inner: Inner
    examples: dict[int, Tensor]
    end: float
    right: Tensor
    least: Tensor

    @property
    def open(self) -> Tensor:
        """Samples that are right and not proven, (m,)."""
        return ((self.level == Level.OPEN) & self.right).nonzero()[:, 0]

    @property
    def is_over(self) -> bool:
        """True if the time is over."""
        return time.monotonic() >= self.end


def _begin(graph: Graph, x: Tensor, y: Tensor, threat: Threat, effort: Effort) -> _State:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    network = graph.network(dtype)
    if len(y) and int(y.max()) >= network.classes:
        raise BadInput(f"a label is {int(y.max())}, and the model has {network.classes} classes")
    bends = sum(int(torch.tensor(network.nodes[i].shape).prod()) for i in network.bends)
    region = Region.of(x, threat, dtype)
    margins = torch.full((len(x), network.classes - 1), -torch.inf, dtype=torch.float64)
    level = torch.zeros(len(x), dtype=torch.int8)
    end = time.monotonic() + (float("inf") if effort.seconds is None else effort.seconds)
    state = _State(
        network,
        graph,
        y,
        region,
        margins,
        level,
        Domains.none(bends),
        Inner.none(),
        {},
        end,
        level > 0,
        margins.amin(1),
    )
    logits = batched(network.logits, samples_at_once(network))(x)
    state.right = (logits.argmax(1) == y).cpu()
    state.least = least_by_size(network, logits)
    return state


def _relax(state: _State, part: Tensor, effort: Effort) -> None:
    """Raise the bounds of some samples, one method after another, as long as they are open."""
    on, network = part.to(state.y.device), state.network
    bounds = interval_bounds(network, state.region.take(on))
    for at in (Level.INTERVALS, Level.CROWN_IBP, Level.CROWN):
        if at > effort.level:
            return
        left = state.level[part] == Level.OPEN
        if at is Level.CROWN and effort.most is not None:
            left &= undecided(bounds) <= effort.most
        where = left.nonzero()[:, 0]
        if not len(where):
            continue
        own = bounds.take(where.to(on.device))
        own = crown_bounds(own) if at is Level.CROWN else own
        rows = margin_rows(network, state.y[on[where.to(on.device)]])
        lower = lower_bounds(rows, own, by_lines=at > Level.INTERVALS)
        _raise(state, part[where], lower.reshape(len(where), -1), at, is_finite(own))


def _raise(state: _State, part: Tensor, lower: Tensor, at: Level, finite: Tensor) -> None:
    """Take over better bounds; a sample all of whose bounds come from this method alone is proven by it."""
    lower = lower.detach().double().cpu().nan_to_num(-torch.inf, torch.inf, -torch.inf)
    lower[~finite.cpu()] = -torch.inf
    state.margins[part] = torch.maximum(state.margins[part], lower)
    state.level[part[(lower > 0).all(1)]] = int(at)


def _branch(state: _State, part: Tensor, effort: Effort, find: Find | None) -> None:
    """Raise the bounds of samples one by one, by slopes and by cutting the region."""
    for sample in part.tolist():
        if state.is_over:
            return
        on, limits = torch.tensor([sample], device=state.y.device), _limits(state, effort)
        end = limits.clock() + limits.seconds
        ascents = None if effort.inner is None else Ascents(effort.inner, lambda: not state.is_over)
        bounds = crown_bounds(interval_bounds(state.network, state.region.take(on)), tighten=ascents)
        rows = margin_rows(state.network, state.y[on])
        if not bool(is_finite(bounds).all()):
            continue
        least = GOAL * float(state.least[sample])
        lower = lower_bounds(rows, bounds).double().cpu()
        state.margins[sample] = torch.maximum(state.margins[sample], lower)
        missing = (lower <= least).nonzero()[:, 0]
        domains: Domains | None = Domains.none(state.domains.slopes.shape[1])
        if len(missing):
            limits = replace(limits, seconds=max(end - limits.clock(), 0.0), goal=least)
            search = None if find is None or effort.limits is None else lambda points, s=sample: find(points, s)
            result = branch_and_bound(bounds, rows.take(missing.to(rows.owner.device)), missing, limits, search=search)
            state.margins[sample, missing] = torch.maximum(state.margins[sample, missing], result.lower.double())
            domains = result.domains
            if result.example is not None:
                state.examples[sample] = result.example
        if domains is not None:
            state.domains = state.domains.joined(_owned(domains, sample))
            state.inner = state.inner.joined(*(_owned(rows, sample) for rows in (ascents.rows if ascents else ())))
            state.level[sample] = int(Level.DOMAINS)


def _limits(state: _State, effort: Effort) -> Limits:
    """Return the limits of the next sample."""
    limits = effort.limits or Limits(seconds=0.0)
    seconds = min(limits.seconds, state.end - time.monotonic())
    first = effort.slopes or (Steps(0) if effort.limits is None else limits.first)
    return replace(limits, seconds=seconds, first=first)


def _owned(proof: Proof, sample: int) -> Proof:
    return replace(proof, owner=torch.full_like(proof.owner, sample))


def _prove(state: _State, effort: Effort, find: Find | None) -> None:
    """Run the methods of an effort."""
    for candidates, at_most in ((~state.right).nonzero()[:, 0], EFFORTS["intervals"]), (state.open, effort):
        for part in in_parts(candidates, samples_at_once(state.network)):
            if state.is_over:
                return
            beat(0)  # where the time of the work around it is over, this raises
            _relax(state, part, at_most)
    if effort.slopes is not None or effort.limits is not None:
        _look_at_rounding(state, state.graph.network(torch.float64), state.open)
        _branch(state, state.open, effort, find)


def _look_at_rounding(state: _State, exact: Network, rows: Tensor) -> None:
    """Raise the least margins of some samples to what the rounding seen in their regions needs."""
    state.least[rows] = least_margins(state.network, exact, state.region, rows)


def bounds(
    model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat, *, effort: str | Effort = "normal"
) -> Tensor:
    """Return a lower bound of every sample's smallest margin over a threat.

    Args:
        model: A module, or a callable around one, to logits, in evaluation mode. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Linf, L2 or L1 threat; its eps may be (B,).
        effort: "intervals", "quick", "normal", "thorough", or an `Effort`.

    Returns:
        Lower bounds in logits, (B,); above 0 where no point of the threat changes the label, up to the rounding of the
        model's own arithmetic, of which only `certify` takes account. Samples that are wrong already get bounds by
        intervals alone.

    Raises:
        BadInput: The inputs cannot be used, or the model has an operation that cannot be bounded.
    """
    chosen = effort_of(effort)
    x = check_attack(x, y, threat)
    with torch.no_grad():
        state = _begin(trace(model, x), x, y, threat, chosen)
        _prove(state, chosen, None)
    return state.margins.amin(1).to(x)


def certify(
    model: Callable[..., Any],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    effort: str | Effort = "normal",
    find: Find | None = None,
    run: Run | None = None,
) -> Certificate:
    """Prove samples robust.

    Args:
        model: A module, or a callable around one, to logits, in evaluation mode. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Linf, L2 or L1 threat; its eps may be (B,).
        effort: "intervals", "quick", "normal", "thorough", or an `Effort`.
        find: Function that looks for an adversarial example from the minimisers of open parts. None: the minimisers
            alone are tried.
        run: Run that stores finished parts of `run.chunk` samples, and reports progress. None: no part is stored.

    Returns:
        The certificate; every proof in it has passed the second check.

    Raises:
        BadInput: The inputs cannot be used, or the model has an operation that cannot be bounded.
    """
    chosen = effort_of(effort)
    x = check_attack(x, y, threat)
    with torch.no_grad():
        graph = trace(model, x)
        if run is None:
            return Certificate.of(model, x, y, threat, *_certified(graph, x, y, threat, chosen, find))
    return Certificate.joined(model, x, y, threat, _in_run(run, graph, x, y, threat, chosen, find))


def proven(
    model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat, *, effort: str | Effort = "normal"
) -> Tensor:
    """Return which samples are proven robust, (B,) bool: those that `certify` certifies, without a certificate."""
    with torch.no_grad():
        lower, level, *_ = _certified(trace(model, x), x, y, threat, effort_of(effort), None)
    return (level > Level.OPEN) & (lower > 0)


def _certified(
    graph: Graph, x: Tensor, y: Tensor, threat: Threat, effort: Effort, find: Find | None
) -> tuple[Tensor, Tensor, Domains, Inner, dict[int, Tensor]]:
    """Return lower bounds and levels of samples, (B,), proven parts and their inner slopes, and the examples met."""
    state = _begin(graph, x, y, threat, effort)
    _prove(state, effort, find)
    network = state.graph.network(torch.float64)
    _look_at_rounding(state, network, (state.level > Level.OPEN).nonzero()[:, 0])
    again = checked(network, Region.of(x, threat, torch.float64), y, state.level, state.domains, state.inner)
    lower = state.margins.amin(1)
    closed = state.level > Level.OPEN
    failed = closed & ~(again > state.least)
    state.level[failed] = int(Level.OPEN)
    lower = torch.where(closed, again, lower)
    by_parts = state.level == Level.DOMAINS
    domains = state.domains.take(by_parts[state.domains.owner].nonzero()[:, 0])
    inner = state.inner.take(by_parts[state.inner.owner].nonzero()[:, 0])
    return lower, state.level, domains, inner, state.examples


def _in_run(
    run: Run, graph: Graph, x: Tensor, y: Tensor, threat: Threat, effort: Effort, find: Find | None
) -> list[StoredRows]:
    """Return the rows of the certificates of all parts: stored ones, and those that are computed now."""
    parts: list[StoredRows] = []

    def report() -> None:
        if run.progress is not None:
            run.progress(STAGE, sum(len(rows["level"]) for rows in parts), len(x))

    report()
    for at in in_parts(torch.arange(len(x)), run.chunk):
        start, rows = int(at[0]), at.to(x.device)
        search = None if find is None else lambda points, sample, start=start: find(points, start + sample)

        def compute(rows: Tensor = rows, search: Find | None = search) -> StoredRows:
            some = x[rows], y[rows], threat.take(rows)
            with torch.no_grad():
                return proven_rows(*_certified(graph, *some, effort, search))

        parts.append(run.part(f"{STAGE}/{start}-{start + len(at)}", compute)[0])
        report()
    return parts
