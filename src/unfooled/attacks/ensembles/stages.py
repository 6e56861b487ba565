"""Stages of the cascade, which propose better points for samples that are not fooled yet.

A stage is a frozen dataclass. It receives the problem and the frontier of its samples, and returns a `Proposal`; the
cascade evaluates the points and computes the next frontier. Costs are forward and backward passes per sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from unfooled.attacks.apgd import shrinking
from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.targets import smoothed, targets, towards
from unfooled.attacks.fgsm import fgsm
from unfooled.attacks.fmn import fmn
from unfooled.attacks.labels_only import labels_only
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.attacks.square import rows_for, square_search
from unfooled.core import losses, rng
from unfooled.core.ascent import Auto, Constant, Decaying, ascend
from unfooled.core.checks import untrusted
from unfooled.core.goals import Attack, fooled, fooling, logits_at
from unfooled.core.model.batching import batched
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Objective

DIRECTION_STEPS = 7
"""Number of full steps of a wave along its direction."""
NO_SUM = 3e-5
"""Sum of scores, relative to the largest one, that is 0 but for rounding."""
WARM_START_QUERY = 200
"""Query of Square's schedule at which a search from good points begins, with small windows."""


def are_bounded(scores: Tensor) -> Tensor:
    """Return which rows may be probabilities, percentages, or these less their mean, which are bounded, (B,).

    Logits of networks that were trained with weight decay nearly add up to 0, too: less their mean, scores must do so
    to rounding.
    """
    total, size = scores.sum(1), scores.abs().amax(1).clamp_min(1e-12)
    rounding = scores.shape[1] * torch.finfo(scores.dtype).eps
    bounded = (total.abs() <= max(NO_SUM, rounding) * size) | ((scores >= 0) & (scores <= 1)).all(1)
    for whole in (1.0, 100.0):  # rounded ones may lie a little outside
        bounded |= ((total - whole).abs() <= 1e-3 * size) & (scores >= -1e-3 * whole).all(1)
    return bounded


class Proposal(NamedTuple):
    """Proposed points of a stage.

    Attributes:
        points: Points inside the threat, (b, *D).
        directions: Weights of the logits, ordered by rank, that led to the points, (b, K); see `Waves.directions`.
            None: the stage uses no directions.
    """

    points: Tensor
    directions: Tensor | None = None


class Stage(ABC):
    """One step of the cascade.

    Attributes:
        name: Name in records.
        share: Share of the samples not fooled yet that it attacks, nearest to the boundary first.
        most: Largest number of samples that it attacks. None: no limit.
        least: Number of samples that it attacks at least, where as many are not fooled yet.
        sparse: True if the stage supports L0.
        patience: Number of consecutive stages of this kind without success after which the rest are skipped. None: no
            limit.
    """

    name: str
    share: float
    most: int | None
    sparse: ClassVar[bool] = True
    patience: int | None = None
    least: int = 1

    @property
    def depth(self) -> int:
        """Number of gradient steps of an ascent from a new start; 0 for stages of other kinds."""
        return 0

    @abstractmethod
    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Propose points inside the threat.

        Args:
            problem: Samples that the stage attacks.
            frontier: Their best points so far.
            number: Index of the stage in the cascade; its random numbers depend on it.
        """


def ascended(problem: Problem, objective: Objective, start: Tensor, steps: int) -> Tensor:
    """Ascend from `start` with the step rule that works best for the norm, and return the best points."""
    x, threat = problem.x, problem.threat
    if threat.norm == 1:
        return shrinking(objective, x, threat, steps, start, problem.batch)
    rule = Auto() if threat.norm in (2.0, math.inf) else Decaying()
    return ascend(objective, x, threat, steps=steps, rule=rule, start=start, batch=problem.batch).z


@dataclass(frozen=True)
class Ascents(Stage):
    """APGD on the margin.

    Attributes:
        steps: Gradients per sample.
        fresh: True: start from a random corner (Linf) or point of the threat; False: from the best point so far.
        soft: True: smooth the margin over classes.
    """

    steps: int
    share: float = 1.0
    most: int | None = None
    fresh: bool = True
    name: str = "apgd"
    soft: bool = False
    least: int = 1

    @property
    def depth(self) -> int:
        """Number of gradient steps."""
        return self.steps

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Ascend once. Cost: steps + 1 forwards, one more if `soft`, and steps backwards."""
        start, threat = frontier.points, problem.threat
        if self.fresh:
            start = threat.extreme(problem.x, problem.seed, draw=number)
        objective = smoothed(problem) if self.soft else problem.objective
        return Proposal(ascended(problem, objective, start, self.steps))


