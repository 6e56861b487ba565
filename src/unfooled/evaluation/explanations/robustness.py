"""Robustness of an explanation: the worst point of an attack, of as many random points, and of a single one.

The candidates of all three are selected alike: every point that is evaluated on the true model is scored, and the
lowest value of each score is judged. Points found at a smaller radius count at a larger one too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.explanations.attack import GRADIENT_COST, Differences, Search, climb, differentiable
from unfooled.attacks.explanations.candidates import Candidates, Explanation, Reduce
from unfooled.attacks.explanations.noise import record_draws
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import SetScore, TopSets, as_maps
from unfooled.evaluation.explanations.judge import (
    ExplanationVerdict,
    JudgedPoints,
    Reference,
    Score,
    judge_points,
    reference_of,
    status_counts,
)


@dataclass(frozen=True, eq=False)
class WorstPoints:
    """Result of one way of proposing points (an attack or random points), with a worst point for each score.

    Attributes:
        scores: Score name -> lowest value reached, (B,); NaN where the status is not `attacked`.
        status: Score name -> positions in `STATUSES`, (B,) int64.
        output_change: Score name -> |f_y(x') - f_y(x)|, (B,).
        x_adv: Score name -> points with the lowest score, (B, *D).
        explanations: Number of maps computed; a map with its gradient counts as `GRADIENT_COST` maps.
        forwards: Number of samples passed through the model.
        backwards: Number of gradients that reach the logits; the gradient of a map counts as two more.
        seconds: Wall time without that of the scores. This and the three counts are totals over all samples, and leave
            out the clean samples and the judging of the points; totals of chunks may be added.
    """

    scores: dict[str, Tensor]
    status: dict[str, Tensor]
    output_change: dict[str, Tensor]
    x_adv: dict[str, Tensor]
    explanations: int
    forwards: int
    backwards: int
    seconds: float

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of samples of each status, for each score."""
        return {name: status_counts(status) for name, status in self.status.items()}


@dataclass(frozen=True, eq=False)
class ExplanationRobustness:
    """Change of an explanation under attack, at the worst of n random points, and at a single random point.

    Attributes:
        attack: Worst point of all objectives, restarts and iterates.
        best_of_n: Worst of n random points.
        random: One random point.
        clean: Clean maps, (B, H, W).
        n: Number of random points per sample, with those at smaller radii.
    """

    attack: WorstPoints
    best_of_n: WorstPoints
    random: WorstPoints
    clean: Tensor
    n: int


def explanation_robustness(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    scores: Mapping[str, Score],
    objectives: Sequence[MapObjective],
    search: Search = Search(),  # noqa: B008  (frozen)
    n: int | None = None,
    reduce: Reduce = as_maps,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> ExplanationRobustness:
    """Attack an explanation with several objectives, and compare with as many random points.

    Attack and random points are selected alike: every point that is evaluated on the true model is scored, the lowest
    value of each score is stored for each sample, and that point is judged. So the attack gains nothing by selection.

    Args:
        model: Any callable to logits, in eval mode. Not modified.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Constraint set.
        explain: Explanation `(model, x, y, *, create_graph=False) -> (B, *D)`. If it has no derivative, the attack uses
            finite differences.
        scores: Name -> similarity `(clean maps, perturbed maps) -> (B,)`; lower is a stronger attack.
        objectives: Objectives of the attack, one after the other.
        search: Steps and restarts for each objective, and the rest of `Search`.
        n: Number of random points per sample. None: the number of explanations that the attack computes per sample,
            `len(objectives) * search.explanations` (a map with its gradient counts as `GRADIENT_COST`). Points that
            lose the label count too, although their explanations are not used.
        reduce: Attributions (B, *D) -> maps (B, H, W).
        batch: Samples computed at once. None: as many as fit well in memory.
        generator: Random generator; only its seed is used.

    Returns:
        An `ExplanationRobustness`. A sample's results do not depend on the others, so that samples may be passed in
        chunks. Cost per sample: `attack_explanation` for each objective, n + 1 explanations, and the judge's 3 forwards
        and explanation for each of at most 2 len(scores) + 1 points.

    Raises:
        BadInput: An argument cannot be used.
    """
    return robustness_by_radius(
        model, x, y, (threat,), explain, scores=scores, objectives=objectives, search=search, n=n, reduce=reduce,
        batch=batch, generator=generator,
    )[0]  # fmt: skip


def robustness_by_radius(
    model: Model,
    x: Tensor,
    y: Tensor,
    threats: Sequence[Threat],
    explain: Explanation,
    *,
    scores: Mapping[str, Score],
    objectives: Sequence[MapObjective],
    search: Search = Search(),  # noqa: B008  (frozen)
    n: int | None = None,
    reduce: Reduce = as_maps,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> list[ExplanationRobustness]:
    """Attack an explanation at several radii; points of the attack and random points count at the larger ones too.

    Arguments as for `explanation_robustness`, and:

    Args:
        model: Any callable to logits.
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threats: Constraint sets, each inside the next.
        explain: Explanation.
        scores: Name -> similarity.
        objectives: Objectives of the attack.
        search: Steps and restarts for each objective and radius.
        n: Number of random points per sample over all radii, divided into equal parts.
        reduce: Attributions (B, *D) -> maps (B, H, W).
        batch: Samples computed at once.
        generator: Random generator; only its seed is used.

    Returns:
        The results in the order of the radii.
    """
    if not scores or not objectives:
        raise BadInput("there are no scores or no objectives; give at least one of each")
    batch = batch or max(1, fitting_batch(model, x) // 3)
    if search.differences is None and not differentiable(model, x, y, explain):
        search = replace(search, differences=Differences())
    n = len(objectives) * search.explanations if n is None else n
    if n < len(threats):
        raise BadInput(f"n is {n}; it must be at least {len(threats)}, one random point a radius")
    reference = reference_of(model, x, y, explain, reduce, batch)
    results: list[ExplanationRobustness] = []
    for i, threat in enumerate(threats):
        shared = _SharedArguments(model, x, y, threat, explain, scores, reduce, reference, batch, generator)
        counts = i * n // len(threats), (i + 1) * n // len(threats)
        with frozen(model):
            results.append(_at_radius(shared, objectives, search, counts, results[-1] if results else None))
    return results


def _at_radius(
    s: _SharedArguments,
    objectives: Sequence[MapObjective],
    search: Search,
    counts: tuple[int, int],
    earlier: ExplanationRobustness | None,
) -> ExplanationRobustness:
    """Attack at one radius, with the points of a smaller one.

    Args:
        s: Arguments of all arms.
        objectives: Objectives of the attack.
        search: Steps and restarts.
        counts: Number of random points at smaller radii, and with those of this one.
        earlier: Result at the next smaller radius. None: there is none.
    """
    attack = _Arm(s, None if earlier is None else earlier.attack)
    for objective in objectives:
        attack.propose(lambda c: climb(c, search, s.batch, s.generator), objective)
    single, lucky = _Arm(s, None), _Arm(s, None if earlier is None else earlier.best_of_n)
    # The single point is one of the n, and computed once.
    single.propose(lambda c: record_draws(c, (0,), s.batch, s.generator), also=lucky.worst)
    lucky.propose(lambda c: record_draws(c, range(counts[0] + 1, counts[1]), s.batch, s.generator))
    attacked, best_of_n, random = _judged([attack, lucky.with_costs_of(single), single], s)
    return ExplanationRobustness(attacked, best_of_n, random, s.reference.known.maps, counts[1])


@dataclass(frozen=True, eq=False)
class _SharedArguments:
    """Arguments that all ways of proposing points share."""

    model: Model
    x: Tensor
    y: Tensor
    threat: Threat
    explain: Explanation
    scores: Mapping[str, Score]
    reduce: Reduce
    reference: Reference
    batch: int
    generator: torch.Generator | None

    def judge(self, points: Tensor, rows: Tensor) -> JudgedPoints:
        """Judge points of the samples in `rows`, which may repeat."""
        return judge_points(
            self.model, self.x[rows], self.y[rows], points, self.threat.take(rows), self.explain, self.reduce,
            self.reference.take(rows), self.batch,
        )  # fmt: skip


class _Arm:
    """One way of proposing points: its worst points so far, and what they cost."""

    def __init__(self, shared: _SharedArguments, earlier: WorstPoints | None) -> None:
        self.shared = shared
        self.counted, self.explain = Counted(shared.model), _Counting(shared.explain)
        self.worst = _WorstObserver(shared.x, shared.reference.known.maps, shared.scores, earlier)
        self.seconds = 0.0

    def propose(
        self,
        search: Callable[[Candidates], None],
        objective: MapObjective | None = None,
        also: _WorstObserver | None = None,
    ) -> None:
        """Let a search record candidates, which this arm observes, and another observer too."""
        observers = (self.worst,) if also is None else (self.worst, also)

        def observe(z: Tensor, at: Tensor, maps: Tensor) -> None:
            for each in observers:
                each(z, at, maps)

        s, watched = self.shared, sum(each.seconds for each in observers)
        start = time.perf_counter()
        search(
            Candidates(
                self.counted, s.x, s.y, s.threat, self.explain, objective, s.reduce, observe, s.batch,
                known=s.reference.known,
            )
        )  # fmt: skip
        spent = sum(each.seconds for each in observers) - watched
        self.seconds += time.perf_counter() - start - spent

    def with_costs_of(self, other: _Arm) -> _Arm:
        """Return this arm, with the costs of another one, which it shared, added to its own."""
        self.counted.forwards += other.counted.forwards
        self.counted.backwards += other.counted.backwards
        self.explain.maps += other.explain.maps
        self.seconds += other.seconds
        return self


def _judged(arms: Sequence[_Arm], s: _SharedArguments) -> list[WorstPoints]:
    """Judge the worst points of all arms and scores; a point that several have in common is judged once."""
    names, n = list(s.scores), len(s.y)
    points = torch.cat([arm.worst.points[name] for arm in arms for name in names])
    first = _first_equal(points, n)
    distinct = first.unique()
    position = torch.searchsorted(distinct, first)
    verdicts = s.judge(points[distinct], distinct % n).take(position)
    judged = []
    for i, arm in enumerate(arms):
        each: dict[str, ExplanationVerdict] = {}
        for j, name in enumerate(names):
            rows = torch.arange((i * len(names) + j) * n, (i * len(names) + j + 1) * n, device=points.device)
            each[name] = verdicts.take(rows).scored(s.reference.known.maps, {name: s.scores[name]})
        judged.append(
            WorstPoints(
                scores={name: v.scores[name] for name, v in each.items()},
                status={name: v.status for name, v in each.items()},
                output_change={name: v.output_change for name, v in each.items()},
                x_adv=arm.worst.points,
                explanations=arm.explain.maps,
                forwards=arm.counted.forwards,
                backwards=arm.counted.backwards,
                seconds=arm.seconds,
            )
        )
    return judged


def _first_equal(points: Tensor, n: int) -> Tensor:
    """Return for each of several sets of n points the first row with the same point for the same sample, (k n,)."""
    sets = flat(points).reshape(len(points) // n, n, -1) if n else flat(points)[None]
    first = torch.arange(len(points), device=points.device).reshape(len(sets), n)
    for i in range(len(sets)):
        for j in range(i):
            same = (sets[i] == sets[j]).all(1) & (first[i] >= i * n)
            first[i] = torch.where(same, first[j], first[i])
    return first.flatten()


class _Counting:
    """Wrapper of an explanation that counts the maps computed."""

    def __init__(self, explain: Explanation) -> None:
        self.explain, self.maps = explain, 0

    def __call__(self, model: Model, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        self.maps += len(x) * (GRADIENT_COST if options.get("create_graph") else 1)
        return self.explain(model, x, y, **options)


class _WorstObserver:
    """An observer that stores the lowest value of each score and the point at which it was reached."""

    def __init__(
        self, x: Tensor, clean: Tensor, scores: Mapping[str, Score], earlier: WorstPoints | None = None
    ) -> None:
        self.clean, self.scores = clean, scores
        top = torch.full((len(x),), torch.inf, dtype=clean.dtype, device=x.device)
        self.lowest = {name: top.clone() for name in scores}
        self.points = {name: x.clone() for name in scores}
        if earlier is not None:
            self.lowest = {name: earlier.scores[name].to(clean.dtype).nan_to_num(nan=torch.inf) for name in scores}
            self.points = {name: earlier.x_adv[name].clone() for name in scores}
        self.sets: dict[int, TopSets] = {}
        for score in scores.values():
            if isinstance(score, SetScore):
                sets = self.sets.setdefault(score.k, TopSets.of(clean, score.k))
                score.compare(sets, sets)  # dilates the clean sets once
        self.seconds = 0.0

    def __call__(self, z: Tensor, at: Tensor, maps: Tensor) -> None:
        start = time.perf_counter()
        sets = {k: TopSets.of(maps, k) for k in self.sets}
        for name, score in self.scores.items():
            if isinstance(score, SetScore):
                value = score.compare(self.sets[score.k].take(at), sets[score.k]).to(self.clean.dtype)
            else:
                value = score(self.clean[at], maps).to(self.clean.dtype)
            lower = value < self.lowest[name][at]
            self.lowest[name][at] = torch.where(lower, value, self.lowest[name][at])
            self.points[name][at] = where_rows(lower, z, self.points[name][at])
        self.seconds += time.perf_counter() - start
