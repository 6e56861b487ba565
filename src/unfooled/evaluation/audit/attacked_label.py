"""The stage of an audit that attacks the label: the attack, nearest points, checks, and what the checks ask for.

The stage is a sequence of results, each better than the one before; where the time of the audit is over, the last one
counts, with the names of what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import ROBUST, AttackCut, AttackState, Cascade, Certify
from unfooled.attacks.ensembles.frontier import Frontier, PointsCut, Problem
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.attacks.gradients.prepared import NOT_COMPILED
from unfooled.certification.smoothed import Smoothing
from unfooled.core.checks import untrusted
from unfooled.core.model.modes import frozen
from unfooled.core.pulse import OutOfTime, time_limit
from unfooled.evaluation.audit.guards import attack_through, draws_of
from unfooled.evaluation.audit.missed import missed_by
from unfooled.evaluation.audit.nearest_points import nearest
from unfooled.evaluation.audit.plan import LabelAttack, Plan
from unfooled.evaluation.audit.proofs import CHECKED, prover_of
from unfooled.evaluation.audit.records import OF_THE_VERDICT
from unfooled.evaluation.audit.replays import replay, replay_ahead, replay_first
from unfooled.evaluation.audit.values import Attacked, Setting
from unfooled.evaluation.checks.after import after, trial_ahead
from unfooled.evaluation.checks.extending import TIMES, extend
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.subject import RANDOM_DRAWS
from unfooled.evaluation.checks.table import Finding, Kind
from unfooled.evaluation.checks.verdict import of_kind
from unfooled.runs.progress import Progress

ATTACK, NEAREST, CHECKS, EXTENSION = OF_THE_VERDICT
BEFORE_OTHERS = "accuracy before the purifier's other attacks"
"""Name of the share that is left while a model behind a purifier is attacked: robust accuracy needs all of them."""
COMPARED = 8
"""Samples at which a copy of the model is compared with it."""
PURIFIER, NEAREST_STAGE, CHECKS_STAGE = (
    StageKey(Family.CASCADE, name) for name in ("through the purifier", "nearest points", "checks")
)
"""Lines of the log after the attacks on a purifier, after the search for nearest points and after the checks."""
CUT_SHORT = (
    "The model remembers what it was asked: only the first stage of the attack was run, without nearest points and "
    "without further checks."
)
NOT_CONTINUED = "Checks asked for more attacks, which were left out, since no figure can be believed ({})."
LIMITED = (
    f"The attack that the checks asked for was stopped after {TIMES} times the passes of the attack before it; it may "
    "have found more."
)


def attack_label(s: Setting, plan: Plan, findings: list[Finding], right: Tensor) -> Attacked:
    """Attack the label, check the result, and go on where the checks ask for it, as far as the time allows.

    Where a finding stops the verdict, the attack does not go on, as no figure can be believed; of a model whose memory
    was seen before the attack, only the first stage is run.
    """
    label, draws = plan.label_attack, draws_of(s, RANDOM_DRAWS) if s.subject.random else 1
    certify: Certify | None = None
    unproven: tuple[str, ...] = ()
    with suppress(OutOfTime):
        certify, unproven = prover_of(s, label.certify, right)
    label = replace(label, certify=certify)
    gradients = Gradients(s.counted, findings, draws, s.seed, ledger=s.ledger)
    last: Attacked | None = None
    with suppress(OutOfTime):
        for last in _results(s, label, plan, gradients, findings, right):  # noqa: B007  (the last one counts)
            pass
    if last is not None and not last.left_out:
        return replace(last, certify=certify, notes=(*unproven, *_on_compiling(label, last), *last.notes))
    # Its gradients may not be ready; nothing here follows them.
    problem = Problem(s.counted, s.x, s.y, s.threat, gradients.averaged, draws, s.seed, s.batch)
    certify = None if last is None else certify  # there was no time for the proofs either
    attack = Cascade(problem, s.ledger, certify=certify, checked=CHECKED)
    if last is None:
        with time_limit(None), frozen(s.counted):
            state = attack.begin()
        last = Attacked(state, gradients, {}, {}, findings, [], False, left_out=(ATTACK, NEAREST, CHECKS))
    if last.through is None:
        with time_limit(None), frozen(s.counted):
            through = attack_through(s, label, attack, last.state, last.gradients, cut=True)
        if through is not None:  # it lacks attacks, so that robust accuracy is not stated
            last = replace(last, through=through, findings=[*last.findings, *through.findings])
    return replace(last, certify=certify, notes=(*unproven, *_on_compiling(label, last), *last.notes))


def _on_compiling(label: LabelAttack, last: Attacked) -> tuple[str, ...]:
    """Return what is to be said about torch.compile, where it was asked for."""
    if not label.torch_compile:
        return ()
    copy = last.gradients.faster
    return (NOT_COMPILED,) if copy is None else tuple(copy.notes)


def _results(
    s: Setting, label: LabelAttack, plan: Plan, gradients: Gradients, findings: list[Finding], right: Tensor
) -> Iterator[Attacked]:
    """Yield the result after each step; each says what is still left out."""
    gradients = gradients.ready(s.x, s.threat)
    if label.is_cascade and not s.subject.guarded:
        gradients = gradients.with_copy(s.x[s.at(torch.arange(min(s.n, COMPARED)))], compiled=label.torch_compile)
    assert not isinstance(label.certify, (str, Smoothing))
    answer = BEFORE_OTHERS if s.subject.guarded else ROBUST
    attack = Cascade(s.problem(gradients), s.ledger, certify=label.certify, checked=CHECKED, answer=answer)
    if seen := replay_first(s, right):
        yield _cut_short(s, attack, label, gradients, [*findings, *seen])
        return
    with frozen(s.counted):
        state, cut = _run_attack(s, attack, label, gradients)
        result = Attacked(state, gradients, {}, {}, findings, [], False, left_out=(NEAREST, CHECKS))
        if cut:
            yield replace(result, left_out=(ATTACK, NEAREST, CHECKS))
            return
        spent = sum(s.ledger.passes(Family.CASCADE, Family.AUTOATTACK))
        if through := attack_through(s, label, attack, state, gradients):
            state, findings = attack.log_stage(through.state, PURIFIER, s.n, 0), [*findings, *through.findings]
            result = replace(result, state=state, findings=findings, through=through, notes=tuple(through.notes))
        yield result
        attack_frontier, budget = state.frontier, max(spent // 10, label.floor)
        near = trial_ahead(attack, attack_frontier, gradients, budget=budget)
        found = nearest(s, plan.nearest, gradients, attack_frontier)
        with time_limit(None):
            near_rows = found.rows.get(s.threat.norm)
            missed, frontier = missed_by(s, attack.problem, attack_frontier, near_rows, whole=found.whole)
        state = attack.log_stage(replace(state, frontier=frontier), NEAREST_STAGE, found.count, 0)
        # A whole attack keeps its own figure; points that other attacks found count as findings alone.
        own = state if label.whole is None else replace(state, frontier=attack_frontier)
        if not s.subject.guarded:
            attack.tell(own.frontier)
        result = replace(
            result, state=own, findings=[*findings, missed], nearest=found.column("distance"),
            unanswered=found.column("unanswered"), nearest_points=found.column("z").get(s.threat.norm),
        )  # fmt: skip
        if not found.whole:
            yield replace(result, left_out=(NEAREST, CHECKS))
            return
        yield replace(result, left_out=(CHECKS,))
        beside = partial(_replay_ahead, s, None if label.whole is None else attack_frontier)
        try:
            checked = after(attack, frontier, gradients, budget=budget, meanwhile=beside, learned_from=near)
        except AttackCut as over:
            if label.whole is None:
                state = attack.log_stage(replace(state, frontier=over.state.frontier), CHECKS_STAGE, 0, 0)
                yield replace(result, state=state, left_out=(CHECKS,))
            return
        state = replace(state, frontier=checked.frontier if label.whole is None else attack_frontier)
        state = attack.log_stage(state, CHECKS_STAGE, 0, 0)
        if not s.subject.guarded:
            attack.tell(state.frontier)
        findings = [*findings, missed, *checked.findings]
        result = replace(result, state=state, gradients=checked.gradients, findings=findings)
        yield replace(result, left_out=(CHECKS,))
        findings = [*findings, *replay(s, state.frontier, checked.gradients)]
        yield from _extended(s, label, attack, replace(result, findings=findings, left_out=()))


def _replay_ahead(s: Setting, own: Frontier | None, checked: Frontier, gradients: Gradients) -> None:
    """Offer the replay of the points that are final, those of a whole attack or those after the checks."""
    replay_ahead(s, checked if own is None else own, gradients)


def _extended(s: Setting, label: LabelAttack, attack: Cascade, result: Attacked) -> Iterator[Attacked]:
    """Yield the result, and the one after the attack went on, where the checks ask for it."""
    findings = result.findings
    asking = (Kind.ABSENT, Kind.MASKING, Kind.EXTEND)
    wanted = label.is_cascade and any(of_kind(findings, kind) for kind in asking)
    stops = of_kind(findings, Kind.STOP)
    if not wanted or stops:
        notes = (NOT_CONTINUED.format(", ".join(stops)),) if wanted else ()
        yield replace(result, notes=(*notes, *result.notes))
        return
    yield replace(result, left_out=(EXTENSION,))
    try:
        more = extend(attack, result.state, result.gradients, findings, label.effort.stages[1:])
    except AttackCut as over:
        yield replace(result, state=over.state, left_out=(EXTENSION,))
        return
    result = replace(
        result, state=more.state, gradients=more.gradients, again=more.again, extended=True, stopped=more.stopped,
        notes=(*([LIMITED] if more.stopped else []), *result.notes),
    )  # fmt: skip
    yield replace(result, left_out=(CHECKS,))
    yield replace(result, findings=[*findings, *replay(s, more.state.frontier, more.gradients, again=True)])


def _cut_short(
    s: Setting, attack: Cascade, label: LabelAttack, gradients: Gradients, findings: list[Finding]
) -> Attacked:
    """Run the first stage of the attack alone, without nearest points and further checks."""
    with frozen(attack.problem.model):
        state = attack.perform(attack.begin(), label.stages(attack.problem.threat)[:1])
        through = attack_through(s, label, attack, state, gradients, cut=True)
    found = through.findings if through else []
    return Attacked(state, gradients, {}, {}, [*findings, *found], [], False, notes=(CUT_SHORT,), through=through)


def _run_attack(s: Setting, attack: Cascade, label: LabelAttack, gradients: Gradients) -> tuple[AttackState, bool]:
    """Run the attack that the plan asks for, and return its state, and whether its time was over before its end."""
    state = attack.begin()
    if label.whole is None:
        try:
            return attack.perform(state, label.stages(s.threat)), False
        except AttackCut as cut:
            return cut.state, True
    log: list[Progress] = []
    try:
        with untrusted():
            points = label.whole(
                gradients.averaged, s.x, s.y, s.threat, seed=s.seed, log=log, batch=s.batch, run=s.ledger
            )
    except PointsCut as cut:
        with time_limit(None):
            return attack.adopt(replace(state, log=(*state.log, *cut.log)), cut.points), True
    return attack.adopt(replace(state, log=(*state.log, *log)), points), False