@dataclass(frozen=True)
class TargetedAscents(Stage):
    """APGD towards single classes from the best point, starting with the class whose linearised boundary is nearest.

    Distances are measured at x: at the best point, the class that earlier ascents moved towards would come first.

    Attributes:
        targets: Number of classes.
        steps: Gradients per sample and class.
        together: Number of classes in one batch, which start from the same point; fewer calls, some more passes.
    """

    targets: int
    steps: int
    share: float = 1.0
    most: int | None = None
    name: str = "targets"
    least: int = 1
    together: int = 1

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Ascend towards each class.

        Cost: 1 forward and 1 backward per class to order them, then the cost of `Ascents` for each target, also for
        those beside one that fools the sample. In L0 each target starts where the one before ended.
        """
        p, best, top = problem, frontier.points.clone(), frontier.margins.clone()
        order = targets(p.attacked, p.x, p.y, p.threat.norm, self.targets, p.batch)
        live = torch.ones_like(p.y, dtype=torch.bool)
        rule = Auto() if p.threat.norm != 0 else Decaying()
        together = self.together if p.threat.norm != 0 else 1
        for k in range(0, order.shape[1], together):
            rows = live.nonzero()[:, 0]
            if not len(rows):
                break
            classes = order[rows, k : k + together]
            at = rows.repeat_interleave(classes.shape[1])
            goal = towards(p.take(at), classes.flatten(), losses.margin_targeted)
            climb = ascend(goal, p.x[at], p.threat.take(at), steps=self.steps, rule=rule, start=best[at], batch=p.batch)
            done = climb.done.view_as(classes)
            value = climb.value.where(climb.value < torch.inf, -torch.inf).view_as(classes)  # NaN is no value either
            value, picked = value.where(~done, torch.inf).max(1)
            better = done.any(1) | (value > top[rows]) | (top[rows].isnan() & value.isfinite())
            z = climb.z[torch.arange(len(rows), device=rows.device) * classes.shape[1] + picked]
            best[rows] = where_rows(better, z, best[rows])
            top[rows] = torch.where(better, value, top[rows])
            live[rows] = ~done.any(1)
        return Proposal(best)


@dataclass(frozen=True)
class Searches(Stage):
    """Square attack.

    Attributes:
        queries: Number of queries per sample.
        cold: True: start from stripes or bumps; False: from the best point so far, with small windows.
        near: Share of the clean margin below which success is near: other samples are given up where they gain too
            little (see `square_search`), unless all scores are in [0, 1]: probabilities rise faster the larger they
            are. None: none are.
    """

    queries: int
    share: float = 1.0
    most: int | None = None
    cold: bool = False
    name: str = "square"
    patience: int | None = None
    near: float | None = None
    sparse: ClassVar[bool] = False

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Run the search. Cost: at most `queries` forwards, and one evaluation of the clean margin."""
        near = None
        if self.near is not None:
            clean = problem.logits(problem.x, problem.scored)
            near = (self.near * -losses.margin(clean, problem.y)).where(~are_bounded(clean), torch.inf)
        source = rng.derived(problem.seed, number)

        def search(p: Problem, rows: Tensor) -> Tensor:
            return square_search(
                fooling(p.scored, p.y, losses.margin), p.x, p.threat,
                rng.seeds(p.x, source, stage=rng.Stream.SQUARE), steps=self.queries,
                start=None if self.cold else frontier.points[rows], first_query=0 if self.cold else WARM_START_QUERY,
                rows=min(rows_for(p.x), problem.batch), near=None if near is None else near[rows],
            )  # fmt: skip

        return Proposal(problem.in_batches(search))


