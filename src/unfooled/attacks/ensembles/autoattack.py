"""AutoAttack-standard: its four attacks in sequence, without passes that cannot change a verdict.

    APGD on the cross-entropy, 100 steps -> APGD-T on the targeted DLR, 9 x 100 -> FAB-T, 9 x 100 -> Square, 5000

The attacks, their order, losses, targets and budgets are those of the published ensemble, so a verdict can be compared
with published ones. Omitted passes change no verdict: steps of samples that are fooled already, the gradient after the
last step, a clean forward for each target, FAB's forward that evaluates a step if the next step repeats it, gradients
of the weights, and queries of a point that has just been evaluated.

References:
    Croce, Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML
    2020, arXiv:2003.01690.
    Croce, Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020,
    arXiv:1907.02044.
    Andriushchenko et al., Square attack, ECCV 2020, arXiv:1912.00049.
    Differs from the published code: random numbers depend on the sample, Square draws a window for each sample, APGD
    counts the first window's rises from the loss at the start and replaces zero gradients by random ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.attacks.apgd import apgd, shrinking
from unfooled.attacks.ensembles.frontier import PointsCut, Problem
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.targets import towards
from unfooled.attacks.fab import fab
from unfooled.attacks.square import square
from unfooled.core import losses, rng
from unfooled.core.ascent import Ascent, Auto, ascend
from unfooled.core.ascent.nearest import moving_only
from unfooled.core.checks import check_attack, check_mode, trusted
from unfooled.core.errors import BadInput, option
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import OutOfTime
from unfooled.core.samples import keys_of, replaced
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, UNIT, Linf, Threat
from unfooled.core.types import Model, Objective
from unfooled.core.unanswered import Unanswered
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.progress import Progress

CASCADE = f"use the cascade, {option('effort', 'normal')}"

STEPS, TARGETS, QUERIES, SCHEDULE = 100, 9, 5000, 10_000
RESTARTS_L1, TARGETS_L1 = 5, 5
"""Restarts of APGD and targets of APGD-T in L1, as published."""


@dataclass(frozen=True, eq=False)
class _State:
    """Points and progress of the ensemble so far.

    Attributes:
        points: Adversarial examples where found, else points without a finite answer, else x, (n, *D).
        fooled: Samples with an adversarial example, (n,) bool.
        unanswered: Samples with a point without a finite answer, (n,) bool.
        order: Likeliest classes other than the label, likeliest first, (n, targets).
        log: Progress after each attack.
    """

    points: Tensor
    fooled: Tensor
    unanswered: Tensor
    order: Tensor
    log: tuple[Progress, ...] = ()

    def log_stage(self, ledger: Ledger, method: str) -> Self:
        """Return the state with the progress after an attack."""
        return replace(self, log=(*self.log, ledger.progress(_key(method), self.fooled | self.unanswered)))


def autoattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    log: list[Progress] | None = None,
    batch: int | None = None,
    run: Run | Ledger | None = None,
) -> Tensor:
    """Attack with AutoAttack-standard.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K), K >= 4. Not modified.
        x: Inputs in the unit box, (B, *D).
        y: Labels, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        seed: Random seed.
        log: List to which a `Progress` is appended after each attack. None: none.
        batch: Samples computed at once. None: as many as fit well in memory.
        run: Run in which finished chunks are stored. None: they are kept in memory.

    Returns:
        Points inside the threat, (B, *D): an adversarial example where one was found, else a point without a finite
        answer, else x. Success is evaluated by `verify`.

    Raises:
        BadInput: Another norm or box, fewer than 4 classes, or inputs that cannot be used.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    if threat.norm not in (1.0, 2.0, math.inf):
        raise BadInput(f"autoattack supports Linf, L2 and L1, the threat is {threat}; {CASCADE}")
    if threat.box != UNIT:
        raise BadInput(f"autoattack works in the unit box, the threat's is {threat.box}; {CASCADE}")
    counted, batch = Counted(model), batch or fitting_batch(model, x)
    problem = Problem(counted, x, y, threat.bounded(x), counted, seed=seed, batch=batch)
    ledger = Ledger.of(run, len(x))
    with frozen(model):
        state = _begin(problem, ledger)  # checks the model's output
        with trusted(), moving_only(threat.free):
            try:
                for method, attack in ATTACKS.items():
                    state = _stage(problem, state, ledger, method, attack)
            except OutOfTime:
                raise PointsCut(state.points, tuple(state.log)) from None
    if log is not None:
        log.extend(state.log)
    return state.points


def _key(method: str) -> StageKey:
    """Return the key of a stage."""
    return StageKey(Family.AUTOATTACK, method)


