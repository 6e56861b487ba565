"""The judge of attacks on explanations: did the reason move, while the label stayed?

    attacked    an allowed point that keeps the label has another map than x
    failed      there is none: outside the threat, label lost, x itself, or the very same map
    undefined   a map, clean or perturbed, is constant or not finite: nothing to compare
    skipped     wrong when clean

Scores are taken where a sample is attacked and are NaN elsewhere: a failure is no robustness, and never a 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from unfooled.attacks.explanations.candidates import Explanation, Reduce, mapped, sound
from unfooled.attacks.explanations.noise import best_of_random
from unfooled.attacks.explanations.objectives import MapObjective
from unfooled.core.ascent import Decaying, Rule
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.losses import true_logit
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import Counted
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps
from unfooled.evaluation.verify import verify

Score = Callable[[Tensor, Tensor], Tensor]
"""(clean maps, maps), both (B, H, W) -> similarity (B,): lower is a stronger attack, NaN undefined."""

STATUSES = ("attacked", "failed", "undefined", "skipped")
ATTACKED, FAILED, UNDEFINED, SKIPPED = range(4)


@dataclass(frozen=True, eq=False)
class ExplanationVerdict:
    """What is true of each proposed point, one entry a sample.

    Attributes:
        status: positions in `STATUSES`, (B,) int64.
        inside: within the ball and the box, (B,) bool.
        scores: each (B,); NaN where the status is not `attacked`.
        output_change: |f_y(x') - f_y(x)|, in logits, (B,); NaN where the point is not allowed.
    """

    status: Tensor
    inside: Tensor
    scores: dict[str, Tensor]
    output_change: Tensor

    @property
    def attacked(self) -> Tensor:
        """Where scores count, (B,) bool."""
        return self.status == ATTACKED

    @property
    def counts(self) -> dict[str, int]:
        """How many samples have each status."""
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
    """Judge proposed points on the true model and the true explanation; nothing that an attack says is used.

    Args:
        model: any callable to logits, in eval mode.
        x: clean inputs, (B, *D).
        y: labels, (B,).
        x_adv: proposed points, (B, *D).
        threat: what is allowed.
        explain: the true explanation, `(model, x, y) -> (B, *D)`.
        scores: name -> `(clean maps, maps) -> (B,)`, similarities.
        reduce: relevances to maps.
        clean: the clean maps, (B, H, W), where they are known (saves an explanation a sample).
        batch: samples per call; as many as fit well in memory where None (cost: 1 forward of one sample).

    Returns:
        An `ExplanationVerdict`. Cost: 4 forwards and 2 explanations a sample.

    Raises:
        BadInput: shapes that do not agree, inputs that cannot be used.
    """
    batch = batch or fitting_batch(model, x)
    verdict = verify(model, x, y, x_adv, threat, batch=batch)
    finite = torch.isfinite(flat(x_adv)).all(1)
    z = where_rows(finite, x_adv, x)
    if clean is None:
        clean = maps_of(model, x, y, explain, reduce, batch)
    maps = maps_of(model, z, y, explain, reduce, batch)
    logits, right = _true_logits(model, x, y, batch)
    moved, kept = _true_logits(model, z, y, batch)
    same = (flat(z) == flat(x)).all(1) | _same(clean, maps)
    status = torch.full_like(y, ATTACKED)
    status[~sound(maps)] = UNDEFINED
    status[~verdict.inside | ~kept | verdict.undefined | same] = FAILED
    status[~sound(clean)] = UNDEFINED
    status[~right] = SKIPPED
    found = {}
    for name, score in scores.items():
        value = score(clean, maps)
        if not isinstance(value, Tensor) or value.shape != y.shape:
            raise BadInput(f"score {name!r} returned {_shape(value)}; it must be one number a sample, ({len(y)},)")
        found[name] = value.where(status == ATTACKED, torch.nan)
    change = (moved - logits).abs().where(verdict.inside, torch.nan)
    return ExplanationVerdict(status, verdict.inside, found, change)


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of choosing points, each score at its own worst one.

    Attributes:
        scores: score name -> (B,), lowest met; NaN where not attacked.
        status: score name -> positions in `STATUSES`, (B,) int64.
        output_change: score name -> |f_y(x') - f_y(x)|, (B,).
        x_adv: score name -> the points, (B, *D).
        explanations: maps taken in all, one with its gradient counted `GRADIENT_COST` times.
        forwards: samples passed through the model in all.
        backwards: gradients taken at the logits in all; those of gradients are not seen there.
        seconds: wall time of all, without that of the scores. These four sum over chunks of rows; the judge is not in
            them.
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
        """For each score, how many samples have each status."""
        return {name: _counts(status) for name, status in self.status.items()}


@dataclass(frozen=True, eq=False)
class ExplanationRobustness:
    """How far an explanation moves: under attack, under the best of as many random points, under one.

    Attributes:
        attack: the worst of all objectives, restarts and iterates.
        best_of_n: the worst of n random points.
        random: one random point.
        clean: the clean maps, (B, H, W).
        n: random points of each sample.
    """

    attack: Arm
    best_of_n: Arm
    random: Arm
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
    steps: int = 50,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    hold: float = 10.0,
    betas: Sequence[float] = (5, 15, 50),
    restarts: int = 2,
    differences: Differences | None = None,
    n: int | None = None,
    reduce: Reduce = as_maps,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> ExplanationRobustness:
    """Attack an explanation with several objectives, and measure what chance does with the same means.

    Attack and chance are ranked alike: every point that either looks at on the true model is scored, the lowest of each
    score kept for each sample, and that point judged. So an attack is not ahead because its points were chosen with
    more care.

    Args:
        model: any callable to logits, in eval mode. Not modified.
        x: inputs, (B, *D).
        y: labels, (B,).
        threat: what is allowed.
        explain: `(model, x, y, *, create_graph=False) -> (B, *D)`, or any callable (then by differences).
        scores: name -> `(clean maps, maps) -> (B,)`, similarities: lower is a stronger attack.
        objectives: what the attack maximises, one after the other.
        steps: gradients a restart, as for `attack_explanation`, like rule, hold, betas, restarts, differences.
        rule: step sizes.
        hold: weight of the label.
        betas: sharpness of softplus.
        restarts: random starts for each objective.
        differences: attack by differences.
        n: random points; where None as many as the attack takes explanations of a sample, `Search.explanations` (a
            map with its gradient counts as `GRADIENT_COST`). Points that lose the label count too, though no
            explanation is taken of them.
        reduce: relevances to maps.
        batch: samples alive at once; as many as fit well in memory where None.
        generator: base seed.

    Returns:
        An `ExplanationRobustness`. A sample's results do not depend on the others, so that rows may be passed in
        chunks. Cost: objectives x `attack_explanation`, n explanations, and 2 + 3 len(scores) of the judge.

    Raises:
        BadInput: an argument cannot be used.
    """
    if not scores or not objectives:
        raise BadInput("there are no scores or no objectives; give at least one of each")
    batch = batch or max(1, fitting_batch(model, x) // 3)
    clean = maps_of(model, x, y, explain, reduce, batch)
    common: dict[str, Any] = {"reduce": reduce, "batch": batch, "generator": generator}
    if differences is None and not differentiable(model, x, y, explain):
        differences = Differences()
    search = Search(steps, rule, restarts, hold=hold, betas=betas, differences=differences)
    n = n or len(objectives) * search.explanations

    def attack(counted: Counted, explain: Explanation, observe: Any) -> None:
        for objective in objectives:
            attack_explanation(
                counted,
                x,
                y,
                threat,
                explain,
                objective=objective,
                observe=observe,
                search=search,
                **common,
            )

    def chance(counted: Counted, explain: Explanation, observe: Any, n: int) -> None:
        best_of_random(counted, x, y, threat, explain, objective=None, n=n, observe=observe, **common)

    def arm(run: Callable[..., None]) -> Arm:
        counted, taken, worst = Counted(model), _Counting(explain), _Worst(x, clean, scores)
        begun = time.perf_counter()
        run(counted, taken, worst)
        seconds = time.perf_counter() - begun - worst.seconds
        judged = {}
        for name, score in scores.items():
            judged[name] = judge_explanation(
                model, x, y, worst.points[name], threat, explain, {name: score}, reduce=reduce, clean=clean, batch=batch
            )
        return Arm(
            scores={name: v.scores[name] for name, v in judged.items()},
            status={name: v.status for name, v in judged.items()},
            output_change={name: v.output_change for name, v in judged.items()},
            x_adv=worst.points,
            explanations=taken.maps,
            forwards=counted.forwards,
            backwards=counted.backwards,
            seconds=seconds,
        )

    return ExplanationRobustness(arm(attack), arm(partial(chance, n=n)), arm(partial(chance, n=1)), clean, n)


class _Counting:
    """An explanation that counts the maps taken of it."""

    def __init__(self, explain: Explanation) -> None:
        self.explain, self.maps = explain, 0

    def __call__(self, model: Model, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        self.maps += len(x) * (GRADIENT_COST if options.get("create_graph") else 1)
        return self.explain(model, x, y, **options)


class _Worst:
    """The lowest of each score met, and where."""

    def __init__(self, x: Tensor, clean: Tensor, scores: Mapping[str, Score]) -> None:
        self.clean, self.scores = clean, scores
        top = torch.full((len(x),), torch.inf, dtype=clean.dtype, device=x.device)
        self.lowest = {name: top.clone() for name in scores}
        self.points = {name: x.clone() for name in scores}
        self.seconds = 0.0

    def __call__(self, z: Tensor, at: Tensor, maps: Tensor) -> None:
        begun = time.perf_counter()
        for name, score in self.scores.items():
            value = score(self.clean[at], maps).to(self.clean.dtype)
            lower = value < self.lowest[name][at]
            self.lowest[name][at] = torch.where(lower, value, self.lowest[name][at])
            self.points[name][at] = where_rows(lower, z, self.points[name][at])
        self.seconds += time.perf_counter() - begun


def maps_of(model: Model, x: Tensor, y: Tensor, explain: Explanation, reduce: Reduce, batch: int) -> Tensor:
    """The true maps, (B, H, W), detached."""
    parts = zip(x.split(batch), y.split(batch), strict=True)
    with torch.enable_grad():
        return torch.cat([mapped(explain(model, z, label), reduce, len(z)).detach() for z, label in parts])


@torch.no_grad()
def _true_logits(model: Model, x: Tensor, y: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """The logits of y, and whether y is predicted, both (B,)."""
    logits = torch.cat([read_logits(model, z, label) for z, label in zip(x.split(batch), y.split(batch), strict=True)])
    return true_logit(logits, y), (logits.argmax(1) == y) & torch.isfinite(logits).all(1)


def _same(a: Tensor, b: Tensor) -> Tensor:
    """Whether two maps are equal but for rounding, (B,) bool."""
    apart = flat(a - b).abs().amax(1)
    return apart <= 1e-6 * flat(a).abs().amax(1)


def _shape(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
