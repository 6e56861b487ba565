"""From the stages of an audit to its records: averages, intervals and the gallery are made here and nowhere else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import Point
from unfooled.attacks.ensembles.progress import Progress
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.records import CurvePoint, Example, Nearness, Summary
from unfooled.evaluation.checks.before import finding
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.explanations.attention import summarise_attention
from unfooled.evaluation.explanations.movement import movements
from unfooled.evaluation.explanations.records import Reasons
from unfooled.evaluation.explanations.survival import Attacked, reason_pictures, summarise_reasons
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.files import write_whole
from unfooled.runs.records import Config, Environment, Passes, write_record
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


MANY = 100
"""Classes above which confusions are kept as entries."""


@dataclass
class Found:
    """What an audit's stages found, one entry a sample.

    Attributes:
        clean, attack, explain: rows of those stages.
        reasons: what an attack on the explanations left; None where none was asked for.
        nearest: norm -> distances of the first samples' nearest adversarial examples.
        distance: the nearest of all that was found in the threat's norm, for the same samples.
        right: who was right when clean.
        radii: of the curve, in multiples of eps.
        random: robust accuracy is a mean of frequencies.
        findings, verdict, because: of the diagnostics.
        progress: the attack's stages; aside: passes (F, B) of diagnostics that no stage counts.
    """

    clean: Rows
    attack: Rows
    nearest: dict[float, Tensor]
    distance: Tensor
    explain: Rows
    right: Tensor
    radii: tuple[float, ...]
    random: bool = False
    reasons: Attacked | None = None
    findings: list[Finding] = field(default_factory=list)
    verdict: str = ""
    because: str = ""
    progress: list[Point] = field(default_factory=list)
    aside: tuple[int, int] = (0, 0)

    @property
    def fooled(self) -> Tensor:
        """Right when clean, and lost to an allowed point."""
        return self.right & self.attack["success"]

    @property
    def robust_share(self) -> float:
        """Robust accuracy as a number."""
        if not len(self.right):
            return 0.0
        kept = 1 - self.attack["rate"].double() if self.random else (self.right & ~self.fooled).double()
        return float(kept.mean())

    @property
    def robust(self) -> Estimate:
        """Robust accuracy with its interval; a random model's is the mean of what each sample keeps over the draws."""
        if not self.random:
            return intervals.share(self.right & ~self.fooled)
        kept = intervals.mean(1 - self.attack["rate"].double())
        return Estimate(value=kept.value, low=kept.low or 0.0, high=1.0 if kept.high is None else kept.high, n=kept.n)

    def rounded(self) -> Finding:
        """D23: points stay inside; rounding them to 8 bits must not change the figure much."""
        if "success_8bit" not in self.attack:
            return finding("D23", False, "the clean samples are no 8-bit images")
        apart = float((self.attack["success"] & ~self.attack["success_8bit"] & self.right).double().mean())
        return finding(
            "D23", apart > 0.01, f"rounding the points to 8 bits would rescue {apart:.1%} of the samples",
            "both figures are given", apart, 0.01,
        )  # fmt: skip


