"""The judge of attacks on explanations: did the explanation move, while the label stayed?

    attacked    the point is inside the threat, keeps the label, and its map differs from that of x
    failed      the point is outside the threat, loses the label, equals x, or has the same map as x
    undefined   the clean or the perturbed map is constant or not finite, so they cannot be compared
    skipped     the model is wrong on the clean sample

Scores are NaN unless the status is `attacked`: a failed attack does not count as a score of 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.explanations.attack import (
    GRADIENT_COST,
    Differences,
    Search,
    attack_explanation,
    differentiable,
)
from unfooled.attacks.explanations.candidates import Explanation, Reduce, mapped, usable_maps
from unfooled.attacks.explanations.noise import best_of_random
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.losses import true_logit
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.model.wrappers import Counted
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps
from unfooled.evaluation.verify import Verdict, verify

Score = Callable[[Tensor, Tensor], Tensor]
"""`(clean maps, perturbed maps)`, (B, H, W) each -> similarity, (B,); lower: a stronger attack; NaN: undefined."""

STATUSES = ("attacked", "failed", "undefined", "skipped")
"""Names of the statuses; the code of a status is its position."""
ATTACKED, FAILED, UNDEFINED, SKIPPED = range(4)


@dataclass(frozen=True, eq=False)
class ExplanationVerdict:
    """Verdict on proposed points, one entry per sample.

    Attributes:
        status: Codes of the statuses, positions in `STATUSES`, (B,) int64.
        inside: True for points within the ball and the box, (B,) bool.
        scores: Score name -> (B,); NaN where the status is not `attacked`.
        output_change: |f_y(x') - f_y(x)|, in logits, (B,); NaN where the point is outside the threat.
    """

    status: Tensor
    inside: Tensor
    scores: dict[str, Tensor]
    output_change: Tensor

    @property
    def attacked(self) -> Tensor:
        """Samples with status `attacked`, (B,) bool."""
        return self.status == ATTACKED

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each status."""
        return _counts(self.status)


def _counts(status: Tensor) -> dict[str, int]:
    return {name: int((status == code).sum()) for code, name in enumerate(STATUSES)}


def judge_explanation(
    model: Model,
    x: Tensor,
    y: Tensor,
    x_adv: Tensor,
    threat: Threat,
    explain: Explanation,
    scores: Mapping[str, Score],
    *,
    reduce: Reduce = as_maps,
    clean: Tensor | None = None,
    batch: int | None = None,
) -> ExplanationVerdict:
    """Judge proposed points on the true model and the true explanation; nothing that the attack reports is used.

    Args:
        model: Any callable to logits, in eval mode.
        x: Clean inputs, (B, *D).
        y: Labels, (B,).
        x_adv: Proposed points, (B, *D).
        threat: Constraint set.
        explain: The true explanation, `(model, x, y) -> (B, *D)`.
        scores: Name -> similarity `(clean maps, perturbed maps) -> (B,)`.
        reduce: Attributions (B, *D) -> maps (B, H, W).
        clean: Clean maps, (B, H, W). None: they are computed (cost: 1 explanation per sample).
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).

    Returns:
        An `ExplanationVerdict`. Cost: 4 forwards and 2 explanations per sample.

    Raises:
        BadInput: Shapes that do not agree, or inputs that cannot be used.
    """
    batch = batch or fitting_batch(model, x)
    verdict = verify(model, x, y, x_adv, threat, batch=batch)
    if clean is None:
        clean = maps_of(model, x, y, explain, reduce, batch)
    return _judged(model, x, y, x_adv, verdict, explain, scores, reduce, clean, batch)


def _judged(
    model: Model, x: Tensor, y: Tensor, x_adv: Tensor, verdict: Verdict, explain: Explanation,
    scores: Mapping[str, Score], reduce: Reduce, clean: Tensor, batch: int,
) -> ExplanationVerdict:  # fmt: skip
    """Judge explanations at points for which `verify` has returned the verdict."""
    z = where_rows(torch.isfinite(flat(x_adv)).all(1), x_adv, x)
    maps = maps_of(model, z, y, explain, reduce, batch)
    logits, right = _true_logits(model, x, y, batch)
    logits_adv, keeps_label = _true_logits(model, z, y, batch)
    unmoved = (flat(z) == flat(x)).all(1) | _same_map(clean, maps)
    status = torch.full_like(y, ATTACKED)
    status[~usable_maps(maps)] = UNDEFINED
    status[~verdict.inside | ~keeps_label | verdict.undefined | unmoved] = FAILED
    status[~usable_maps(clean)] = UNDEFINED
    status[~right] = SKIPPED
    values = {}
    for name, score in scores.items():
        value = score(clean, maps)
        if not isinstance(value, Tensor) or value.shape != y.shape:
            raise BadInput(f"score {name!r} returned {_shape(value)}; it must be one number per sample, ({len(y)},)")
        values[name] = value.where(status == ATTACKED, torch.nan)
    change = (logits_adv - logits).abs().where(verdict.inside, torch.nan)
    return ExplanationVerdict(status, verdict.inside, values, change)


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
        backwards: Number of gradients that reach the logits; gradients of gradients are not counted.
        seconds: Wall time without that of the scores. This and the three counts are totals over all samples, and leave
            out the judging of the points; totals of chunks may be added.
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
        return {name: _counts(status) for name, status in self.status.items()}


@dataclass(frozen=True, eq=False)
class ExplanationRobustness:
    """Change of an explanation under attack, at the worst of n random points, and at a single random point.

    Attributes:
        attack: Worst point of all objectives, restarts and iterates.
        best_of_n: Worst of n random points.
        random: One random point.
        clean: Clean maps, (B, H, W).
        n: Number of random points per sample.
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
            lose the label count too, although their explanations are not computed.
        reduce: Attributions (B, *D) -> maps (B, H, W).
        batch: Samples computed at once. None: as many as fit well in memory.
        generator: Random generator; only its seed is used.

    Returns:
        An `ExplanationRobustness`. A sample's results do not depend on the others, so that samples may be passed in
        chunks. Cost per sample: `attack_explanation` for each objective, and n + 2 + 3 len(scores) explanations.

    Raises:
        BadInput: An argument cannot be used.
    """
    if not scores or not objectives:
        raise BadInput("there are no scores or no objectives; give at least one of each")
    batch = batch or max(1, fitting_batch(model, x) // 3)
    clean = maps_of(model, x, y, explain, reduce, batch)
    if search.differences is None and not differentiable(model, x, y, explain):
        search = replace(search, differences=Differences())
    n = n or len(objectives) * search.explanations
    common: dict[str, Any] = {"reduce": reduce, "batch": batch, "generator": generator}

    def attack(counted: Counted, counted_explain: Explanation, worst: _WorstObserver) -> None:
        for objective in objectives:
            attack_explanation(
                counted, x, y, threat, counted_explain, objective=objective, search=search, observe=worst, **common
            )

    def random_points(count: int) -> _Propose:
        def propose(counted: Counted, counted_explain: Explanation, worst: _WorstObserver) -> None:
            best_of_random(counted, x, y, threat, counted_explain, objective=None, n=count, observe=worst, **common)

        return propose

    shared = _SharedArguments(model, x, y, threat, explain, scores, reduce, clean, batch)
    attacked, best_of_n, single = (
        _judge_proposals(propose, shared) for propose in (attack, random_points(n), random_points(1))
    )
    return ExplanationRobustness(attacked, best_of_n, single, clean, n)


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
    clean: Tensor
    batch: int


def _judge_proposals(propose: _Propose, shared: _SharedArguments) -> WorstPoints:
    """Run one way of proposing points, and judge the worst point of each score."""
    counted, counted_explain, worst = (
        Counted(shared.model),
        _Counting(shared.explain),
        _WorstObserver(shared.x, shared.clean, shared.scores),
    )
    start = time.perf_counter()
    propose(counted, counted_explain, worst)
    seconds = time.perf_counter() - start - worst.seconds
    verdicts = {}
    for name, score in shared.scores.items():
        points = worst.points[name]
        verdict = verify(shared.model, shared.x, shared.y, points, shared.threat, batch=shared.batch)
        verdicts[name] = _judged(
            shared.model,
            shared.x,
            shared.y,
            points,
            verdict,
            shared.explain,
            {name: score},
            shared.reduce,
            shared.clean,
            shared.batch,
        )
    return WorstPoints(
        scores={name: v.scores[name] for name, v in verdicts.items()},
        status={name: v.status for name, v in verdicts.items()},
        output_change={name: v.output_change for name, v in verdicts.items()},
        x_adv=worst.points,
        explanations=counted_explain.maps,
        forwards=counted.forwards,
        backwards=counted.backwards,
        seconds=seconds,
    )


class _Counting:
    """Wrapper of an explanation that counts the maps computed."""

    def __init__(self, explain: Explanation) -> None:
        self.explain, self.maps = explain, 0

    def __call__(self, model: Model, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        self.maps += len(x) * (GRADIENT_COST if options.get("create_graph") else 1)
        return self.explain(model, x, y, **options)


class _WorstObserver:
    """An observer that stores the lowest value of each score and the point at which it was reached."""

    def __init__(self, x: Tensor, clean: Tensor, scores: Mapping[str, Score]) -> None:
        self.clean, self.scores = clean, scores
        top = torch.full((len(x),), torch.inf, dtype=clean.dtype, device=x.device)
        self.lowest = {name: top.clone() for name in scores}
        self.points = {name: x.clone() for name in scores}
        self.seconds = 0.0

    def __call__(self, z: Tensor, at: Tensor, maps: Tensor) -> None:
        start = time.perf_counter()
        for name, score in self.scores.items():
            value = score(self.clean[at], maps).to(self.clean.dtype)
            lower = value < self.lowest[name][at]
            self.lowest[name][at] = torch.where(lower, value, self.lowest[name][at])
            self.points[name][at] = where_rows(lower, z, self.points[name][at])
        self.seconds += time.perf_counter() - start


_Propose = Callable[[Counted, Explanation, _WorstObserver], None]
"""`(counted model, counting explanation, observer)`: computes candidates and passes them to the observer."""


def maps_of(model: Model, x: Tensor, y: Tensor, explain: Explanation, reduce: Reduce, batch: int) -> Tensor:
    """Return the maps of the explanation, (B, H, W), detached."""
    with torch.enable_grad():
        return batched(lambda z, label: mapped(explain(model, z, label), reduce, len(z)).detach(), batch)(x, y)


def attributions_of(
    model: Model,
    x: Tensor,
    y: Tensor,
    explain: Explanation,
    batch: int | None,
    *,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the attributions, (B, *D), detached.

    Args:
        model: Any callable to logits.
        x: Samples, (B, *D).
        y: Classes that are explained, (B,).
        explain: The explanation; its result may be an array.
        batch: Samples computed at once. None: all.
        progress: Called with the number of samples explained, as by `batched`.
    """
    return batched(lambda *part: torch.as_tensor(explain(model, *part)).detach(), batch, progress=progress)(x, y)


@torch.no_grad()
def _true_logits(model: Model, x: Tensor, y: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Return the logits of y, and whether y is predicted, both (B,)."""
    logits = logits_at(model, x, batch=batch)
    return true_logit(logits, y), (logits.argmax(1) == y) & torch.isfinite(logits).all(1)


def _same_map(a: Tensor, b: Tensor) -> Tensor:
    """Return whether two maps are equal up to rounding, (B,) bool."""
    difference = flat(a - b).abs().amax(1)
    return difference <= 1e-6 * flat(a).abs().amax(1)


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
