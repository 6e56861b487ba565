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

from unfooled.attacks.ensembles.cascade import AttackState, Cascade, fitted
from unfooled.attacks.ensembles.frontier import kept
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.shared import SharedChanges
from unfooled.attacks.ensembles.stages import (
    Ascents,
    Decisions,
    Noise,
    Searches,
    Stage,
    TransferPoints,
    UserAttack,
    allowed,
)
from unfooled.attacks.fgsm import fgsm
from unfooled.core import losses
from unfooled.core.rng import Numbers
from unfooled.core.types import Model
from unfooled.evaluation.checks.after import WORDS
from unfooled.evaluation.checks.draws import confirmed, count_text
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import CHECKS, YIELD, CheckId, Finding, Kind, above
from unfooled.evaluation.checks.verdict import fired, of_kind

MAX_ROUNDS = 4
"""Largest number of rounds of `_repeat_while_successful`."""
MAX_REPEATS = 6
"""Largest number of rounds of `_repeat_attacks`."""

ESTIMATED_STEPS, ESTIMATED_ROUNDS = 8, 3
"""Steps by gradients that are estimated from the scores of a black box, and how often they are taken at most."""
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
    def left(self) -> int:
        """Passes that are left."""
        return max(TIMES * self.own, AT_LEAST) - (sum(self.ledger.passes(Family.CASCADE)) - self.own)

    @property
    def used_up(self) -> bool:
        """True if no further stage may begin."""
        return self.left < 0


@dataclass(frozen=True, eq=False)
class Extended:
    """Result of a continued attack.

    Attributes:
        state: State of the attack.
        gradients: Gradients of the model, with a twin (a distilled copy of the model) if the attack needed one.
        again: Findings of the checks that were repeated afterwards.
        stopped: True if it was stopped at the limit of passes.
    """

    state: AttackState
    gradients: Gradients
    again: list[Finding]
    stopped: bool = False


def extend(
    attack: Cascade, state: AttackState, gradients: Gradients, findings: Sequence[Finding], stages: Sequence[Stage]
) -> Extended:
    """Continue the attack where findings ask for it, then check again.

    A finding of kind `extend` repeats `stages` from other starts, at most twice, until the checks find nothing more. A
    finding of kind `masking` repeats the attacks that fooled further samples, and attacks the survivors through the
    twin's gradients, by score-based search and by decision-based attacks: at most three times, until the checks find
    nothing more; so does one of kind `absent`, of a model without gradients. Where the model's own gradient is of no
    use this is done once, since the figure is not trusted anyway.

    Args:
        attack: The attack.
        state: State of the attack.
        gradients: Gradients of the model.
        findings: Findings so far.
        stages: Stages of the attack to repeat.

    Raises:
        AttackCut: The time is over; it holds the state with all that was found.
    """
    again: list[Finding] = []
    allowance, stopped = Allowance.after(attack.ledger), False
    pending, hidden = findings, bool(of_kind(findings, Kind.MASKING) or of_kind(findings, Kind.ABSENT))
    for last, numbers in zip((False, True), Numbers.AGAIN, strict=True):
        over = stopped or not bool(state.frontier.remaining.any())
        if hidden or over or not of_kind(pending, Kind.EXTEND):
            break
        if fired(findings, CheckId.ROUGH):
            attack = replace(attack, problem=replace(attack.problem, attacked=gradients.jittered))
        state = attack.perform(state, fitted(stages, attack.problem.threat), first=numbers[0])
        stopped = allowance.used_up
        state, again = _repeat_checks(attack, state, gradients, numbers[-1])
        pending = again
        hidden = bool(of_kind(again, Kind.MASKING)) or (last and fired(again, CheckId.SEARCH))
    pending = [*findings, *again]
    useless = any(f.fired and CHECKS[f.id].hides and f.kind is not Kind.ABSENT for f in findings)
    rounds = 1 if useless else len(Numbers.HIDDEN)
    for numbers, more in zip(Numbers.HIDDEN[:rounds], Numbers.REPEATED, strict=False):
        if not hidden or stopped or not bool(state.frontier.remaining.any()):
            break
        with kept(state):
            gradients = gradients.with_twin(attack.problem.x, attack.problem.threat)
        state = _repeat_attacks(attack, state, gradients, pending, more, allowance)
        state = _without_gradients(attack, state, gradients, numbers[0], allowance)
        stopped = allowance.used_up
        state, again = _repeat_checks(attack, state, gradients, numbers[-1])
        pending, hidden = again, fired(again)
    return Extended(state, gradients, again, stopped)


