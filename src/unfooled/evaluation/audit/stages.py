"""Stages of an audit: functions that take values and return their results, each stored chunk by chunk (see `Run`).

    clean         predictions on the clean samples
    probe         what the model answers before it is attacked
    attack_label  the attack, on all samples that are right when clean
    nearest       the nearest adversarial examples of the first samples, hence every radius
    judge         what is true of the points found
    explain       maps of the first samples, before and after
    attack_maps   attacks that move the explanation and keep the label, by radius; see `attacked_maps`

`perform` runs them in order; between them the checks decide whether the attack goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import AttackState, Cascade
from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.attacks.ensembles.progress import Progress
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.checks import untrusted
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.model.modes import frozen
from unfooled.core.samples import on_grid, per_block, replaced, selected
from unfooled.core.shapes import where_rows
from unfooled.core.threat_text import norm_name
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.core.unanswered import Unanswered, check_answered
from unfooled.distances.quality import psnr, ssim
from unfooled.evaluation.audit.attacked_maps import attack_maps
from unfooled.evaluation.audit.guard_record import guard_record
from unfooled.evaluation.audit.guards import attack_through, draws_of
from unfooled.evaluation.audit.missed import missed_by
from unfooled.evaluation.audit.plan import Explaining, LabelAttack, NearestPoints, Plan
from unfooled.evaluation.audit.replays import replay, replay_first
from unfooled.evaluation.audit.values import Attacked, Clean, Judged, Outcome, Setting
from unfooled.evaluation.checks.after import RANDOM_DRAWS, after
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.extending import TIMES, extend
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.points import check_points
from unfooled.evaluation.checks.table import CheckId, Finding, Kind, above, finding
from unfooled.evaluation.checks.verdict import conclude, merged, of_kind
from unfooled.evaluation.explanations.movement import map_scores
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Rows
from unfooled.statistics import intervals

FIRST_BLOCK, BLOCK = 64, 32
"""Samples whose nearest points are searched in any case, and samples between two later decisions to go on."""
PURIFIER = StageKey(Family.CASCADE, "through the purifier")
"""Line of the log after the attacks on a purifier."""
CUT_SHORT = (
    "The model remembers what it was asked: only the first stage of the attack was run, without nearest points and "
    "without further checks."
)
NOT_CONTINUED = "Checks asked for more attacks, which were left out, since no figure can be believed ({})."
LIMITED = (
    f"The attack that the checks asked for was stopped after {TIMES} times the passes of the attack before it; it may "
    "have found more."
)


def perform(s: Setting, plan: Plan) -> Outcome:
    """Run every stage, or read the chunks that an earlier start stored."""
    first = clean(s)
    right = first.prediction == s.y.cpu()
    attacked = attack_label(s, plan, probe(s, first.drawn if first.drawn is not None else first.prediction), right)
    state, gradients = attacked.state, attacked.gradients
    points = judge(s, state.frontier.final)
    findings = attacked.findings
    findings += check_points(
        state.frontier, s.y.cpu(), right, points.success, points.prediction, points.undefined,
        random=s.subject.random,
    )  # fmt: skip
    if gradients.missing:
        gradients = gradients.with_twin(s.x, s.threat)
    explained = explain(s, plan.explaining, points.x_adv, gradients)
    few = min(s.n, plan.nearest.n)
    own = attacked.nearest.get(s.threat.norm, torch.full((few,), torch.inf))
    distance = torch.minimum(own, points.distance[: len(own)])
    searched = distance if s.threat.norm in attacked.nearest else distance[:0]
    survival = None
    if plan.explanation_attack is not None:
        survival = attack_maps(s, plan.explanation_attack, right, gradients, searched)
    robust = robust_share(right, points, random=s.subject.random)
    return Outcome(
        shown=s.subject.shown(s.x),
        clean=first,
        attack=replace(points, x_adv=s.subject.shown(points.x_adv)),
        explain=explained,
        survival=survival,
        right=right,
        nearest=attacked.nearest,
        nearest_unanswered=attacked.unanswered,
        distance=distance,
        unanswered=_unanswered(s, points, attacked.unanswered),
        random=s.subject.random,
        findings=merged([_mode(s.x), *findings, _rounded(points, right, random=s.subject.random)]),
        conclusion=conclude(findings, attacked.again, robust, extended=attacked.extended, stopped=attacked.stopped),
        progress=state.log,
        aside=(gradients.forwards, 0),
        notes=attacked.notes,
        guard=guard_record(s, attacked.through, first, points),
    )


def clean(s: Setting) -> Clean:
    """Predict the clean samples; for a random model by the majority of the draws, whose share counts."""

    def work(rows: Tensor) -> Rows:
        with torch.no_grad():
            votes = torch.stack([logits_at(s.counted, s.x[rows]) for _ in range(s.draws)])
        check_answered(votes.sum(0), rows)
        prediction = torch.nn.functional.one_hot(votes.argmax(2), votes.shape[2]).sum(0).argmax(1)
        right_share = (votes.argmax(2) == s.y[rows]).double().mean(0)
        seen = {"prediction": prediction, "confidence": votes.softmax(2).mean(0).amax(1), "right_share": right_share}
        return seen | {"drawn": votes[0].argmax(1)} if s.subject.random else seen

    return Clean(**s.ledger.map(StageKey(Family.CLEAN), work, s.n, model=s.counted))


def probe(s: Setting, prediction: Tensor) -> list[Finding]:
    """Check the model before it is attacked, and its predictions on all samples against the labels.

    Raises:
        BadInput: The model remembers queries.
    """
    with frozen(s.counted):
        findings = s.ledger.once(
            StageKey(Family.CHECKS, "probes"),
            Finding,
            lambda: before(s.counted, s.x, s.y, s.threat, seed=s.seed, prediction=prediction),
            model=s.counted,
        )
    if s.subject.probabilities:  # the checks used their logarithm
        findings.append(finding("D3", True, "outputs are probabilities", "their logarithm is attacked"))
    for f in findings:
        if f.fired and f.id == CheckId.MEMORY:
            raise BadInput(f"{f.detail}: the model remembers queries; audit it without that state")
    return findings


def attack_label(s: Setting, plan: Plan, findings: list[Finding], right: Tensor) -> Attacked:
    """Attack the label, check the result, and go on where the checks ask for it.

    Where a finding stops the verdict, the attack does not go on, as no figure can be believed; of a model whose memory
    was seen before the attack, only the first stage is run.
    """
    label, draws = plan.label_attack, draws_of(s, RANDOM_DRAWS) if s.subject.random else 1
    gradients = Gradients(s.counted, findings, draws, s.seed, ledger=s.ledger).ready(s.x, s.threat)
    attack = Cascade(s.problem(gradients), s.ledger, certify=label.certify)
    if seen := replay_first(s, right):
        return _cut_short(s, attack, label, gradients, [*findings, *seen])
    with frozen(s.counted):
        state = _run_attack(s, attack, label, gradients)
        spent = sum(s.ledger.passes(Family.CASCADE, Family.AUTOATTACK))
        if through := attack_through(s, label, attack, state, gradients):
            state, findings = attack.log_stage(through.state, PURIFIER, s.n, 0), [*findings, *through.findings]
        attack_frontier = state.frontier
        nearest_rows = nearest(s, plan.nearest, gradients, attack_frontier.fooled)
        missed, frontier = missed_by(s, attack.problem, attack_frontier, nearest_rows.get(s.threat.norm))
        state = replace(state, frontier=frontier)
        count = len(next(iter(nearest_rows.values()))["distance"]) if nearest_rows else 0
        state = attack.log_stage(state, StageKey(Family.CASCADE, "nearest points"), count, 0)
        checked = after(attack, frontier, gradients, budget=max(spent // 10, label.floor))
        findings = [*findings, missed, *checked.findings]
        # A whole attack keeps its own figure; points that other attacks found count as findings alone.
        state = replace(state, frontier=checked.frontier if label.whole is None else attack_frontier)
        state = attack.log_stage(state, StageKey(Family.CASCADE, "checks"), 0, 0)
        gradients, again = checked.gradients, []
        findings += replay(s, state.frontier, gradients)
        wanted = label.is_cascade and bool(of_kind(findings, Kind.MASKING) or of_kind(findings, Kind.EXTEND))
        stops = of_kind(findings, Kind.STOP)
        may, stopped, notes = wanted and not stops, False, []
        if may:
            more = extend(attack, state, gradients, findings, label.effort.stages[1:])
            state, gradients, again, stopped = more.state, more.gradients, more.again, more.stopped
            findings += replay(s, state.frontier, gradients, again=True)
            notes += [LIMITED] if stopped else []
        elif wanted:
            notes.append(NOT_CONTINUED.format(", ".join(stops)))
    distances = {norm: rows["distance"] for norm, rows in nearest_rows.items() if rows}
    no_answer = {norm: rows["unanswered"] for norm, rows in nearest_rows.items() if rows}
    notes += through.notes if through else ()
    return Attacked(state, gradients, distances, no_answer, findings, again, may, stopped, tuple(notes), through)


def _cut_short(
    s: Setting, attack: Cascade, label: LabelAttack, gradients: Gradients, findings: list[Finding]
) -> Attacked:
    """Run the first stage of the attack alone, without nearest points and further checks."""
    with frozen(attack.problem.model):
        state = attack.perform(attack.begin(), label.stages(attack.problem.threat)[:1])
        through = attack_through(s, label, attack, state, gradients, cut=True)
    found = through.findings if through else []
    return Attacked(state, gradients, {}, {}, [*findings, *found], [], False, notes=(CUT_SHORT,), through=through)


def _run_attack(s: Setting, attack: Cascade, label: LabelAttack, gradients: Gradients) -> AttackState:
    """Run the attack that the plan asks for."""
    state = attack.begin()
    if label.whole is None:
        return attack.perform(state, label.stages(s.threat))
    log: list[Progress] = []
    with untrusted():
        points = label.whole(gradients.averaged, s.x, s.y, s.threat, seed=s.seed, log=log, batch=s.batch, run=s.ledger)
    return attack.adopt(replace(state, log=(*state.log, *log)), points)


def nearest(s: Setting, plan: NearestPoints, gradients: Gradients, fooled: Tensor) -> dict[float, Rows]:
    """Find the nearest adversarial examples of the first samples: points and distances by norm.

    Samples are searched in blocks, and no further ones once the median's interval is narrow, if the attack has fooled
    all that are left: then there is nothing that it could have missed.
    """
    points = {}
    for norm in plan.norms or (s.threat.norm,):
        own = norm == s.threat.norm
        everything = (s.threat if own else NORMS[float(norm)](1.0, free=s.threat.free)).with_eps(math.inf)

        def work(rows: Tensor, norm: float = norm, everything: Threat = everything) -> Rows:
            x, y = s.x[s.at(rows)], s.y[s.at(rows)]
            source = torch.Generator().manual_seed(s.seed)
            observer = Unanswered(x, everything)
            best, distance = x, torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
            for model in gradients.followed:
                with s.counted.watched(observer):
                    z = envelope(model, x, y, (norm,), budget=plan.budget, batch=s.batch, generator=source)[norm]
                verdict = verify(s.subject.model, x, y, z, everything, draws=s.draws, batch=s.batch)
                best = where_rows(verdict.distance <= distance, z, best)
                distance = torch.minimum(distance, verdict.distance)
            z, _ = observer.substitute(best, distance <= observer.distance)  # the nearer of the two
            return {"z": z, "distance": distance, "unanswered": observer.distance}

        points[norm] = _in_blocks(s, plan, norm_name(norm), work, fooled[: plan.n])
    return points


def _in_blocks(s: Setting, plan: NearestPoints, name: str, work: Callable[[Tensor], Rows], fooled: Tensor) -> Rows:
    """Search block by block; names of the later blocks end with their samples."""
    blocks = [min(len(fooled), FIRST_BLOCK), *(len(b) for b in fooled[FIRST_BLOCK:].split(BLOCK) if len(b))]
    parts: list[Rows] = []
    done = 0
    for size in blocks:
        key = StageKey(Family.NEAREST, name if not done else f"{name} {done + 1}-{done + size}")
        parts.append(s.ledger.map(key, partial(_shifted, work, done), size, model=s.counted))
        done += size
        distance = torch.cat([part["distance"] for part in parts])
        if bool(fooled[done:].all()) and _narrow(distance, plan.precision):
            break
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}


def _shifted(work: Callable[[Tensor], Rows], by: int, rows: Tensor) -> Rows:
    """Compute rows counted from another one."""
    return work(rows + by)


def _narrow(distance: Tensor, precision: float) -> bool:
    """Return whether half the interval of the median is at most this share of the median."""
    low, value, high = intervals.median_limits(distance.double())
    return value > 0 and high < math.inf and high - low <= 2 * precision * value


def judge(s: Setting, points: Tensor) -> Judged:
    """Judge the points found; those that are not allowed are put back to x."""
    eight_bit = on_grid(s.x)

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        x, y, z, threat = s.x[at], s.y[at], points[at], s.threat.take(at)
        verdict = verify(s.subject.model, x, y, z, threat, draws=s.draws, batch=s.batch)
        with torch.no_grad():
            confidence = logits_at(s.subject.model, z, batch=s.batch).softmax(1).amax(1)
        verdicts = {
            "inside": verdict.inside,
            "success": verdict.success,
            "distance": verdict.distance,
            "undefined": verdict.undefined,
            "prediction": verdict.prediction,
            "confidence": confidence,
            "right_share": verdict.right_share,
        }
        if eight_bit:
            rounded = verify(s.subject.model, x, y, z, threat, draws=s.draws, batch=s.batch, levels=256)
            verdicts["success_8bit"] = rounded.success
        return verdicts

    verdicts = s.ledger.map(StageKey(Family.JUDGE), work, s.n)
    outside = (~verdicts["inside"]).nonzero()[:, 0]
    x_adv = replaced(points.cpu(), outside, selected(s.x.cpu(), outside))
    return Judged(x_adv=x_adv, **verdicts)


def explain(s: Setting, plan: Explaining, x_adv: Tensor, gradients: Gradients) -> Rows:
    """Explain the true label before and after; by a twin, where the model has no gradient."""
    twin = gradients.twin if gradients.missing else None
    model: Model = gradients.own if twin is None else twin

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        x, z = s.x[at], x_adv[rows].to(s.x.device)
        scores = map_scores(model, x, s.y[at], z, plan.explain)
        if s.threat.free is not None:  # the numbers of samples are no part of the pictures
            x, z = s.subject.shown(x), s.subject.shown(z)
            scores |= {name: s.subject.shown(scores[name]) for name in ("before", "after")}
            scores |= {"psnr": psnr(z, x), "ssim": ssim(z, x) if x.ndim == 4 else scores["ssim"]}
        return scores

    return s.ledger.map(StageKey(Family.EXPLAIN), work, min(s.n, plan.n), model=s.counted)


def _unanswered(s: Setting, points: Judged, nearest_rows: Mapping[float, Tensor]) -> Tensor:
    """Return the distance of each sample's nearest point without a finite answer, inf where none is known, (n,)."""
    rows = (points.undefined & points.inside & ~points.success).nonzero()[:, 0]
    distance = torch.full((s.n,), torch.inf, dtype=points.distance.dtype)

    def sizes(at: Tensor) -> Tensor:
        return s.threat.size(points.x_adv[at].to(s.x.device) - s.x[s.at(at)]).cpu()

    if len(rows):
        distance[rows] = per_block(sizes, rows, s.x).to(distance.dtype)
    if s.threat.norm in nearest_rows:
        own = nearest_rows[s.threat.norm]
        distance[: len(own)] = torch.minimum(distance[: len(own)], own)
    return distance


def _mode(x: Tensor) -> Finding:
    """D1: a model in training mode, or of another type, was refused before."""
    return finding("D1", False, f"in eval mode, {str(x.dtype).removeprefix('torch.')} on {x.device.type}")


def _rounded(points: Judged, right: Tensor, *, random: bool) -> Finding:
    """D23: points stay inside; rounding them to 8 bits must not change the figure much."""
    if random:
        return finding("D23", False, "not tried: the answers change by themselves")
    if points.success_8bit is None:
        return finding("D23", False, "the clean samples are no 8-bit images")
    apart = float((points.success & ~points.success_8bit & right).double().mean())
    return above(
        "D23", apart, f"rounding the points to 8 bits would rescue {apart:.1%} of the samples",
        "both figures are given",
    )  # fmt: skip


def robust_share(right: Tensor, points: Judged, *, random: bool) -> float:
    """Return robust accuracy as a number; for a random model, the mean share of draws that keep the label."""
    if not len(right):
        return 0.0
    right_share = points.right_share.double() if random else (right & ~points.success & ~points.undefined).double()
    return float(right_share.mean())