def _begin(problem: Problem, ledger: Ledger) -> _State:
    """Find the misclassified clean samples, and the likeliest other classes of the rest."""

    def work(rows: Tensor) -> Rows:
        part = problem.take(rows.to(problem.x.device))
        with torch.no_grad():
            logits = read_logits(part.model, part.x, part.y, batch=part.batch)
        k = logits.shape[1]
        if k < 4:
            raise BadInput(f"apgd-t cannot run: its loss needs at least 4 classes, the model has {k}; {CASCADE}")
        order = logits.scatter(1, part.y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        return {"fooled": fooled(logits, part.y), "order": order[:, : min(TARGETS, k - 1)]}

    clean = ledger.map(_key("clean"), work, len(problem.x), model=problem.model)
    is_fooled, order = (clean[name].to(problem.x.device) for name in ("fooled", "order"))
    return _State(problem.x.clone(), is_fooled, torch.zeros_like(is_fooled), order).log_stage(ledger, "clean")


_Attack = Callable[[Problem, Tensor], Tensor]
"""`(problem, order of its samples' classes) -> points`."""


def _stage(problem: Problem, state: _State, ledger: Ledger, method: str, attack: _Attack) -> _State:
    """Run one attack on the samples that are not fooled yet, chunk by chunk."""
    rows = (~state.fooled).nonzero()[:, 0]
    if not len(rows):
        return state
    rows = rows[keys_of(problem.x)[rows].argsort(stable=True)]

    def work(positions: Tensor) -> Rows:
        at = rows[positions.to(rows.device)]
        part = problem.take(at)
        observer = Unanswered(part.x, part.threat)
        with part.model.watched(observer):
            points = attack(part, state.order[at])
            is_fooled = fooled(part.logits(points), part.y)
        points, no_answer = observer.substitute(points, is_fooled)
        return {"points": points, "fooled": is_fooled, "unanswered": no_answer}

    result = ledger.map(_key(method), work, len(rows), model=problem.model, large=problem.large)
    points, is_fooled, no_answer = (result[name].to(rows.device) for name in ("points", "fooled", "unanswered"))
    after = replace(
        state,
        points=replaced(state.points, rows, points, is_fooled | no_answer),
        fooled=state.fooled.index_copy(0, rows, state.fooled[rows] | is_fooled),
        unanswered=state.unanswered.index_copy(0, rows, state.unanswered[rows] | no_answer),
    )
    return after.log_stage(ledger, method)


def _start(problem: Problem, draw: int) -> Tensor:
    """Return a random point on the surface of each ball, projected onto the box."""
    x, threat = problem.x, problem.threat
    seeds, shape = rng.seeds(x, problem.seed, stage=rng.Stream.AUTOATTACK), tuple(x.shape[1:])
    if isinstance(threat, Linf):
        u = 2 * rng.uniform(seeds, shape, draw=draw, dtype=x.dtype) - 1
        u = u / per_sample(flat(u).abs().amax(1).clamp_min(TINY), u)
    else:
        u = threat.steepest(rng.normal(seeds, shape, draw=draw, dtype=x.dtype))
    return threat.project(x + per_sample(threat.eps, x) * u, x)


def _ascended(problem: Problem, objective: Objective, draw: int) -> Ascent:
    """Climb with APGD from a random start, in Linf and L2."""
    start = _start(problem, draw)
    return ascend(objective, problem.x, problem.threat, steps=STEPS, rule=Auto(), start=start, batch=problem.batch)


def _apgd_ce(problem: Problem, order: Tensor) -> Tensor:
    """Run APGD on the cross-entropy."""
    p = problem
    if p.threat.norm == 1:
        source = torch.Generator().manual_seed(p.seed)
        return apgd(
            p.model, p.x, p.y, p.threat, steps=STEPS, loss=losses.cross_entropy, restarts=RESTARTS_L1, batch=p.batch,
            generator=source,
        )  # fmt: skip
    return _ascended(p, fooling(p.model, p.y, losses.cross_entropy), 0).z


def _apgd_t(problem: Problem, order: Tensor) -> Tensor:
    """Run APGD on the targeted DLR, one class after the other."""
    z = problem.x.clone()
    live = torch.arange(len(z), device=z.device)
    sparse = problem.threat.norm == 1
    for k in range(min(TARGETS_L1, order.shape[1]) if sparse else order.shape[1]):
        part = problem.take(live)
        goal = towards(part, order[live, k], losses.dlr_targeted)
        if sparse:
            source = rng.derived(part.seed, rng.Numbers.AUTOATTACK_L1[k])
            points = shrinking(goal, part.x, part.threat, STEPS, None, part.batch, source)
            done = fooled(part.logits(points), part.y)
        else:
            climb = _ascended(part, goal, 1 + k)
            points, done = climb.z, climb.done
        z[live[done]] = points[done]
        live = live[~done]
        if not len(live):
            break
    return z


def _fab_t(problem: Problem, order: Tensor) -> Tensor:
    """Run FAB-T; points farther away than eps are no success."""

    def run(p: Problem, _: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(p.seed)
        z = fab(p.model, p.x, p.y, p.threat.norm, targets=TARGETS, steps=STEPS, eps=p.threat.eps, generator=source)
        return where_rows(p.threat.size(z - p.x) <= torch.as_tensor(p.threat.eps), z, p.x)

    return problem.in_batches(run)


def _square(problem: Problem, order: Tensor) -> Tensor:
    """Run Square attack."""

    def run(p: Problem, _: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(p.seed)
        return square(p.model, p.x, p.y, p.threat, steps=QUERIES, schedule=SCHEDULE, generator=source)

    return problem.in_batches(run)


ATTACKS: dict[str, _Attack] = {"apgd-ce": _apgd_ce, "apgd-t": _apgd_t, "fab-t": _fab_t, "square": _square}
"""The attacks in their order."""
