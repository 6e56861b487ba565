"""Stages of an audit: functions that take values and return their results, each stored chunk by chunk (see `Run`).

    clean         predictions on the clean samples
    probe         what the model answers before it is attacked
    attack_label  the attack, on all samples that are right when clean; see `attacked_label`
    nearest       the nearest adversarial examples of the first samples, hence every radius; see `nearest_points`
    judge         what is true of the points found
    explain       maps of the first samples, before and after; of a few nearest points, see `nearest_shown`
    attack_maps   attacks that move the explanation and keep the label, by radius; see `attacked_maps`

`perform` runs them in order; between them the checks decide whether the attack goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.certification.smoothed import Smoothing
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.model.modes import frozen
from unfooled.core.pulse import OutOfTime, report_answer, time_limit
from unfooled.core.samples import on_grid, per_block, replaced, selected
from unfooled.core.types import Model
from unfooled.core.unanswered import check_answered
from unfooled.distances.quality import psnr, ssim
from unfooled.evaluation.audit.attacked_label import attack_label
from unfooled.evaluation.audit.attacked_maps import attack_maps
from unfooled.evaluation.audit.efficiency import efficiency_of
from unfooled.evaluation.audit.guard_record import guard_record
from unfooled.evaluation.audit.nearest_shown import explain_nearest
from unfooled.evaluation.audit.plan import Explaining, ExplanationAttack, Plan
from unfooled.evaluation.audit.proofs import Prover, proven_reach, refuted_proofs
from unfooled.evaluation.audit.purified_shown import show_purified
from unfooled.evaluation.audit.smoothed import smooth_samples
from unfooled.evaluation.audit.values import Attacked, Clean, Judged, NearestShown, Outcome, Setting
from unfooled.evaluation.checks.before import before
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.points import check_points
from unfooled.evaluation.checks.table import CheckId, Finding, above, finding
from unfooled.evaluation.checks.verdict import Conclusion, conclude, merged
from unfooled.evaluation.explanations.movement import map_scores
from unfooled.evaluation.explanations.survival import AttackedExplanations
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Rows

V = TypeVar("V")
ON_MAPS, EXPLANATIONS = "the attack on explanations", "the explanations of all samples but the first"
NEAREST_SHOWN, OTHER_RADII = "the explanations of the nearest points", "the proofs at other radii"
SMOOTHED = "the smoothed classifier"
"""Names of what an audit may have had no time for."""


def perform(s: Setting, plan: Plan) -> Outcome:
    """Run every stage, or read the chunks that an earlier start stored."""
    first, findings = _before(s)
    right = first.prediction == s.y.cpu()
    attacked = attack_label(s, plan, findings, right)
    whole = s
    if attacked.left_out:  # a later start has other points, whose judgement and explanations these are not
        s = replace(s, ledger=s.ledger.aside())
    state = attacked.state
    points, gradients = _judged(s, attacked)
    findings = attacked.findings
    findings += check_points(
        state.frontier, s.y.cpu(), right, points.success, points.prediction, points.undefined,
        refuted_proofs(s, state.frontier.certified.cpu() & right, points), random=s.subject.random,
    )  # fmt: skip
    left_out = [*attacked.left_out]
    explained = _explained(s, plan.explaining, points.x_adv, gradients, left_out)
    shown = _shown(s, plan.explaining, attacked, right, gradients, explained["before"], left_out)
    distance, searched = _distances(s, plan, attacked, points)
    survival = _survival(s, plan.explanation_attack, right, gradients, searched, left_out)
    certified, reach = _proven(s, attacked, right, left_out)
    purified = show_purified(s, attacked.through, right, points)
    smoothing = plan.label_attack.certify
    smoothed = (
        in_time(lambda: smooth_samples(s, smoothing), left_out, SMOOTHED) if isinstance(smoothing, Smoothing) else None
    )
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
        conclusion=_conclusion(attacked, findings, robust_share(right, points, random=s.subject.random)),
        left_out=tuple(left_out),
        progress=state.log,
        aside=(gradients.forwards, 0),
        notes=attacked.notes,
        guard=guard_record(s, attacked.through, first, points, purified),
        efficiency=efficiency_of(whole, attacked.gradients.faster or s.subject.model),
        access=s.subject.access,
        certified=certified,
        proofs_tried=attacked.certify.tried if isinstance(attacked.certify, Prover) else None,
        reach=reach,
        nearest_shown=shown,
        purified=purified,
        smoothed=smoothed,
    )


def _shown(
    s: Setting,
    plan: Explaining,
    attacked: Attacked,
    right: Tensor,
    gradients: Gradients,
    known: Tensor,
    left_out: list[str],
) -> NearestShown | None:
    """Explain a few nearest points; None without any, or where no time was left."""
    return in_time(lambda: explain_nearest(s, plan, attacked, right, gradients, known), left_out, NEAREST_SHOWN)


def _judged(s: Setting, attacked: Attacked) -> tuple[Judged, Gradients]:
    """Return the verdict on the points found, and the gradients with a twin where the model has none; never cut."""
    with time_limit(None):
        points, gradients = judge(s, attacked.state.frontier.final), attacked.gradients
        return points, gradients.with_twin(s.x, s.threat) if gradients.missing else gradients


def _survival(
    s: Setting,
    plan: ExplanationAttack | None,
    right: Tensor,
    gradients: Gradients,
    searched: Tensor,
    left_out: list[str],
) -> AttackedExplanations | None:
    """Attack the explanations; None where the plan has no such attack, or no time was left."""
    if plan is None:
        return None
    return in_time(lambda: attack_maps(s, plan, right, gradients, searched), left_out, ON_MAPS)


def _proven(s: Setting, attacked: Attacked, right: Tensor, left_out: list[str]) -> tuple[Tensor | None, Tensor | None]:
    """Return the samples proven robust, and the radius up to which each is proven; None where nothing was certified."""
    if attacked.certify is None:
        return None, None
    certified = attacked.state.frontier.certified.cpu()
    return certified, in_time(lambda: proven_reach(s, attacked.certify, certified, right), left_out, OTHER_RADII)


def _distances(s: Setting, plan: Plan, attacked: Attacked, points: Judged) -> tuple[Tensor, Tensor]:
    """Return the distances of the nearest points of any stage, of the first samples; again, empty if not searched."""
    few = min(s.n, plan.nearest.n)
    own = attacked.nearest.get(s.threat.norm, torch.full((few,), torch.inf))
    distance = torch.minimum(own, points.distance[: len(own)])
    return distance, distance if s.threat.norm in attacked.nearest else distance[:0]


def _conclusion(attacked: Attacked, findings: list[Finding], robust: float) -> Conclusion:
    """Return the verdict on the attack on the label."""
    return conclude(
        findings, attacked.again, robust, extended=attacked.extended, stopped=attacked.stopped,
        left_out=attacked.left_out,
    )  # fmt: skip


def _before(s: Setting) -> tuple[Clean, list[Finding]]:
    """Predict the clean samples, say how many are right, and check the model, whatever the time."""
    with time_limit(None):
        first = clean(s)
        report_answer("clean accuracy", float(first.right_share.double().mean()) if s.n else 0.0, s.n)
        return first, probe(s, first.drawn if first.drawn is not None else first.prediction)


def _explained(s: Setting, plan: Explaining, x_adv: Tensor, gradients: Gradients, left_out: list[str]) -> Rows:
    """Explain the first samples; where the time is over, one of them, as the page needs."""
    rows = in_time(lambda: explain(s, plan, x_adv, gradients), left_out, EXPLANATIONS)
    if rows is not None:
        return rows
    with time_limit(None):
        return explain(s, replace(plan, n=1), x_adv, gradients, name="first")


def in_time(work: Callable[[], V], left_out: list[str], name: str) -> V | None:
    """Return the result of some work; None, and its name is noted, where the time is over."""
    try:
        return work()
    except OutOfTime:
        left_out.append(name)
        return None


def clean(s: Setting) -> Clean:
    """Predict the clean samples; for a random model by the majority of the draws, whose share counts."""

    def work(rows: Tensor) -> Rows:
        with torch.no_grad():
            votes = torch.stack([logits_at(s.counted, s.x[rows]) for _ in range(s.draws)])
        check_answered(votes.sum(0), rows, s.y[rows])
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


def explain(s: Setting, plan: Explaining, x_adv: Tensor, gradients: Gradients, *, name: str = "") -> Rows:
    """Explain the true label before and after; by a twin, where the model has no gradient. The stage has the name."""
    twin = gradients.twin if gradients.missing else None
    model: Model = gradients.own if twin is None else twin

    def work(rows: Tensor) -> Rows:
        at = s.at(rows)
        x, z = s.x[at], x_adv[rows].to(s.x.device)
        scores = map_scores(model, x, s.y[at], z, plan.explain, steady=not s.subject.random)
        if s.threat.free is not None:  # the numbers of samples are no part of the pictures
            x, z = s.subject.shown(x), s.subject.shown(z)
            scores |= {name: s.subject.shown(scores[name]) for name in ("before", "after")}
            scores |= {"psnr": psnr(z, x), "ssim": ssim(z, x) if x.ndim == 4 else scores["ssim"]}
        return scores

    return s.ledger.map(StageKey(Family.EXPLAIN, name), work, min(s.n, plan.n), model=s.counted)


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
