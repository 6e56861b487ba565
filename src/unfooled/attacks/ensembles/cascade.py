"""The cascade: a sequence of attacks on the samples that are not fooled yet.

    margin APGD from two starts -> bursts towards the nearest classes -> random search -> output-diversified waves

Each stage attacks the samples that are not fooled yet, or the part of them nearest to the boundary; a fooled sample
leaves at once. The samples of a stage are selected between stages, over the whole run, with the survivors in the
order of their hashes, so that no verdict depends on the batch, the order of the samples or the chunk size.

References:
    Croce, Hein, Reliable evaluation of adversarial robustness, ICML 2020, arXiv:2003.01690 (APGD).
    Tashiro, Song, Ermon, Diversity can be transferred: output diversification, NeurIPS 2020, arXiv:2003.06878 (ODI).
    Melamed, Yehudai, Shamir, MALT powers up adversarial attacks, 2024, arXiv:2407.02240 (order of the targets).
    Liu et al., Practical evaluation of adversarial robustness via adaptive auto attack, CVPR 2022, arXiv:2203.05154
    (directions learned from earlier successes).
    Andriushchenko et al., Square attack, ECCV 2020, arXiv:1912.00049.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unfooled.attacks.ensembles.efforts import EFFORTS, NORMAL, QUICK, THOROUGH, Effort
from unfooled.attacks.ensembles.frontier import AttackCut, AttackState, Frontier, Problem, StageResult
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.ensembles.stages import Proposal, Stage, fitted
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.core.ascent.nearest import moving_only
from unfooled.core.checks import check_attack, check_mode, check_run, trusted, untrusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import report_answer
from unfooled.core.samples import selected
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.core.unanswered import Unanswered
from unfooled.runs.chunks import Rows, Run, StageCut
from unfooled.runs.progress import Progress

__all__ = [
    "EFFORTS",
    "NORMAL",
    "QUICK",
    "THOROUGH",
    "AttackState",
    "Cascade",
    "Certify",
    "Effort",
    "cascade",
    "fitted",
]

Certify = Callable[[Tensor, Tensor, Threat], Tensor | tuple[Tensor, Tensor]]
"""`(x, y, threat) -> (B,) bool`: True where no point in the threat provably changes the label y. Or a pair, with points
at which the search for proofs has fooled a sample, (B, *D); x itself elsewhere."""


ROBUST = "robust accuracy, at most"
"""Name of the share that is left, while the attack runs."""
MIN_SHARE_TO_CONTINUE = 0.05
"""Share of fooled samples, in the half farther from the boundary, from which a stage attacks another part."""
MIN_FOOLED_TO_CONTINUE = 2
"""Least number of these, where the half has as many."""


@dataclass(frozen=True, eq=False)
class Cascade:
    """Execution of stages on a problem; every method takes a state of the attack and returns the next.

    Attributes:
        problem: Samples, threat and model.
        ledger: Ledger that stores chunks and counts passes.
        family: Family of the stages' keys.
        certify: Function that returns which samples are proven robust. None: none are.
        checked: Number of certified samples that are attacked all the same.
        answer: Name of the share of samples that are left, told while the attack runs.
    """

    problem: Problem
    ledger: Ledger
    family: Family = Family.CASCADE
    certify: Certify | None = None
    checked: int = 0
    answer: str = ROBUST

    def begin(self) -> AttackState:
        """Evaluate the clean samples; misclassified and certified ones are not attacked."""
        x = self.problem.x
        clean = self._map(StageKey(self.family, "clean"), self._clean, len(x))
        is_fooled = clean["fooled"].to(x.device)
        proofs = {} if self.certify is None else self._map(StageKey(self.family, "proofs"), self._proofs, len(x))
        certified = proofs["certified"].to(x.device) if proofs else torch.zeros_like(is_fooled)
        frontier = replace(
            Frontier.start(x),
            margins=clean["margins"].to(x.device, x.dtype),
            fooled=is_fooled,
            certified=certified & ~is_fooled,
        )
        if self.checked:
            frontier = frontier.with_attacked(self.checked)
        rows = frontier.margins.isnan().nonzero()[:, 0]
        if len(rows):
            frontier = frontier.with_unanswered(rows, x[rows])
        state = self.log_stage(AttackState(frontier), StageKey(self.family, "clean"), len(x), int(is_fooled.sum()))
        if "proposed" in proofs:
            state = self.adopt(state, self.problem.threat.project(proofs["proposed"].to(x), x), "branching")
        return state

    def perform(self, state: AttackState, stages: Sequence[Stage], *, first: int = 0) -> AttackState:
        """Run the stages in turn, until no sample is left.

        Args:
            state: Current state of the attack.
            stages: Stages in order.
            first: Number of the first stage.
        """
        failures: dict[type[Stage], int] = {}
        for number, stage in enumerate(stages, first):
            if not bool(state.frontier.remaining.any()):
                break
            kind = type(stage)
            if stage.patience is not None and failures.get(kind, 0) >= stage.patience:
                continue
            left, (state, _) = int(state.frontier.remaining.sum()), self.stage(state, stage, number)
            failures[kind] = 0 if int(state.frontier.remaining.sum()) < left else failures.get(kind, 0) + 1
        return state

    def stage(
        self, state: AttackState, stage: Stage, number: int, *, check: str = ""
    ) -> tuple[AttackState, StageResult | None]:
        """Attack the share of the survivors that a stage selects, and the next share while it succeeds.

        Certified samples count as survivors here, so that a stage attacks the same samples with and without proofs.

        The next share is attacked if at least `MIN_SHARE_TO_CONTINUE` of the half farther from the boundary were
        fooled, and at least `MIN_FOOLED_TO_CONTINUE`: margins then predict little on this model, and the remaining
        samples may be fooled as well.

        Args:
            state: Current state of the attack.
            stage: The stage.
            number: Number of the stage, which is also the draw of its random numbers.
            check: Id of the check that the stage belongs to. Empty: none.

        Returns:
            The next state, and the result of the last part; None if no sample was left.
        """
        frontier = state.frontier
        order = frontier.remaining_rows(spared=True)
        size = max(len(frontier.remaining_rows(stage.share, stage.most, spared=True)), min(stage.least, len(order)))
        if size < len(order):
            order = order[frontier.margins[order].argsort(descending=True, stable=True)]
        if stage.most is not None:
            order = order[:size]
        result = None
        for part, selected_rows in enumerate(order.split(max(size, 1)) if len(order) else ()):
            attacked = ~frontier.spared[selected_rows]
            rows = selected_rows[attacked]
            if not len(rows):
                break
            key = StageKey(self.family, stage.name, number, check, part)
            try:
                result = self.attack(state.frontier, stage, rows, key)
            except StageCut as cut:
                if not cut.rows:
                    raise AttackCut(self.log_stage(state, key, 0, 0)) from None
                done = _result(rows[cut.positions.to(rows.device)], cut.rows)
                state = replace(state, frontier=state.frontier.with_result(done))
                raise AttackCut(self.log_stage(state, key, done.n_attacked, done.n_fooled)) from None
            state = AttackState(state.frontier.with_result(result), state.log)
            state = self.log_stage(state, key, result.n_attacked, result.n_fooled)
            half = torch.zeros_like(attacked).masked_scatter(attacked, result.fooled)[len(attacked) // 2 :]
            if int(half.sum()) < max(min(MIN_FOOLED_TO_CONTINUE, len(half)), MIN_SHARE_TO_CONTINUE * len(half)):
                break
        return state, result

    def attack(
        self,
        frontier: Frontier,
        stage: Stage,
        rows: Tensor,
        key: StageKey,
    ) -> StageResult:
        """Run a stage on some samples, chunk by chunk, and evaluate the proposed points.

        Args:
            frontier: Best points so far.
            stage: The stage.
            rows: Samples to attack, (m,).
            key: Key of the stage.

        Raises:
            StageCut: The time is over.
        """
        n, left = len(frontier.fooled), [int((~frontier.not_robust).sum())]
        tells = self.family is Family.CASCADE and self.problem.decisive

        def work(positions: Tensor) -> Rows:
            at = rows[positions.to(rows.device)]
            problem = self.problem.take(at)
            observer = Unanswered(problem.x, problem.threat)
            with problem.model.watched(observer):
                proposal, margins, is_fooled = _proposed(problem, stage, frontier.take(at), key.number or 0)
            points, no_answer = observer.substitute(proposal.points, is_fooled)
            margins = margins.masked_fill(no_answer, torch.nan)
            evaluated = {"points": points, "margins": margins, "fooled": is_fooled}
            left[0] -= int((is_fooled & ~frontier.not_robust[at]).sum())  # those without an answer are not left either
            if tells:
                report_answer(self.answer, left[0] / max(n, 1), n)
            return evaluated if proposal.directions is None else evaluated | {"directions": proposal.directions}

        return _result(rows, self._map(key, work, len(rows), self.problem.large))

    def adopt(self, state: AttackState, points: Tensor, name: str = "adopt") -> AttackState:
        """Take over the points of another attack for the survivors. Cost: 1 forward per survivor and draw."""
        key, taken = StageKey(self.family, name), len(state.frontier.remaining_rows())
        return self.log_stage(replace(state, frontier=self.adopted(state.frontier, points, key)), key, taken, 0)

    def adopted(self, frontier: Frontier, points: Tensor, key: StageKey) -> Frontier:
        """Return a frontier with the points of another attack for the survivors, as `adopt` does."""
        rows = frontier.remaining_rows()

        def work(positions: Tensor) -> Rows:
            at = rows[positions.to(rows.device)]
            margins, is_fooled = self.problem.take(at).evaluate(points[at])
            return {"margins": margins, "fooled": is_fooled}

        evaluated = self._map(key, work, len(rows))
        if len(rows):
            margins, is_fooled = (evaluated[name].to(rows.device) for name in ("margins", "fooled"))
            result = StageResult(rows, selected(points, rows), margins, is_fooled)
            no_answer = margins.isnan()
            if bool(no_answer.any()):
                frontier = frontier.with_unanswered(rows[no_answer], points[rows[no_answer]])
                result = result.without(no_answer)
            frontier = frontier.with_points(result.rows, result.points, result.margins, result.fooled)
        return frontier

    def tell(self, frontier: Frontier) -> None:
        """Tell the share of samples that is left to a listener that shows it; not of a random model."""
        if self.problem.decisive:
            n = len(frontier.fooled)
            report_answer(self.answer, int((~frontier.not_robust).sum()) / max(n, 1), n)

    def log_stage(self, state: AttackState, key: StageKey, n_attacked: int, n_fooled: int) -> AttackState:
        """Return the state with the progress after a stage."""
        progress = self.ledger.progress(key, state.frontier.not_robust, taken=n_attacked, closed=n_fooled)
        return state.with_progress(progress)

    def _map(self, key: StageKey, work: Callable[[Tensor], Rows], n: int, large: tuple[str, ...] = ()) -> Rows:
        return self.ledger.map(key, work, n, model=self.problem.model, large=large)

    def _clean(self, rows: Tensor) -> Rows:
        """Evaluate clean samples and check the model's output; later evaluations skip the check."""
        part = self.problem.take(rows.to(self.problem.x.device))
        margins, is_fooled = part.evaluate(part.x, check=True)
        return {"margins": margins, "fooled": is_fooled}

    def _proofs(self, rows: Tensor) -> Rows:
        """Prove samples robust; where the search for proofs meets points that fool samples, return these as well."""
        assert self.certify is not None
        part = self.problem.take(rows.to(self.problem.x.device))
        with untrusted():
            proven = self.certify(part.x, part.y, part.threat)
        if not isinstance(proven, tuple):
            return {"certified": proven.to(torch.bool)}
        return {"certified": proven[0].to(torch.bool), "proposed": proven[1]}


