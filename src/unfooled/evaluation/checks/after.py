"""Checks after an attack: do other attacks find more, and do its points hold when they are judged?

Points that the checks find are stored in the frontier that they return. Where they ask for it, the attack goes on: see
`extending`.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420.
    Carlini et al., On evaluating adversarial robustness, 2019, arXiv:1902.06705.
    Pintor et al., Indicators of attack failure, NeurIPS 2022, arXiv:2106.09947 (D6, D9, D10, D11, D15).
    Croce, Hein, AutoAttack's flags, arXiv:2003.01690 (D3, D4, D14).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import AttackState, Cascade
from unfooled.attacks.ensembles.frontier import Frontier, Problem, kept
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.restarts import Restarts
from unfooled.attacks.ensembles.stages import (
    Ascents,
    Decisions,
    Noise,
    Searches,
    SingleStep,
    Stage,
    TransferPoints,
    allowed,
)
from unfooled.core.checks import check_attack, check_mode, check_run
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.rng import Numbers
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.core.unanswered import Unanswered
from unfooled.evaluation.checks.before import before, vanishing
from unfooled.evaluation.checks.borders import MAX_PAIRS, borders
from unfooled.evaluation.checks.draws import confirmed, count_text
from unfooled.evaluation.checks.gradients import MAX_BRIEF_SAMPLES, Gradients
from unfooled.evaluation.checks.limits import saturated, whole_box
from unfooled.evaluation.checks.refusals import find_refusals, refusal_finding
from unfooled.evaluation.checks.subject import RANDOM_DRAWS
from unfooled.evaluation.checks.table import CheckId, Finding, Kind, above, finding
from unfooled.runs.chunks import Rows

MIN_BUDGET = 20_000
"""Passes of the whole run that the checks may take in any case."""
RESERVED_PASSES = 4_500
"""Part of these passes that is reserved for the checks before the attack, the twin and the last checks."""
TRIAL_PASSES = 18_300
"""Passes that the trials take at full size."""
MAX_TRANSFERRED = 64
"""Survivors at most that points made on a twin are tried on."""
REFUSALS = StageKey(Family.CHECKS, "refusals")


class Wording(NamedTuple):
    """Words for a check that tries another attack."""

    what: str
    action: str


WORDS = {
    "D11": Wording("twice the steps from the best points", "the attack goes on"),
    "D12": Wording("five more restarts", "the attack goes on"),
    "D13": Wording("a single gradient step or noise", "gradients are not trusted: attacks that need none follow"),
    "D14": Wording("a search without gradients", "the attack goes on, then searches again"),
    "D15": Wording("points made on a twin", "gradients are not trusted: the twin's are used"),
    "D16": Wording("200 random points", "gradients are not trusted: attacks that need none follow"),
    "D28": Wording("a label-only attack", "scores are not trusted: attacks that need none follow"),
}


def labels_only_trials(gradients: Gradients, few: int, scale: float) -> list[tuple[str, Stage]]:
    """Return the label-only trials: a search, and points made on a twin of the labels.

    Args:
        gradients: Gradients of the model, with its twins.
        few: Samples that the twin's points are tried on.
        scale: Share of the full number of samples of the search. Cost: 200 F for each of 7 * scale samples, or 2.
    """
    trials_on_labels: list[tuple[str, Stage]] = [("D28", Decisions(200, most=max(2, int(7 * scale))))]
    if gradients.labels is not gradients.twin:  # else D15 has tried them
        trials_on_labels.append(("D28", TransferPoints(gradients.transferred_labels, most=few, name="labels")))
    return trials_on_labels


@dataclass(frozen=True, eq=False)
class Checked:
    """Result of the checks after an attack.

    Attributes:
        findings: Findings D6 (at the final points), D11 to D16, D18, D19, D27 and D28.
        frontier: Frontier with the points that they found.
        gradients: Gradients, with the twin where the checks asked for one.
    """

    findings: list[Finding]
    frontier: Frontier
    gradients: Gradients


def trials(scale: float) -> list[tuple[str, Stage]]:
    """Return attacks of other kinds, on the survivors with the smallest margins, with the checks that they serve.

    A trial on m survivors misses an attack that fools a share p of these with probability (1 - p)^m.

    Args:
        scale: Share of the full number of samples. Cost: about 18,300 * scale passes, at least 2,600.
    """

    def most(count: int, least: int) -> int:
        return max(least, int(count * scale))

    return [
        ("D13", SingleStep(most=most(160, 32))),
        ("D13", Noise(8, most=most(160, 16))),
        ("D16", Noise(200, most=most(9, 2), name="corners")),
        ("D14", Searches(200, most=most(36, 4), cold=True)),
        ("D12", Restarts(5, 20, most=most(24, 4))),
        ("D11", Ascents(80, most=most(16, 2), fresh=False, name="longer")),
    ]


def n_transferred(budget: int) -> int:
    """Return the number of survivors that points made on a twin are tried on.

    Args:
        budget: Passes that the checks after the attack may take.
    """
    return max(8, int(MAX_TRANSFERRED * min(max(0, budget - RESERVED_PASSES) / TRIAL_PASSES, 1)))


def trial_ahead(attack: Cascade, frontier: Frontier, gradients: Gradients, *, budget: int) -> Tensor:
    """Offer the twin that `after` will ask for to processes that would wait meanwhile.

    Returns:
        Samples that it learns from, for `after`: their choice must not depend on what is found meanwhile.
    """
    rows, problem = _near_first(frontier, n_transferred(budget)), attack.problem
    if len(frontier.remaining_rows()) and budget > RESERVED_PASSES:
        gradients.with_twin_ahead(problem.x[rows], problem.threat.take(rows), brief=True)
    return rows


def after(
    attack: Cascade,
    frontier: Frontier,
    gradients: Gradients,
    *,
    budget: int,
    meanwhile: Callable[[Frontier, Gradients], None] = lambda frontier, gradients: None,
    learned_from: Tensor | None = None,
) -> Checked:
    """Try other attacks on the samples that the attack could not fool.

    Args:
        attack: The attack.
        frontier: Best points that it found.
        gradients: Gradients of the model; its twin is asked too.
        budget: Passes that all this may take.
        meanwhile: Function that offers further work to processes that would wait, once all attacks are tried.
        learned_from: Samples that the twin of the trials learns from. None: those nearest to the boundary.

    Returns:
        A `Checked`. Where no sample is left to fool, no check fires.

    Raises:
        AttackCut: The time is over; it holds the frontier with all that was found.
    """
    rows = frontier.remaining_rows()[:16]
    if not len(rows):
        attack.ledger.run.ahead.clear()
        none = [finding(key, False, "no sample is left to fool") for key in (*WORDS, "D18")]
        return Checked(none, frontier, gradients)
    n, spare, problem = len(frontier.fooled), budget - RESERVED_PASSES, attack.problem
    attack = replace(attack, family=Family.CHECKS)
    scale = max(0.0, spare / TRIAL_PASSES)
    stages = [(key, s) for key, s in trials(scale) if allowed(s, problem.threat)]
    if spare > 0:
        n_twin = n_transferred(budget)
        near = _near_first(frontier, n_twin) if learned_from is None else learned_from
        with kept(AttackState(frontier)):
            gradients = gradients.with_twin(problem.x[near], problem.threat.take(near), brief=True)  # counts its passes
        stages.append(("D15", TransferPoints(gradients.transferred, most=n_twin)))
        stages += labels_only_trials(gradients, n_twin, scale)
    state, n_fooled, n_tried = AttackState(frontier), dict.fromkeys(WORDS, 0.0), dict.fromkeys(WORDS, 0)
    for number, (key, stage) in zip(Numbers.CHECKS, stages, strict=False):
        before_stage, (state, result) = state, attack.stage(state, stage, number, check=key)
        if result is not None:
            stage_key = StageKey(Family.CHECKS, stage.name, number, key)
            with kept(state):
                n_fooled[key] += confirmed(attack, before_stage, state, result, stage_key)
            n_tried[key] = max(n_tried[key], result.n_attacked)
    findings = [_trial_finding(key, n_fooled[key], n_tried[key], n) for key in WORDS]
    frontier = state.frontier
    with kept(state):
        if problem.decisive:
            attack.ledger.part_ahead(REFUSALS, _refusal_search(problem, rows), model=problem.model)
        meanwhile(frontier, gradients)
        findings += attack.ledger.once(
            StageKey(Family.CHECKS, "last"), Finding, lambda: _remaining_checks(problem, frontier, gradients, rows),
            model=problem.model,
        )  # fmt: skip
        if problem.decisive:
            refused, frontier = _refused(attack, frontier, rows)
            findings.append(refused)
    return Checked(findings, frontier, gradients)


def _near_first(frontier: Frontier, n_near: int) -> Tensor:
    """Return the samples that a brief twin is trained at: the survivors that it is tried on, then the first others."""
    near = frontier.remaining_rows(limit=n_near)
    others = torch.ones_like(frontier.fooled).index_fill(0, near, False).nonzero()[:, 0]
    return torch.cat([near, others])[:MAX_BRIEF_SAMPLES]


def _remaining_checks(problem: Problem, frontier: Frontier, gradients: Gradients, ends: Tensor) -> list[Finding]:
    """Make the checks that are no stage of an attack: D6 at the final points, D18, D19 and D27."""
    findings = []
    if problem.decisive and not gradients.missing:
        points = frontier.points[ends]
        findings.append(vanishing(problem.attacked, points, problem.y[ends], "where the attack ended")[0])
    findings += [whole_box(problem, frontier), saturated(problem, frontier, gradients)]
    if problem.decisive and not gradients.unavailable:
        rows, model = frontier.fooled_by_attack(problem.x)[:MAX_PAIRS], problem.model
        findings.append(borders(model, problem.x[rows], frontier.points[rows], "on the way to the points found"))
    return findings


def _refused(attack: Cascade, frontier: Frontier, rows: Tensor) -> tuple[Finding, Frontier]:
    """D22: search for points without a finite answer near some samples, and add them to the frontier."""
    stored = attack.ledger.part(REFUSALS, _refusal_search(attack.problem, rows), model=attack.problem.model)
    with_point, points = rows[stored["lone"].to(rows.device)], stored["points"].to(rows.device)
    d22 = refusal_finding(stored["refused"])
    return d22, frontier.with_unanswered(with_point, points) if len(with_point) else frontier


def _refusal_search(problem: Problem, rows: Tensor) -> Callable[[], Rows]:
    """Return the search for points without a finite answer near some samples."""

    def search() -> Rows:
        near = problem.take(rows)
        observer = Unanswered(near.x, near.threat)
        with problem.model.watched(observer):
            refused = find_refusals(problem.model, near.x, near.y, near.threat)
        return {"refused": refused, "lone": observer.seen, "points": observer.points[observer.seen]}

    return search


def _trial_finding(check: str, n_fooled: float, n_tried: int, n: int) -> Finding:
    """Return the finding of a check that tried another attack."""
    what, action = WORDS[check]
    detail = f"{what} fooled {count_text(n_fooled)} of {n_tried} survivors" if n_tried else f"{what}: not tried"
    return above(check, n_fooled / n, detail, action)


def diagnose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    result: Tensor,
    *,
    budget: float = 0.1,
    spent: int = 0,
    seed: int = 0,
    batch: int | None = None,
) -> list[Finding]:
    """Check a model and the points that an attack on it found.

    Args:
        model: Any callable to logits.
        x: Clean samples, (B, *D).
        y: Labels, (B,).
        threat: Constraint set of the attack.
        result: Points that the attack found, (B, *D).
        budget: Share of the attack's passes that the checks may take, or 20,000 passes if that is more.
        spent: Passes that the attack took.
        seed: Random seed.
        batch: Samples computed at once. None: as many as fit well in memory.

    Returns:
        Findings D2 to D9, D11 to D16, D18 to D22 and D26 to D28. `audit` adds those that need its own run, acts on all
        of them and gives the verdict.

    Raises:
        BadInput: The inputs cannot be used.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    check_run(seed, batch)
    counted = Counted(model)
    findings = before(counted, x, y, threat, seed=seed)
    draws = RANDOM_DRAWS if any(f.id == CheckId.STEADY and f.fired and f.kind == Kind.MEND for f in findings) else 1
    batch = batch or fitting_batch(model, x)
    gradients = Gradients(counted, findings, draws, seed).ready(x, threat)
    problem = Problem(counted, x, y, threat, gradients.attacked, draws, seed, batch)
    attack, all_rows = Cascade(problem, Ledger.of(None, len(x))), torch.arange(len(x), device=x.device)
    with frozen(model):
        frontier = attack.begin().frontier.with_points(all_rows, result, *problem.evaluate(result))
        checked = after(attack, frontier, gradients, budget=max(int(budget * spent), MIN_BUDGET))
    return [*findings, *checked.findings]