def summarise(
    found: Found,
    *,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    config: Config,
    classes: list[str],
    about: dict[str, str],
    run: Run,
    warnings: list[str],
    device: str,
) -> Summary:
    """Average, and say what the figures do not."""
    right, fooled, n = found.right, found.fooled, len(x)
    delta = flat(found.attack["x_adv"] - x)[fooled]
    few = len(found.explain["top_k"]) if found.explain else 0
    undefined = int((found.attack["undefined"] & right).sum())
    if undefined:
        warnings = [*warnings, f"The model returned NaN or infinite logits for {undefined} attacked samples; no flips."]
    outside = int((~found.attack["inside"]).sum())
    if outside:
        warnings = [*warnings, f"The attack left the threat on {outside} samples; these points were discarded."]
    explain = run.passes.get("explain", (0, 0))
    spent = [v for k, v in run.passes.items() if k.startswith(("cascade-", "autoattack-")) or k == "clean"]
    near = [v for k, v in run.passes.items() if k.startswith("nearest-")]
    checks = [v for k, v in run.passes.items() if k.startswith("diagnostics-")] + [found.aside]
    return Summary(
        title=about.get("title", config.model),
        model=config.model,
        data=config.data,
        n=n,
        threat=config.threat,
        seed=config.seed,
        clean_accuracy=intervals.share(right),
        robust_accuracy=found.robust,
        robust_accuracy_8bit=_at_8_bits(found),
        verdict=found.verdict,
        trusted=found.verdict in ("SOUND", "EXTENDED"),
        because=found.because,
        diagnostics=found.findings,
        diagnostic_passes=Passes(forward=sum(f for f, _ in checks) / n, backward=sum(b for _, b in checks) / n),
        nearest_passes=Passes(forward=sum(f for f, _ in near) / n, backward=sum(b for _, b in near) / n),
        effort=config.options.get("effort", ""),
        progress=[Progress(**vars(point)) for point in found.progress],
        nearest=[_nearness(norm, d, y, len(classes)) for norm, d in found.nearest.items()],
        attack_success_rate=intervals.share(fooled[right]),
        passes=Passes(forward=sum(f for f, _ in spent) / n, backward=sum(b for _, b in spent) / n),
        explanation_passes=Passes(forward=explain[0] / max(few, 1), backward=explain[1] / max(few, 1)),
        seconds=round(sum(run.seconds.values()), 3),
        warnings=warnings,
        attack=config.options["attack"],
        curve=_curve(found, threat),
        curve_n=len(found.distance),
        confusion=_confusion(y, found.attack["prediction"], len(classes)) if len(classes) <= MANY else [],
        confusion_entries=_entries(y, found.attack["prediction"]) if len(classes) > MANY else [],
        classes=classes,
        psnr=intervals.mean(_psnr(delta), seed=config.seed),
        ssim=intervals.mean(found.explain["ssim"][fooled[:few]], seed=config.seed),
        noise=intervals.mean(delta.square().mean(1).sqrt() * 255, seed=config.seed),
        noise_unit="/255 RMS",
        movements=movements(found.explain, fooled[:few], right[:few], config.options["explanation"], config.seed),
        explanation=config.options["explanation"],
        reasons=_reasons(found, y, threat, config),
        attention=summarise_attention(
            found.explain,
            found.distance,
            fooled,
            right,
            y,
            worst_first(found, config.options["gallery"]),
            seed=config.seed,
        ),
        gallery=_gallery(found, y, config.options["gallery"]),
        limits=list(LIMITS),
        command=about.get("command", ""),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options=config.options,
        environment=Environment.here(device),
    )


def _reasons(found: Found, y: Tensor, threat: Threat, config: Config) -> Reasons | None:
    """Did the reasons survive? Beyond the samples with a nearest example, what the attack itself found counts."""
    if found.reasons is None:
        return None
    distance = found.attack["distance"].double().masked_fill(~found.attack["success"], torch.inf)
    distance[: len(found.distance)] = found.distance.double()
    eps = torch.as_tensor(threat.eps, dtype=torch.float64).expand(len(y)).cpu()
    return summarise_reasons(found.reasons, distance, eps, y, name=config.options["reasons"], seed=config.seed)