def _result(rows: Tensor, found: Rows) -> StageResult:
    """Return the result of a stage on some samples, (m,), from what it has stored."""
    found = {k: v.to(rows.device) for k, v in found.items()}
    is_fooled, directions = found["fooled"], found.get("directions")
    learned = None if directions is None else directions[is_fooled]
    return StageResult(rows, found["points"], found["margins"], is_fooled, learned)


def _proposed(problem: Problem, stage: Stage, frontier: Frontier, number: int) -> tuple[Proposal, Tensor, Tensor]:
    """Return the proposal of a stage, the margins there, and which samples are fooled.

    Where a faster copy of the model is fooled and the model is not, by rounding, the stage asks the model itself.
    """
    proposal = stage.propose(problem, frontier, number)
    margins, is_fooled = problem.evaluate(proposal.points)
    rounding = 0.0 if problem.faster is None else problem.faster.rounding
    if not rounding:
        return proposal, margins, is_fooled
    undecided = (~is_fooled & (margins > -rounding)).nonzero()[:, 0]
    if len(undecided):
        logits = problem.logits(proposal.points[undecided], problem.faster)
        undecided = undecided[fooled(logits, problem.y[undecided])]
    if len(undecided):
        own = problem.take(undecided).as_given
        points = stage.propose(own, frontier.take(undecided), number).points
        proposal = proposal._replace(points=proposal.points.index_copy(0, undecided, points))
        margins[undecided], is_fooled[undecided] = own.evaluate(points)
    return proposal, margins, is_fooled


