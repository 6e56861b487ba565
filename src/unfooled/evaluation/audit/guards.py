"""Attacks of an audit on a model behind a purifier.

The cascade runs on `Guarded` as on any model: this is the end-to-end attack. The audit adds these:

    static         the cascade and ascents on the bare model, whose points are purified
    BPDA           the purifier's gradient replaced by the identity, or by a low-pass filter
    soft clusters  the gradient of a mixture of clusters, T = 10, 1, .1, with the values of the nearest one
    assignment     a cluster of another class first, then the margin
    low frequency  changes that a low-pass filter lets through
    black box      Square on the first samples

Each runs by itself on all samples that are right, so that its row can be compared; what it fools is lost in the union,
too. The bare model is attacked by the same cascade, on the same samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import AttackState, Cascade
from unfooled.attacks.ensembles.frontier import Frontier, Problem, StageResult
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.attacks.ensembles.purifiers import Assignments, LowFrequencies, StandInAscent
from unfooled.attacks.ensembles.stages import Ascents, Searches, Sparse, Stage, TargetedAscents, Waves
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.estimated import Estimated
from unfooled.attacks.gradients.straight_through import Defended, StraightThrough, bpda, identity
from unfooled.attacks.square import as_images
from unfooled.core.global_rng import same_draws
from unfooled.core.goals import logits_at
from unfooled.core.low_pass import low_pass
from unfooled.core.model.wrappers import Counted
from unfooled.core.rng import Numbers
from unfooled.core.samples import per_block, selected
from unfooled.core.threats import TINY
from unfooled.core.types import Model, Purify
from unfooled.evaluation.audit.plan import LabelAttack
from unfooled.evaluation.audit.values import Setting, ThroughPurifier
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.guards import Way, judged_in_every_way, required, ways_agree
from unfooled.evaluation.checks.subject import GUARDED_DRAWS, LogOfProbabilities
from unfooled.evaluation.verify import verify
from unfooled.purification.guard import Guarded, guarded_in, is_differentiable, noticing_guards, purified_by
from unfooled.purification.semantic import SemanticPurifier, noticing_clusters
from unfooled.runs.chunks import Rows

STEPS, QUERIES = 40, 1000
"""Largest number of gradients, and of queries, of each added attack; fewer where the effort has fewer."""
SQUARE_SAMPLES, ESTIMATED_SAMPLES = 200, 50
"""Number of the first samples that Square, and the attack with estimated gradients, are run on."""
CLEARLY_RIGHT = 0.8
"""Share of the draws of a random purifier from which a sample counts as right, and 1 - it up to which it counts as
fooled, when attacks are compared: of 20 draws with a probability of 1/2, .6 % reach it."""
TEMPERATURES = (10.0, 1.0, 0.1)
"""Temperatures of the mixture of clusters, one ascent each."""
HIDDEN = (
    "The guarded model is inside of another one, which hides its purifier from the audit; give guard(model, purify) "
    "itself."
)
CLUSTERS_HIDDEN = (
    "The purifier calls a semantic one, whose clusters are hidden from the attack on the assignment; give "
    "guard(model, purify) the semantic purifier itself."
)
NESTED = (
    "The guarded model holds a second purifier, which the attack on the bare model would not see; give one guard for "
    "both: guard(model, lambda x: inner(outer(x)))."
)
NO_GRADIENT = "The purifier passes no gradient on to its input: {0} were used."


def draws_of(s: Setting, usual: int) -> int:
    """Return the draws that are averaged at every gradient of a random model: more behind a purifier."""
    return GUARDED_DRAWS if s.subject.guarded else usual


def attack_through(
    s: Setting, label: LabelAttack, attack: Cascade, state: AttackState, gradients: Gradients, *, cut: bool = False
) -> ThroughPurifier | None:
    """Attack a model behind a purifier in every way that robust accuracy needs; None where there is no purifier.

    Args:
        s: The audit.
        label: The attack on the label, which ran before. Nothing is added to one that is no cascade.
        attack: The same, as a cascade.
        state: State of the cascade so far.
        gradients: Gradients of the model.
        cut: True: the audit has been stopped, and nothing more is run.
    """
    guarded = guarded_in(s.subject.given)
    if guarded is None and not s.subject.guarded:
        return None
    inside, guards = (False, []) if guarded is None or cut else _called(s, guarded)  # when cut, no time is left
    clusters = inside or _clusters(guarded) is not None
    needed = required(s.threat, clusters=clusters, random=s.subject.random)
    if guarded is None or guards:
        note = HIDDEN if guarded is None else NESTED
        return ThroughPurifier(None, needed, state, [judged_in_every_way(needed)], (note,))
    notes = (CLUSTERS_HIDDEN,) * inside
    if not label.is_cascade or cut:
        bare = _as_logits(s, guarded.model)
        return ThroughPurifier(guarded, needed, state, [judged_in_every_way(needed)], notes, bare=bare)
    return _Guards(s, guarded, label, attack, gradients, notes).through(state, needed)


def _called(s: Setting, guarded: Guarded) -> tuple[bool, list[Guarded]]:
    """Call a guarded model once for each sample.

    Returns:
        Whether it chooses clusters that are hidden, and the guards inside of the model behind it.
    """
    hidden, inside = _holds_clusters(guarded.purify), list[Guarded]()

    def called(rows: Tensor) -> Tensor:
        nonlocal hidden
        x = s.x[s.at(rows)]
        with noticing_clusters() as asked:
            purified = purified_by(guarded.purify, x.clone())
            with noticing_guards() as guards:
                logits_at(guarded.model, purified)
        hidden |= any(purify is not guarded.purify and _assigns(purify) for purify in asked)
        inside.extend(guards)
        return rows

    with torch.no_grad(), same_draws(s.seed):
        per_block(called, torch.arange(s.n), s.x)
    return hidden, inside


def _holds_clusters(purify: Purify) -> bool:
    """Return whether a function or object holds a semantic purifier, which it may call in another thread."""
    inner = getattr(purify, "func", purify)
    if inspect.isfunction(inner):
        seen = inspect.getclosurevars(inner)
        parts = [*seen.nonlocals.values(), *seen.globals.values(), *(inner.__defaults__ or ())]
    else:
        parts = list(getattr(inner, "__dict__", {}).values()) if not isinstance(inner, SemanticPurifier) else []
    parts += [*getattr(purify, "args", ()), *getattr(purify, "keywords", {}).values()]
    return any(isinstance(part, SemanticPurifier) and _assigns(part) for part in parts)


def _clusters(guarded: Guarded | None) -> SemanticPurifier | None:
    """Return the purifier that assigns inputs to clusters of at least two classes; None for another one."""
    purify = None if guarded is None else guarded.purify
    return purify if isinstance(purify, SemanticPurifier) and _assigns(purify) else None


def _assigns(purify: SemanticPurifier) -> bool:
    return len(purify.label.unique()) > 1


def _as_logits(s: Setting, model: Model) -> Model:
    """Return a part of the model that returns logits: the logarithm, where the whole model returns probabilities."""
    return LogOfProbabilities(model) if s.subject.probabilities else model


@dataclass(frozen=True, eq=False)
class _Guards:
    """The attacks on a model behind a purifier."""

    s: Setting
    guarded: Guarded
    label: LabelAttack
    attack: Cascade
    gradients: Gradients
    notes: tuple[str, ...] = ()

    def through(self, state: AttackState, needed: Sequence[Way]) -> ThroughPurifier:
        """Run all attacks, and add the samples that they fool to the cascade's state."""
        s, label = self.s, self.label
        state = self._soft(state)
        ends: dict[Way, Frontier] = {}
        if any(isinstance(stage, (Ascents, TargetedAscents, Waves, Sparse)) for stage in label.stages(s.threat)):
            ends[Way.END_TO_END] = state.frontier
            if s.subject.random and self.attack.problem.draws >= GUARDED_DRAWS:
                ends[Way.DRAWS] = state.frontier
        attack = replace(self.attack, family=Family.GUARD)
        clean, bare = attack.begin().frontier, self._bare_points()
        for way, stages in self.ways():
            # What the whole cascade found on the bare model is purified as well.
            start = (
                clean if way is not Way.STATIC else attack.adopted(clean, bare, StageKey(Family.GUARD, "bare points"))
            )
            ends[way] = self._alone(attack, start, way, stages)
        counted = {way: min(s.n, self._samples(way)) for way in ends}
        rows = {way: shares(s, s.subject.model, end.final, way) for way, end in ends.items()}
        frontier, own = state.frontier, rows.get(Way.END_TO_END)
        right, wrong = (CLEARLY_RIGHT, 1 - CLEARLY_RIGHT) if s.subject.random else (TINY, 0.0)
        beyond: dict[Way, float] = {  # samples that the gradient through the purifier did not fool
            way: float(((own >= right) & (end <= wrong))[: counted[way]].sum())
            for way, end in rows.items()
            if own is not None and way not in (Way.END_TO_END, Way.DRAWS)
        }
        for way, end in ends.items():
            frontier = frontier if way in (Way.END_TO_END, Way.DRAWS) else united(frontier, end)
        missing = tuple(way for way in needed if way not in rows)
        agree = ways_agree(beyond, counted)
        differentiable = is_differentiable(self.guarded.purify, s.x[:8])
        return ThroughPurifier(
            self.guarded, missing, replace(state, frontier=frontier), [judged_in_every_way(missing), agree],
            self._notes(rows, differentiable), rows, counted, self.bare, bare,
            ends[Way.ASSIGNMENT].final if Way.ASSIGNMENT in ends else None, differentiable,
        )  # fmt: skip

    def _notes(self, ways: Collection[Way], differentiable: bool) -> tuple[str, ...]:
        """Return sentences on what the attacks could not use."""
        if differentiable:
            return self.notes
        estimated = ", estimated gradients" * (Way.ESTIMATED in ways)
        return (*self.notes, NO_GRADIENT.format(f"stand-ins for it (BPDA){estimated} and a twin"))

    @property
    def bare(self) -> Model:
        """The model without the purifier."""
        return _as_logits(self.s, self.guarded.model)

    @property
    def _depth(self) -> int:
        """Number of gradients of each added attack."""
        return min(STEPS, max((stage.depth for stage in self.label.effort.stages), default=0) or STEPS)

    @staticmethod
    def _samples(way: Way) -> int:
        """Return the number of the first samples that an attack is run on."""
        return {Way.BLACK_BOX: SQUARE_SAMPLES, Way.ESTIMATED: ESTIMATED_SAMPLES}.get(way, 1 << 62)

    def ways(self) -> Iterator[tuple[Way, tuple[Stage, ...]]]:
        """Yield the attacks that the audit adds to the cascade."""
        steps, threat = self._depth, self.s.threat
        counted = self.attack.problem.model.standing_in(self.bare, same_values=False)
        yield Way.STATIC, (StandInAscent(Way.STATIC, counted, steps, whole=True),)
        yield Way.IDENTITY, (StandInAscent(Way.IDENTITY, self._stand_in(identity), steps),)
        yield Way.LOW_PASS, (StandInAscent(Way.LOW_PASS, self._stand_in(_smoothed), steps),)
        if (purify := _clusters(self.guarded)) is not None:
            yield Way.ASSIGNMENT, (Assignments(purify.distance, purify.label, steps),)
        if threat.norm != 0:
            yield Way.LOW_FREQUENCY, tuple(LowFrequencies(smooth, steps) for smooth in (1.0, 5.0))
            queries = [stage.queries for stage in self.label.effort.stages if isinstance(stage, Searches)]
            yield Way.BLACK_BOX, (Searches(min(QUERIES, max(queries, default=QUERIES)), cold=True),)
        if self.gradients.missing and not self.gradients.rounded:
            scored = self.attack.problem.model if self.attack.problem.decisive else self.gradients.averaged
            yield Way.ESTIMATED, (StandInAscent(Way.ESTIMATED, Estimated(scored, seed=self.s.seed), min(10, steps)),)

    def _stand_in(self, approx: Purify) -> Model:
        """Return the values of the guarded model with the gradient of another purifier."""
        through: Model = bpda(self.guarded.purify, self.guarded.model, approx)
        return self._averaged(self.attack.problem.model.standing_in(_as_logits(self.s, through)))

    def _averaged(self, model: Model) -> Model:
        """Return a model, or its mean where it is random."""
        draws = self.attack.problem.draws
        return model if draws == 1 else Averaged(model, draws)

    def _soft(self, state: AttackState) -> AttackState:
        """Follow the gradient of a mixture of clusters, whose temperature falls; values are those of the nearest."""
        purify = _clusters(self.guarded)
        if purify is None or purify.temperature:
            return state
        for number, temperature in zip(Numbers.GUARD[-len(TEMPERATURES) :], TEMPERATURES, strict=True):
            mixed = Defended(replace(purify, temperature=temperature), self.guarded.model)
            counted = self.attack.problem.model
            model = StraightThrough(counted, counted.standing_in(_as_logits(self.s, mixed), same_values=False))
            fresh = temperature == TEMPERATURES[0]
            stage = StandInAscent(f"soft-{temperature:g}", self._averaged(model), self._depth, fresh)
            state, _ = self.attack.stage(state, stage, number)
        return state

    def _alone(self, attack: Cascade, clean: Frontier, way: Way, stages: Sequence[Stage]) -> Frontier:
        """Run the stages of one attack on the samples that are right, and return their points."""
        frontier = clean
        for part, stage in enumerate(stages):
            rows = frontier.remaining_rows()
            rows = rows[rows < self._samples(way)]
            if len(rows):
                number = Numbers.GUARD[2 * list(Way).index(way) + part]
                result = attack.attack(frontier, stage, rows, StageKey(Family.GUARD, stage.name, number))
                frontier = frontier.with_result(result)
        return frontier

    def _bare_points(self) -> Tensor:
        """Attack the model without the purifier by the same cascade."""
        s, bare = self.s, Counted(self.bare)
        with torch.no_grad():
            steady = torch.equal(logits_at(bare, s.x[:8]), logits_at(bare, s.x[:8]))
        draws = 1 if steady else self.attack.problem.draws
        attacked: Model = bare if draws == 1 else Averaged(bare, draws)
        problem = Problem(bare, s.x, s.y, s.threat, attacked, draws, s.seed, s.batch)
        attack = Cascade(problem, s.ledger, Family.BARE)
        return attack.perform(attack.begin(), self.label.stages(s.threat)).frontier.final