def _psnr(delta: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of the changes in dB, for inputs of range 1."""
    return -10 * delta.square().mean(1).log10()


def _at_8_bits(found: Found) -> Estimate | None:
    """Robust accuracy of the points rounded to 8 bits, where that means something."""
    if "success_8bit" not in found.attack or found.random:
        return None
    return intervals.share(found.right & ~found.attack["success_8bit"])


def _curve(found: Found, threat: Threat) -> list[CurvePoint]:
    """Accuracy at every radius: the share whose nearest adversarial example, of all that were found, is farther."""
    k = len(found.distance)
    each = torch.as_tensor(threat.eps, dtype=torch.float64).expand(len(found.right))[:k].cpu()
    right, fooled, distance = found.right[:k], found.fooled[:k], found.distance.double()
    points = [CurvePoint(eps=0.0, accuracy=intervals.share(right))]
    for radius in found.radii:
        lost = distance <= radius * each * (1 + 1e-6)
        lost = lost | fooled if radius >= 1 else lost
        eps = float(each.mean()) if k else float(torch.as_tensor(threat.eps).double().mean())
        points.append(CurvePoint(eps=radius * eps, accuracy=intervals.share(right & ~lost)))
    return points


def _nearness(norm: float, distance: Tensor, y: Tensor, k: int) -> Nearness:
    """How near the nearest adversarial examples are, over all and by class."""
    distance = distance.double()
    label = y[: len(distance)]

    def at(values: Tensor, q: float) -> float | None:
        if not len(values):
            return None
        found = float(values.sort().values[min(len(values) - 1, math.ceil(q * len(values)) - 1 if q else 0)])
        return found if math.isfinite(found) else None

    finite = distance[torch.isfinite(distance)].sort().values
    levels = finite[torch.linspace(0, len(finite) - 1, min(64, len(finite))).round().long()] if len(finite) else finite
    return Nearness(
        norm="linf" if math.isinf(norm) else f"l{norm:g}",
        n=len(distance),
        reached=intervals.share(torch.isfinite(distance)),
        quartiles=(at(distance, 0.25), at(distance, 0.5), at(distance, 0.75)),
        classes=[at(distance[label == c], 0.5) for c in range(k)] if k <= MANY else [],
        curve=[(float(d), float((distance > d).double().mean())) for d in levels],
    )


def _confusion(y: Tensor, prediction: Tensor, k: int) -> list[list[int]]:
    """Counts: true class by class predicted under attack."""
    return torch.bincount(y * k + prediction, minlength=k * k)[: k * k].reshape(k, k).tolist()


def _entries(y: Tensor, prediction: Tensor) -> list[tuple[int, int, int]]:
    """The counts that are not 0, for so many classes that a table of them would be mostly empty."""
    pairs, counts = torch.stack([y, prediction], 1).unique(dim=0, return_counts=True)
    return [(int(t), int(p), int(c)) for (t, p), c in zip(pairs, counts, strict=True)]


def worst_first(found: Found, count: int) -> Tensor:
    """Samples for the gallery: fooled with the highest confidence first, then those that held out with the least."""
    few = len(found.explain["top_k"])
    confidence, fooled = found.attack["confidence"][:few], found.fooled[:few]
    score = torch.where(fooled, 1 + confidence, -confidence)
    score = score.masked_fill(~found.right[:few], -torch.inf)
    order = score.argsort(descending=True, stable=True)
    return order[score[order] > -torch.inf][:count]


def _gallery(found: Found, y: Tensor, count: int) -> list[Example]:
    def number(value: Tensor) -> float | None:
        return float(value) if bool(torch.isfinite(value)) else None

    attack, clean = found.attack, found.clean
    return [
        Example(
            index=i,
            label=int(y[i]),
            clean=int(clean["prediction"][i]),
            adversarial=int(attack["prediction"][i]),
            clean_confidence=number(clean["confidence"][i]),
            adversarial_confidence=number(attack["confidence"][i]),
            fooled=bool(found.fooled[i]),
            distance=number(attack["distance"][i]),
            psnr=number(found.explain["psnr"][i]),
            similarity=number(found.explain["spearman"][i]),
        )
        for i in worst_first(found, count).tolist()
    ]


def keep(folder: Path, found: Found, x: Tensor, y: Tensor, summary: Summary) -> None:
    """Write what a page, or another program, needs: samples, gallery, and last the summary."""
    from safetensors.torch import save

    attack = found.attack
    samples: dict[str, Any] = {
        "y": y,
        "clean": found.clean["prediction"],
        "adversarial": attack["prediction"],
        "success": attack["success"],
        "distance": attack["distance"],
        "x_adv": attack["x_adv"],
    }
    write_whole(folder / "samples.safetensors", save({k: v.contiguous() for k, v in samples.items()}))
    rows = worst_first(found, len(summary.gallery))
    pictures = {
        "x": x[rows],
        "x_adv": attack["x_adv"][rows],
        "before": found.explain["before"][rows],
        "after": found.explain["after"][rows],
    }
    write_whole(folder / "gallery.safetensors", save({k: v.contiguous() for k, v in pictures.items()}))
    if found.reasons is not None and summary.reasons is not None and summary.reasons.gallery:
        worst = reason_pictures(found.reasons, x)
        write_whole(folder / "reasons.safetensors", save({k: v.contiguous() for k, v in worst.items()}))
    if summary.attention is not None and summary.attention.gallery:
        rows = torch.tensor([example.index for example in summary.attention.gallery])
        seen = {name: found.explain[f"attention_{name}"][rows] for name in ("before", "after")}
        seen |= {"x": x[rows], "x_adv": attack["x_adv"][rows]}
        write_whole(folder / "attention.safetensors", save({k: v.contiguous() for k, v in seen.items()}))
    write_record(folder / "summary.json", summary)