def cascade(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    effort: Effort = NORMAL,
    seed: int = 0,
    draws: int = 1,
    certify: Certify | None = None,
    log: list[Progress] | None = None,
    batch: int | None = None,
    run: Run | Ledger | None = None,
) -> Tensor:
    """Attack with the whole cascade.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Threat model; its eps may be (B,).
        effort: `QUICK`, `NORMAL` or `THOROUGH`, or an `Effort` with other stages.
        seed: Random seed.
        draws: Model evaluations averaged per gradient, for a random model; multiplies the cost.
        certify: Function that returns which samples are proven robust, which are not attacked. None: none are.
        log: List to which a `Progress` is appended after each stage. None: none.
        batch: Samples computed at once. None: as many as fit well in memory.
        run: Run in which finished chunks are stored. None: they are kept in memory.

    Returns:
        Points inside the threat, (B, *D): x where it is wrong already, an adversarial example where one was found, a
        point without a finite answer where the model gives none, the point with the largest margin elsewhere. Success
        is evaluated by `verify`.

    Raises:
        BadInput: The inputs cannot be used.
    """
    x = check_attack(x, y, threat)
    check_mode(model)
    check_run(seed, batch)
    if not isinstance(effort, Effort):
        raise BadInput(f"effort is {effort!r}; give uf.QUICK, uf.NORMAL or uf.THOROUGH, or another Effort")
    if draws < 1:
        raise BadInput(f"draws is {draws}; it must be at least 1")
    counted = Counted(model)
    attacked: Model = counted if draws == 1 else Averaged(counted, draws)
    problem = Problem(counted, x, y, threat, attacked, draws, seed, batch or fitting_batch(model, x))
    attack = Cascade(problem, Ledger.of(run, len(x)), certify=certify)
    with frozen(model):
        state = attack.begin()  # checks the model's output
        with trusted(), moving_only(threat.free):
            state = attack.perform(state, fitted(effort.stages, threat))
    if log is not None:
        log.extend(state.log)
    return state.frontier.final
