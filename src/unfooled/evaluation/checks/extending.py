"""Continuation of an attack where findings ask for it, until nothing finds more.

Attacks that fooled further samples are repeated against all survivors until a round fools none. Where gradients or
scores are not trusted, attacks that need no gradient are added. Then the checks are repeated; if they fire, all of this
starts again, up to a limit of rounds, and of passes relative to those of the attack before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.attacks.ensembles.borrowed import Borrowed
from unfooled.attacks.ensembles.cascade import Cascade, Standing, allowed, fitted
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.stages import Ascents, Decisions, Given, Noise, Proposals, Searches, Stage
from unfooled.attacks.fgsm import fgsm
from unfooled.core import losses
from unfooled.core.rng import Numbers
from unfooled.core.types import Model
from unfooled.evaluation.checks.after import WORDS
from unfooled.evaluation.checks.draws import closed, count_text
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import CHECKS, YIELD, CheckId, Finding, Kind, above
from unfooled.evaluation.checks.verdict import fired, of_kind

ROUNDS = 4
"""Largest number of rounds of `_while_it_pays`."""
ON = 6
"""Largest number of rounds of `_run_on`."""

TIMES, AT_LEAST = 50, 200_000
"""Passes that a continued attack may take, in multiples of the attack's own, or this number if that is more; the stage
that goes beyond it is the last but for the checks."""


@dataclass(frozen=True, eq=False)
class Allowance:
    """Passes that a continued attack may take.

    Attributes:
        ledger: Ledger that counts them.
        own: Passes of the attack before.
    """

    ledger: Ledger
    own: int

    @classmethod
    def after(cls, ledger: Ledger) -> Self:
        """Return the allowance that follows from the passes so far."""
        return cls(ledger, sum(ledger.passes(Family.CASCADE)))

    @property
    def used_up(self) -> bool:
        """True if no further stage may begin."""
        return sum(self.ledger.passes(Family.CASCADE)) - self.own > max(TIMES * self.own, AT_LEAST)


@dataclass(frozen=True, eq=False)
class Extended:
    """Result of a continued attack.

    Attributes:
        standing: State of the attack.
        gradients: Gradients of the model, with a twin (a distilled copy of the model) if the attack needed one.
        again: Findings of the checks that were repeated afterwards.
        stopped: True if it was stopped at the limit of passes.
    """

    standing: Standing
    gradients: Gradients
    again: list[Finding]
    stopped: bool = False


def extend(
    attack: Cascade, standing: Standing, gradients: Gradients, findings: Sequence[Finding], stages: Sequence[Stage]
) -> Extended:
    """Continue the attack where findings ask for it, then check again.

    A finding of kind `extend` repeats `stages` from other starts, at most twice, until the checks find nothing more. A
    finding of kind `masking` repeats the attacks that fooled further samples, and attacks the survivors through the
    twin's gradients, by score-based search and by decision-based attacks: at most three times, until the checks find
    nothing more. Where the model's own gradient is of no use this is done once, since the figure is not trusted anyway.

    Args:
        attack: The attack.
        standing: State of the attack.
        gradients: Gradients of the model.
        findings: Findings so far.
        stages: Stages of the attack to repeat.
    """
    again: list[Finding] = []
    allowance, stopped = Allowance.after(attack.ledger), False
    pending, hidden = findings, bool(of_kind(findings, Kind.MASKING))
    for last, numbers in zip((False, True), Numbers.AGAIN, strict=True):
        over = stopped or not bool(standing.frontier.standing.any())
        if hidden or over or not of_kind(pending, Kind.EXTEND):
            break
        if fired(findings, CheckId.ROUGH):
            attack = replace(attack, problem=replace(attack.problem, attacked=gradients.jittered))
        standing = attack.perform(standing, fitted(stages, attack.problem.threat), first=numbers[0])
        stopped = allowance.used_up
        standing, again = _look_again(attack, standing, gradients, numbers[-1])
        pending = again
        hidden = bool(of_kind(again, Kind.MASKING)) or (last and fired(again, CheckId.SEARCH))
    pending = [*findings, *again]
    rounds = 1 if any(f.fired and CHECKS[f.id].hides for f in findings) else len(Numbers.HIDDEN)
    for numbers, more in zip(Numbers.HIDDEN[:rounds], Numbers.ON, strict=False):
        if not hidden or stopped or not bool(standing.frontier.standing.any()):
            break
        gradients = gradients.with_twin(attack.problem.x, attack.problem.threat)
        standing = _run_on(attack, standing, gradients, pending, more, allowance)
        standing = _without_gradients(attack, standing, gradients, numbers[0], allowance)
        stopped = allowance.used_up
        standing, again = _look_again(attack, standing, gradients, numbers[-1])
        pending, hidden = again, fired(again)
    return Extended(standing, gradients, again, stopped)


def _pursuits(gradients: Gradients, findings: Sequence[Finding]) -> list[Stage]:
    """Return the attacks behind the checks that fired, with a budget for all survivors."""

    def one_step(model: Model, *rest: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return fgsm(model, *rest, loss=losses.margin)  # type: ignore[arg-type]

    noise, labels = Noise(1000), Proposals(gradients.transferred_labels, name="labels")
    stages: dict[CheckId, tuple[Stage, ...]] = {
        CheckId.STEPS: (Ascents(80, fresh=False, name="longer"),),
        CheckId.RESTARTS: (Ascents(20, name="restart"),),
        CheckId.ONE_STEP: (Given(one_step, name="fgsm"), noise),
        CheckId.SEARCH: (Searches(300, cold=True),),
        CheckId.TWIN: (Proposals(gradients.transferred),),
        CheckId.RANDOM: (noise,),
        CheckId.LABELS: (Decisions(500), labels),
    }
    seen = [stage for check, some in stages.items() if fired(findings, check) for stage in some]
    return list({stage.name: stage for stage in seen}.values())


def _run_on(
    attack: Cascade,
    standing: Standing,
    gradients: Gradients,
    findings: Sequence[Finding],
    numbers: range,
    allowance: Allowance,
) -> Standing:
    """Repeat the attacks of `_pursuits` against all survivors, until a round of them fools no further sample."""
    stages = [stage for stage in _pursuits(gradients, findings) if allowed(stage, attack.problem.threat)]
    for k in range(ON if stages else 0):
        before = standing.frontier
        for i, stage in enumerate(stages):
            if allowance.used_up:
                return standing
            standing, _ = attack.stage(standing, stage, numbers[k * (len(WORDS) + 2) + i])
        new = (standing.frontier.fooled & ~before.fooled).nonzero()[:, 0]
        if not len(new):
            break
        changes = standing.frontier.points[new] - attack.problem.x[new]
        standing, _ = attack.stage(standing, Borrowed(changes[:16]), numbers[k * (len(WORDS) + 2) + len(stages)])
    return standing


def _without_gradients(
    attack: Cascade, standing: Standing, gradients: Gradients, first: int, allowance: Allowance
) -> Standing:
    """Attack the survivors by the model's own gradients, through a twin, by search, and by decisions alone."""
    if not gradients.absent:  # the model's own gradients are tried too, even where the checks distrust them
        own = replace(attack, problem=replace(attack.problem, attacked=gradients.averaged))
        standing = _while_it_pays(own, standing, [Ascents(40)], first + 50, allowance)
    borrowed = replace(attack, problem=replace(attack.problem, attacked=gradients.through_twin))
    transfers: list[Stage] = [Proposals(gradients.transferred), Ascents(60)]
    standing = _while_it_pays(borrowed, standing, transfers, first, allowance)
    if gradients.labels is not gradients.twin:
        labels = [Proposals(gradients.transferred_labels, name="labels")]
        standing = _while_it_pays(attack, standing, labels, first + 54, allowance)
    searches: Iterable[Stage] = (Searches(1000, cold=True), Searches(500))
    possible = [stage for stage in searches if allowed(stage, attack.problem.threat)]
    standing = _while_it_pays(attack, standing, possible, first + 20, allowance)
    return _while_it_pays(attack, standing, [Decisions(1000)], first + 40, allowance)