def _smoothed(x: Tensor) -> Tensor:
    """Return the low band of inputs of any shape."""
    return low_pass(as_images(x), smooth=1.0).reshape(x.shape)


def united(frontier: Frontier, other: Frontier) -> Frontier:
    """Return a frontier with the better points of another one, for the samples that are not fooled yet."""
    rows = frontier.remaining.nonzero()[:, 0]
    if len(rows):
        result = StageResult(rows, selected(other.points, rows), other.margins[rows], other.fooled[rows])
        frontier = frontier.with_result(result)
    if other.unanswered is not None and other.unanswered_points is not None:
        rows = other.unanswered.nonzero()[:, 0]
        frontier = frontier.with_unanswered(rows, selected(other.unanswered_points, rows))
    return frontier


def shares(s: Setting, model: Model, points: Tensor, key: str) -> Tensor:
    """Return the share of the draws in which each sample is right at its point, (n,); 0 or 1 without randomness."""

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        z = points[rows.to(points.device)].to(s.x.device)
        verdict = verify(model, s.x[at], s.y[at], z, s.threat.take(at), draws=s.draws, batch=s.batch)
        lasting = verdict.right_share if s.subject.random else ~verdict.success & ~verdict.undefined
        return {"right_share": lasting.double()}

    return s.ledger.map(StageKey(Family.JUDGE, key), work, s.n)["right_share"]