def _attacks_of_fired_checks(gradients: Gradients, findings: Sequence[Finding]) -> list[Stage]:
    """Return the attacks behind the checks that fired, with a budget for all survivors."""

    def one_step(model: Model, *rest: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return fgsm(model, *rest, loss=losses.margin)  # type: ignore[arg-type]

    noise, labels = Noise(1000), TransferPoints(gradients.transferred_labels, name="labels")
    stages: dict[CheckId, tuple[Stage, ...]] = {
        CheckId.STEPS: (Ascents(80, fresh=False, name="longer"),),
        CheckId.RESTARTS: (Ascents(20, name="restart"),),
        CheckId.ONE_STEP: (UserAttack(one_step, name="fgsm"), noise),
        CheckId.SEARCH: (Searches(300, cold=True),),
        CheckId.TWIN: (TransferPoints(gradients.transferred),),
        CheckId.RANDOM: (noise,),
        CheckId.LABELS: (Decisions(500), labels),
    }
    selected = [stage for check, some in stages.items() if fired(findings, check) for stage in some]
    return list({stage.name: stage for stage in selected}.values())


def _repeat_attacks(
    attack: Cascade,
    state: AttackState,
    gradients: Gradients,
    findings: Sequence[Finding],
    numbers: range,
    allowance: Allowance,
) -> AttackState:
    """Repeat the attacks behind the checks that fired, until a round of them fools no further sample."""
    stages = [stage for stage in _attacks_of_fired_checks(gradients, findings) if allowed(stage, attack.problem.threat)]
    for k in range(MAX_REPEATS if stages else 0):
        before = state.frontier
        for i, stage in enumerate(stages):
            if allowance.used_up:
                return state
            state, _ = attack.stage(state, stage, numbers[k * (len(WORDS) + 2) + i])
        new = (state.frontier.fooled & ~before.fooled).nonzero()[:, 0]
        if not len(new):
            break
        changes = state.frontier.points[new] - attack.problem.x[new]
        state, _ = attack.stage(state, SharedChanges(changes[:16]), numbers[k * (len(WORDS) + 2) + len(stages)])
    return state


def _without_gradients(
    attack: Cascade, state: AttackState, gradients: Gradients, first: int, allowance: Allowance
) -> AttackState:
    """Attack the survivors by the model's own or estimated gradients, a twin, search, and label-only attacks."""
    if not gradients.absent:  # the model's own gradients are tried too, even where the checks distrust them
        own = replace(attack, problem=replace(attack.problem, attacked=gradients.averaged))
        state = _repeat_while_successful(own, state, [Ascents(40)], first + 50, allowance)
    by_twin = replace(attack, problem=replace(attack.problem, attacked=gradients.through_twin))
    transfers: list[Stage] = [TransferPoints(gradients.transferred), Ascents(60)]
    state = _repeat_while_successful(by_twin, state, transfers, first, allowance)
    if gradients.labels is not gradients.twin:
        labels = [TransferPoints(gradients.transferred_labels, name="labels")]
        state = _repeat_while_successful(attack, state, labels, first + 54, allowance)
    state = _by_differences(attack, state, gradients, first + 50, allowance)  # before what fools fewer per query
    searches: Iterable[Stage] = (Searches(1000, cold=True), Searches(500))
    possible = [stage for stage in searches if allowed(stage, attack.problem.threat)]
    state = _repeat_while_successful(attack, state, possible, first + 20, allowance)
    return _repeat_while_successful(attack, state, [Decisions(1000)], first + 40, allowance)


def _by_differences(
    attack: Cascade, state: AttackState, gradients: Gradients, number: int, allowance: Allowance
) -> AttackState:
    """Ascend by gradients that are estimated from a black box's scores, by as many steps as the allowance has."""
    with kept(state):
        estimated = gradients.estimated(attack.problem.x, attack.problem.threat.box)
    if estimated is None:
        return state
    by_values = replace(attack, problem=replace(attack.problem, attacked=estimated))
    for k in range(ESTIMATED_ROUNDS):
        cost = estimated.cost(attack.problem.x) * int(state.frontier.remaining.sum())
        steps = affordable(allowance.left, cost)
        if not steps:
            break
        state, result = by_values.stage(state, Ascents(steps, fresh=not k, name="estimated"), number + k)
        if result is None or not result.n_fooled:
            break
    return state


def affordable(left: int, cost: int) -> int:
    """Return how many steps by estimated gradients may be taken, at most `ESTIMATED_STEPS`.

    Args:
        left: Passes that are left.
        cost: Passes of one step; 0: no sample is left.
    """
    return min(ESTIMATED_STEPS, max(left, 0) // cost) if cost else 0


def _repeat_while_successful(
    attack: Cascade, state: AttackState, stages: Sequence[Stage], first: int, allowance: Allowance
) -> AttackState:
    """Repeat stages until a round of them fools at most the share `YIELD`."""
    for k in range(MAX_ROUNDS):
        count = 0
        for i, stage in enumerate(stages):
            if allowance.used_up:
                return state
            state, result = attack.stage(state, stage, first + 10 * i + k)
            count += result.n_fooled if result is not None else 0
        if count <= YIELD * len(state.frontier.fooled):
            break
    return state


def _repeat_checks(
    attack: Cascade, state: AttackState, gradients: Gradients, number: int
) -> tuple[AttackState, list[Finding]]:
    """Repeat the checks that try other attacks, with other random numbers and on more samples.

    Attacks through a twin are tried only if there is one.
    """
    trials: list[tuple[str, Stage]] = [
        (CheckId.STEPS, Ascents(80, most=32, fresh=False, name="longer")),
        (CheckId.SEARCH, Searches(300, most=48, cold=True)),
        (CheckId.RANDOM, Noise(200, most=16, name="corners")),
        (CheckId.LABELS, Decisions(200, most=8)),
    ]
    if gradients.twin is not None:
        trials.append((CheckId.TWIN, TransferPoints(gradients.transferred, most=48)))
    if gradients.labels is not gradients.twin:
        trials.append((CheckId.LABELS, TransferPoints(gradients.transferred_labels, most=48, name="labels")))
    fooled: dict[str, float] = {}
    for check, stage in trials:
        if not allowed(stage, attack.problem.threat):
            continue
        last, (state, result) = state, attack.stage(state, stage, number, check=check)
        fooled.setdefault(check, 0.0)
        if result is not None:
            key = StageKey(Family.CHECKS, stage.name, number, check)
            with kept(state):
                fooled[check] += confirmed(attack, last, state, result, key)
    n = max(len(state.frontier.fooled), 1)
    return state, [
        above(check, count / n, f"afterwards {WORDS[check].what} fooled {count_text(count)} more", WORDS[check].action)
        for check, count in fooled.items()
    ]