def _while_it_pays(
    attack: Cascade, standing: Standing, stages: Sequence[Stage], first: int, allowance: Allowance
) -> Standing:
    """Repeat stages until a round of them fools at most the share `YIELD`."""
    for k in range(ROUNDS):
        fooled = 0
        for i, stage in enumerate(stages):
            if allowance.used_up:
                return standing
            standing, result = attack.stage(standing, stage, first + 10 * i + k)
            fooled += result.closed if result is not None else 0
        if fooled <= YIELD * len(standing.frontier.fooled):
            break
    return standing


def _look_again(
    attack: Cascade, standing: Standing, gradients: Gradients, number: int
) -> tuple[Standing, list[Finding]]:
    """Repeat the checks that try other attacks, with other random numbers and on more samples.

    Attacks through a twin are tried only if there is one.
    """
    looks: list[tuple[str, Stage]] = [
        (CheckId.STEPS, Ascents(80, most=32, fresh=False, name="longer")),
        (CheckId.SEARCH, Searches(300, most=48, cold=True)),
        (CheckId.RANDOM, Noise(200, most=16, name="corners")),
        (CheckId.LABELS, Decisions(200, most=8)),
    ]
    if gradients.twin is not None:
        looks.append((CheckId.TWIN, Proposals(gradients.transferred, most=48)))
    if gradients.labels is not gradients.twin:
        looks.append((CheckId.LABELS, Proposals(gradients.transferred_labels, most=48, name="labels")))
    fooled: dict[str, float] = {}
    for check, stage in looks:
        if not allowed(stage, attack.problem.threat):
            continue
        last, (standing, result) = standing, attack.stage(standing, stage, number, check=check)
        fooled.setdefault(check, 0.0)
        if result is not None:
            fooled[check] += closed(attack, last, standing, result, StageKey(Family.CHECKS, stage.name, number, check))
    n = max(len(standing.frontier.fooled), 1)
    return standing, [
        above(check, count / n, f"afterwards {WORDS[check].what} fooled {count_text(count)} more", WORDS[check].action)
        for check, count in fooled.items()
    ]