@dataclass(frozen=True)
class Waves(Stage):
    """Output diversification: seven full steps along a direction of the logits, then decaying steps on the margin.

    From the second wave on, half of the directions are earlier successful ones with noise, aligned by the rank of the
    logit: a direction towards the second class of one sample is tried on the second class of another.
    """

    steps: int = 25
    share: float = 1.0
    most: int | None = None
    name: str = "odi"
    patience: int | None = 2

    def directions(self, problem: Problem, frontier: Frontier, number: int) -> Tensor:
        """Draw weights of the logits by rank, (b, K): the true class first, then the others, likeliest first."""
        k = problem.logits(problem.x[:1], problem.attacked).shape[1]
        seeds = rng.seeds(problem.x, problem.seed, stage=rng.wave_stage(number))
        fresh = 2 * rng.uniform(seeds, (k,), dtype=problem.x.dtype) - 1
        if frontier.learned is None or not len(frontier.learned):
            return fresh
        u = rng.uniform(seeds, (2,), draw=1, dtype=torch.float64)
        old = frontier.learned[(u[:, 0] * len(frontier.learned)).long()]
        return torch.where(u[:, 1:] < 0.5, old + 0.3 * fresh, fresh)

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Follow a direction, then the margin. Cost: steps + 10 forwards, steps + 7 backwards."""
        p = problem
        logits = p.logits(p.x, p.attacked)
        rank = logits.scatter(1, p.y[:, None], torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
        directions = self.directions(p, frontier, number)
        w = directions.gather(1, rank)

        def diverse(z: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
            logits = logits_at(p.attacked, z)
            return (w[live] * logits).sum(1), fooled(logits.detach(), p.y[live]) & p.decisive

        start = ascend(
            diverse, p.x, p.threat, steps=DIRECTION_STEPS, rule=Constant(1.0),
            start=p.threat.sample(p.x, p.seed, draw=number), keep_best=False, batch=p.batch,
        ).z  # fmt: skip
        if p.threat.norm == 1:
            return Proposal(ascended(p, p.objective, start, self.steps), directions)
        climb = ascend(p.objective, p.x, p.threat, steps=self.steps, rule=Decaying(), start=start, batch=p.batch)
        return Proposal(climb.z, directions)


@dataclass(frozen=True)
class Sparse(Stage):
    """Minimal-norm attacks in L0, projected onto the threat.

    Attributes:
        steps: Gradients per sample and attack.
    """

    steps: int
    share: float = 1.0
    most: int | None = None
    name: str = "sparse"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Attack with sigma_zero, then FMN from there. Cost: 2 * steps + 20 forwards, 2 * steps backwards."""
        p, source = problem, rng.derived(problem.seed, number)

        def first(x: Tensor, y: Tensor) -> Tensor:
            return sigma_zero(p.attacked, x, y, 0, steps=self.steps, generator=source)

        def again(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
            return fmn(p.attacked, x, y, 0, steps=self.steps, start=start, generator=source)

        start = batched(first, p.batch)(p.x, p.y)
        return Proposal(p.threat.project(batched(again, p.batch)(p.x, p.y, start), p.x))


@dataclass(frozen=True)
class UserAttack(Stage):
    """A user's attack with its options bound; library functions called inside it still check their arguments."""

    attack: Attack
    share: float = 1.0
    most: int | None = None
    name: str = "attack"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Run the attack. Cost: its own."""
        source = torch.Generator().manual_seed(problem.seed)
        with untrusted():
            return Proposal(self.attack(problem.attacked, problem.x, problem.y, problem.threat, generator=source))


@dataclass(frozen=True)
class SingleStep(Stage):
    """One steepest step of length eps on the margin, from x."""

    share: float = 1.0
    most: int | None = None
    name: str = "fgsm"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Take the step. Cost: 2 forwards, 1 backward."""
        return Proposal(fgsm(problem.attacked, problem.x, problem.y, problem.threat, loss=losses.margin))


@dataclass(frozen=True)
class TransferPoints(Stage):
    """Points from a function, such as adversarial examples computed on another model (a twin).

    Attributes:
        points: Function `(x, y, threat, generator) -> points`.
    """

    points: Callable[[Tensor, Tensor, Threat, torch.Generator], Tensor]
    share: float = 1.0
    most: int | None = None
    name: str = "transfer"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Compute the points and project them onto the threat. Cost: no pass of the model."""
        x, threat = problem.x, problem.threat
        return Proposal(threat.project(self.points(x, problem.y, threat, rng.derived(problem.seed, number)), x))


@dataclass(frozen=True)
class Noise(Stage):
    """Random points of the threat, corners in Linf; the one with the largest margin is proposed.

    Attributes:
        draws: Number of points per sample.
    """

    draws: int
    share: float = 1.0
    most: int | None = None
    name: str = "noise"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Evaluate random points. Cost: `draws` forwards."""
        x, y, threat = problem.x, problem.y, problem.threat
        best, top = frontier.points.clone(), frontier.margins.clone()
        group = max(1, min(problem.batch, rows_for(x)) // max(len(x), 1))
        for draws in torch.arange(self.draws, device=x.device).split(group):
            at = torch.arange(len(x), device=x.device).repeat(len(draws))
            draw = draws.repeat_interleave(len(x))
            many = threat.take(at).extreme(x[at], problem.seed, draw=draw, stage=rng.Stream.NOISE + number)
            margins = losses.margin(problem.logits(many, problem.faster), y[at]).reshape(len(draws), -1)
            for z, margin in zip(many.split(len(x)), margins, strict=True):
                better = (margin > top) | (top.isnan() & ~margin.isnan())
                best, top = where_rows(better, z, best), torch.where(better, margin, top)
        return Proposal(best)


@dataclass(frozen=True)
class Decisions(Stage):
    """Label-only attacks, projected onto the threat: RayS in Linf, HopSkipJump in L2 and L1; none in L0.

    Attributes:
        queries: Number of queries per sample.
    """

    queries: int
    share: float = 1.0
    most: int | None = None
    name: str = "decision"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Run the attack for the norm. Cost: `queries` forwards."""
        p = problem
        if p.threat.norm == 0:
            return Proposal(frontier.points)
        source = rng.derived(p.seed, number)
        # On a CPU a forward that is wasted costs more than a call that is saved.
        rows = 1 if p.x.device.type == "cpu" else min(rows_for(p.x), p.batch)
        found = labels_only(
            p.scored, p.x, p.y, p.threat, steps=self.queries, rows=rows, generator=source, batch=p.batch
        )  # fmt: skip
        return Proposal(found)


def allowed(stage: Stage, threat: Threat) -> bool:
    """Return whether a stage supports the threat's norm: there is no random search in L0."""
    return stage.sparse or threat.norm != 0


def fitted(stages: Sequence[Stage], threat: Threat) -> tuple[Stage, ...]:
    """Return the stages for a threat: L0 has sparse attacks instead of random search."""
    if threat.norm != 0:
        return tuple(stages)
    depth = max((stage.depth for stage in stages), default=0) or 20
    return (*(stage for stage in stages if allowed(stage, threat)), Sparse(2 * depth))
