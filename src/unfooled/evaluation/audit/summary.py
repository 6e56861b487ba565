"""Summary of an audit from the results of its stages: averages, intervals and the gallery are computed only here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, Ledger
from unfooled.certification.smoothed import Smoothing
from unfooled.core.samples import per_block
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.nearest_points import MAX_CLASSES_LISTED, nearness
from unfooled.evaluation.audit.nearest_shown import nearest_records
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.proofs import figures_of_proofs
from unfooled.evaluation.audit.records import CurvePoint, Example, Smoothed, Summary
from unfooled.evaluation.audit.smoothed import summarise_smoothed
from unfooled.evaluation.audit.values import PREDICTED, Outcome, finite
from unfooled.evaluation.explanations.attention import summarise_attention
from unfooled.evaluation.explanations.movement import movements
from unfooled.evaluation.explanations.records import Reasons
from unfooled.evaluation.explanations.survival import summarise_survival
from unfooled.runs.records import Config, Environment, Passes
from unfooled.statistics import intervals
from unfooled.statistics.intervals import Estimate

LIMITS = (
    "Robust accuracy is an upper bound: a stronger or an adaptive attack may fool more samples. An attack that failed "
    "is not proof of robustness.",
    "Intervals say how much the figures would vary with another draw of as many samples from the same source; they say "
    "nothing about the strength of the attack.",
    "The threat model is the one stated; robustness to it says little about other norms, larger radii, or changes that "
    "no norm describes, such as weather or viewpoint.",
    "Explanations are of the true label, before and after. A map that moves less is not for that reason more faithful.",
)


@dataclass(frozen=True)
class About:
    """Names and notes of the caller for the report of an audit. None of them changes a figure; a run folder is
    continued only with the same `options`.

    Attributes:
        model: Name of the model. Empty: the model's own name, or that of its type.
        data: Name of the data.
        title: Name of the run in the report. Empty: the name of the model.
        command: Command line that started the run.
        options: Further settings to record; a restarted run must have the same.
        warnings: Sentences to add to the summary's warnings.
    """

    model: str = ""
    data: str = "tensors"
    title: str = ""
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @classmethod
    def of(cls, about: Self | Mapping[str, Any] | None) -> About:
        """Return an `About` from a mapping; unknown keys are ignored."""
        if isinstance(about, About):
            return about
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in (about or {}).items() if k in known})


@dataclass(frozen=True, eq=False)
class AuditContext:
    """Samples, threat, plan and configuration that the outcome of an audit belongs to.

    Attributes:
        x: Inputs, (n, *D), on the CPU.
        y: Labels, (n,), on the CPU.
        threat: Constraint set.
        plan: Plan of the audit.
        config: Settings of the run, as recorded.
        classes: Class names, in the order of the logits.
        about: Names for the report.
        device: Device of the samples.
    """

    x: Tensor
    y: Tensor
    threat: Threat
    plan: Plan
    config: Config
    classes: list[str]
    about: About
    device: str


def summarise_audit(outcome: Outcome, context: AuditContext, ledger: Ledger, warnings: Sequence[str] = ()) -> Summary:
    """Make the summary of an audit.

    Args:
        outcome: Results of the stages.
        context: Plan, settings and names of the audit.
        ledger: Record of the passes and seconds that the audit took.
        warnings: Sentences about the model.
    """
    config, about, n = context.config, context.about, len(context.y)
    survival, label = outcome.survival, context.plan.label_attack
    return Summary(
        title=about.title or config.model,
        model=config.model,
        data=config.data,
        n=n,
        threat=config.threat,
        seed=config.seed,
        **_verdict(outcome),
        diagnostics=outcome.findings,
        effort=label.effort.name if label.is_cascade else "",
        progress=list(outcome.progress),
        nearest=[
            nearness(norm, d, outcome.nearest_unanswered[norm], context.y, len(context.classes))
            for norm, d in outcome.nearest.items()
        ],
        seconds=round(ledger.run.clock.seconds(), 3),
        warnings=list(dict.fromkeys([*about.warnings, *warnings, *_warnings(outcome)])),
        efficiency=outcome.efficiency,
        budget=context.plan.budget,
        left_out=list(outcome.left_out),
        attack=label.label,
        curve=_curve(outcome, context),
        curve_n=len(outcome.distance),
        classes=context.classes,
        explanation=context.plan.explaining.name,
        guard=outcome.guard,
        smoothed=_smoothed(outcome, context, ledger, labels_predicted=PREDICTED in warnings),
        reasons=None if survival is None else _survival(outcome, context),
        limits=list(LIMITS),
        command=about.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options=config.options,
        environment=Environment.here(context.device),
        **_galleries(outcome, context),
        **_accuracies(outcome, labels_predicted=PREDICTED in warnings)
        | figures_of_proofs(outcome, context.y, context.threat.eps, len(context.classes)),
        **_differences(outcome, context),
        **_passes(outcome, ledger, n),
        **_confusions(
            context.y[~outcome.no_answer], outcome.attack.prediction[~outcome.no_answer], len(context.classes)
        ),
    )


def _smoothed(outcome: Outcome, context: AuditContext, ledger: Ledger, *, labels_predicted: bool) -> Smoothed | None:
    """Return the figures of the smoothed classifier; None where it was not asked for, or there was no time."""
    smoothing = context.plan.label_attack.certify
    if outcome.smoothed is None or not isinstance(smoothing, Smoothing):
        return None
    radii = context.plan.nearest.radii
    return summarise_smoothed(
        outcome.smoothed, smoothing, context.y, context.threat, radii, ledger, labels_predicted=labels_predicted
    )


def _verdict(outcome: Outcome) -> dict[str, Any]:
    """Return the verdict, why, and what of the model the attack could use."""
    verdict, because = outcome.conclusion
    return {"verdict": verdict, "trusted": verdict.trusted, "because": because, "access": outcome.access}


def _warnings(outcome: Outcome) -> list[str]:
    """Return warnings about what was left out, and points outside the threat or without a finite answer."""
    warnings = list(outcome.notes)
    if outcome.left_out:
        warnings.append(f"The time was over before the end; left out: {', '.join(outcome.left_out)}.")
    undefined = int((outcome.attack.undefined & outcome.right).sum())
    if undefined:
        warnings.append(
            f"The attack reached points without a finite answer on {undefined} samples, which are neither right nor "
            "wrong; they do not count as robust."
        )
    outside = int((~outcome.attack.inside).sum())
    if outside:
        warnings.append(f"The attack left the threat on {outside} samples; these points were discarded.")
    return warnings


def _accuracies(outcome: Outcome, *, labels_predicted: bool) -> dict[str, Any]:
    """Return the accuracies; without labels, clean accuracy would be 1 by definition, and is not stated."""
    if not labels_predicted:
        return _measured(outcome)
    return _measured(outcome) | {"clean_accuracy": intervals.share(outcome.right[:0]), "labels_predicted": True}


def _measured(outcome: Outcome) -> dict[str, Any]:
    """Return clean and robust accuracy, and the share that was fooled.

    A random model classifies a sample correctly in a share of its draws. Its accuracies are means of these shares, and
    the attack success rate is the part of the clean accuracy that is lost.
    """
    right, points = outcome.right, outcome.attack
    if outcome.guard is not None and outcome.guard.missing:
        right_share = _draws(outcome, len(right))[0]
        unattacked = intervals.mean_of_shares(right_share) if outcome.random else intervals.share(right)
        nothing = intervals.share(right[:0])
        return {"clean_accuracy": unattacked, "robust_accuracy": nothing, "attack_success_rate": nothing}
    if outcome.random:
        clean, attacked = _draws(outcome, len(right))
        return {
            "clean_accuracy": intervals.mean_of_shares(clean),
            "robust_accuracy": intervals.mean_of_shares(attacked),
            "attack_success_rate": intervals.share_lost(clean, attacked),
            "no_answer": intervals.share(outcome.no_answer),
        }
    rounded = None if points.success_8bit is None else intervals.share(right & ~points.success_8bit)
    return {
        "clean_accuracy": intervals.share(right),
        "robust_accuracy": intervals.share(right & ~outcome.fooled & ~outcome.no_answer),
        "robust_accuracy_8bit": rounded,
        "attack_success_rate": intervals.share(outcome.fooled[right]),
        "no_answer": intervals.share(outcome.no_answer),
    }


def _differences(outcome: Outcome, context: AuditContext) -> dict[str, Any]:
    """Return the distances of adversarial points from samples, and of maps before and after the attack."""
    fooled, right, seed = outcome.fooled, outcome.right, context.config.seed
    explained = len(outcome.explain["top_k"])
    changes = _changes(outcome, context.x)
    attention = summarise_attention(
        outcome.explain,
        outcome.distance,
        fooled,
        right,
        context.y,
        worst_first(outcome, context.plan.explaining.gallery),
        seed=seed,
    )
    return {
        "psnr": intervals.mean(-10 * changes.log10(), seed=seed),
        "ssim": intervals.mean(outcome.explain["ssim"][fooled[:explained]], within=(-1, 1), seed=seed),
        "noise": intervals.mean(changes.sqrt() * 255, within=(0, math.inf), seed=seed),
        "noise_unit": "/255 RMS",
        "movements": movements(
            outcome.explain,
            fooled[:explained],
            (right & ~outcome.no_answer)[:explained],
            context.plan.explaining.name,
            seed,
        ),
        "attention": attention,
    }


def _passes(outcome: Outcome, ledger: Ledger, n: int) -> dict[str, Any]:
    """Return the passes per sample, by purpose."""

    def each(spent: tuple[int, int], samples: int) -> Passes:
        return Passes(forward=spent[0] / samples, backward=spent[1] / samples)

    checks, aside = ledger.passes(Family.CHECKS), outcome.aside
    explained = len(outcome.explain["top_k"]) + (len(outcome.nearest_shown.samples) if outcome.nearest_shown else 0)
    return {
        "passes": each(ledger.passes(Family.CLEAN, Family.CASCADE, Family.AUTOATTACK, Family.GUARD), n),
        "nearest_passes": each(ledger.passes(Family.NEAREST), n),
        "diagnostic_passes": each((checks[0] + aside[0], checks[1] + aside[1]), n),
        "explanation_passes": each(ledger.passes(Family.EXPLAIN), max(explained, 1)),
    }


def _survival(outcome: Outcome, context: AuditContext) -> Reasons:
    """Summarise the attack on explanations, with the nearest adversarial distances if they were searched for."""
    attacked = context.plan.explanation_attack
    assert outcome.survival is not None
    assert attacked is not None
    searched = any(context.threat.norm == norm for norm in outcome.nearest)
    distance = outcome.distance.double() if searched else outcome.distance[:0].double()
    eps = torch.as_tensor(context.threat.eps, dtype=torch.float64).expand(len(context.y)).cpu()
    return summarise_survival(outcome.survival, distance, eps, context.y, name=attacked.name, seed=context.config.seed)


def _changes(outcome: Outcome, x: Tensor) -> Tensor:
    """Return the mean squared perturbation of each fooled sample."""

    def squares(rows: Tensor) -> Tensor:
        return (outcome.attack.x_adv[rows] - x[rows]).flatten(1).square().mean(1)

    return per_block(squares, outcome.fooled.nonzero()[:, 0], x)


def _curve(outcome: Outcome, context: AuditContext) -> list[CurvePoint]:
    """Return accuracy at every radius: the share of samples whose nearest adversarial example found is farther."""
    k = len(outcome.distance)
    whole = torch.as_tensor(context.threat.eps, dtype=torch.float64)
    each = whole.expand(len(outcome.right))[:k].cpu()
    right, fooled, distance = outcome.right[:k], outcome.fooled[:k], outcome.distance.double()
    count = (
        partial(_draws_right, outcome, k)
        if outcome.random
        else lambda is_right, is_fooled, radius: intervals.share(is_right)
    )
    points = [CurvePoint(eps=0.0, accuracy=count(right, ~right, 0.0), no_answer=0.0)]
    stated = outcome.guard is None or not outcome.guard.missing
    for radius in sorted(context.plan.nearest.radii) if stated else ():
        size = radius * each * (1 + 1e-6)
        is_fooled = distance <= size
        is_fooled = is_fooled | fooled if radius >= 1 else is_fooled
        unanswered = right & ~is_fooled & (outcome.unanswered[:k].double() <= size)
        eps = float(each.mean()) if k else float(whole.mean())
        no_answer = float(unanswered.double().mean()) if k else 0.0
        accuracy = count(right & ~is_fooled & ~unanswered, is_fooled, radius)
        points.append(CurvePoint(eps=radius * eps, accuracy=accuracy, no_answer=no_answer))
    return points


def _draws(outcome: Outcome, k: int) -> tuple[Tensor, Tensor]:
    """Return the shares of a random model's draws that are right, on the first k samples and at their points, (k,).

    A clean sample is itself a point of its threat, so accuracy under attack cannot exceed clean accuracy. Where
    it does so by chance of the draws, the shares on the clean samples are returned twice.
    """
    clean, attacked = outcome.clean.right_share[:k].double(), outcome.attack.right_share[:k].double()
    return clean, clean if float(attacked.sum()) > float(clean.sum()) else attacked


def _draws_right(outcome: Outcome, k: int, is_right: Tensor, is_fooled: Tensor, radius: float) -> Estimate:
    """Return the accuracy of a random model at a radius, in multiples of eps, over the first k samples.

    Below eps it is the share of correct draws on the clean sample; where the nearest adversarial point, which most
    draws misclassify, is within the radius, it is at most the larger of one half and the share at eps.
    """
    clean, attacked = _draws(outcome, k)
    if radius == 1:
        return intervals.mean_of_shares(attacked)
    level, half = (attacked, torch.full_like(attacked, 0.5)) if radius > 1 else (clean, attacked.clamp_min(0.5))
    shares = torch.where(is_fooled & (radius > 0), torch.minimum(level, half), level)
    # By chance single samples may do better at eps.
    below = radius < 1 and float(shares.sum()) < float(attacked.sum())
    return intervals.mean_of_shares(attacked if below else shares)


def _confusions(y: Tensor, prediction: Tensor, k: int) -> dict[str, Any]:
    """Return counts of true class by class predicted under attack: a table, or entries where there are many classes."""
    if k <= MAX_CLASSES_LISTED:
        table = torch.bincount(y * k + prediction, minlength=k * k)[: k * k].reshape(k, k).tolist()
        return {"confusion": table, "confusion_entries": []}
    pairs, counts = torch.stack([y, prediction], 1).unique(dim=0, return_counts=True)
    entries = [(int(t), int(p), int(c)) for (t, p), c in zip(pairs, counts, strict=True)]
    return {"confusion": [], "confusion_entries": entries}


def worst_first(outcome: Outcome, count: int) -> Tensor:
    """Return samples for the gallery: fooled with the highest confidence first, then not fooled with the lowest."""
    explained = len(outcome.explain["top_k"])
    confidence, fooled = outcome.attack.confidence[:explained], outcome.fooled[:explained]
    score = torch.where(fooled, 1 + confidence, -confidence)
    score = score.masked_fill(~outcome.right[:explained], -torch.inf)
    order = score.argsort(descending=True, stable=True)
    return order[score[order] > -torch.inf][:count]


def _galleries(outcome: Outcome, context: AuditContext) -> dict[str, Any]:
    """Return the examples of the page's galleries."""
    return {
        "gallery": _gallery(outcome, context.y, context.plan.explaining.gallery),
        "nearest_gallery": nearest_records(outcome.nearest_shown, context.y, outcome.clean.confidence),
    }


def _gallery(outcome: Outcome, y: Tensor, count: int) -> list[Example]:
    attack, clean = outcome.attack, outcome.clean
    return [
        Example(
            index=i,
            label=int(y[i]),
            clean=int(clean.prediction[i]),
            adversarial=int(attack.prediction[i]),
            clean_confidence=finite(clean.confidence[i]),
            adversarial_confidence=finite(attack.confidence[i]),
            fooled=bool(outcome.fooled[i]),
            distance=finite(attack.distance[i]),
            psnr=finite(outcome.explain["psnr"][i]),
            similarity=finite(outcome.explain["spearman"][i]),
        )
        for i in worst_first(outcome, count).tolist()
    ]
