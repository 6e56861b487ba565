"""From the stages of an audit to its records: averages, intervals and the gallery are made here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.core.files import write_whole
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.evaluation import intervals
from unfooled.evaluation.movement import movements
from unfooled.evaluation.records import Config, CurvePoint, Environment, Example, Passes, Summary, write_record
from unfooled.evaluation.run import Rows, Run

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


@dataclass(frozen=True)
class Found:
    """The stages' results, one entry a sample; `hit` is (curve_n, radii), `right` says who was right when clean."""

    clean: Rows
    attack: Rows
    hit: Tensor
    explain: Rows
    right: Tensor
    radii: tuple[float, ...]

    @property
    def fooled(self) -> Tensor:
        """Right when clean, and lost to an allowed point."""
        return self.right & self.attack["success"]


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
    spent = [run.passes.get(stage, (0, 0)) for stage in ("clean", "attack")]
    return Summary(
        title=about.get("title", config.model),
        model=config.model,
        data=config.data,
        n=n,
        threat=config.threat,
        seed=config.seed,
        clean_accuracy=intervals.share(right),
        robust_accuracy=intervals.share(right & ~fooled),
        attack_success_rate=intervals.share(fooled[right]),
        passes=Passes(forward=sum(f for f, _ in spent) / n, backward=sum(b for _, b in spent) / n),
        explanation_passes=Passes(forward=explain[0] / max(few, 1), backward=explain[1] / max(few, 1)),
        seconds=round(sum(run.seconds.values()), 3),
        warnings=warnings,
        attack=config.options["attack"],
        curve=_curve(found, threat),
        curve_n=len(found.hit),
        confusion=_confusion(y, found.attack["prediction"], len(classes)) if len(classes) <= MANY else [],
        confusion_entries=_entries(y, found.attack["prediction"]) if len(classes) > MANY else [],
        classes=classes,
        psnr=intervals.mean(_psnr(delta), seed=config.seed),
        ssim=intervals.mean(found.explain["ssim"][fooled[:few]], seed=config.seed),
        noise=intervals.mean(delta.square().mean(1).sqrt() * 255, seed=config.seed),
        noise_unit="/255 RMS",
        movements=movements(found.explain, fooled[:few], right[:few], config.options["explanation"], config.seed),
        explanation=config.options["explanation"],
        gallery=_gallery(found, y, config.options["gallery"]),
        limits=list(LIMITS),
        command=about.get("command", ""),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        options=config.options,
        environment=Environment.here(device),
    )


def _psnr(delta: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of the changes in dB, for inputs of range 1."""
    return -10 * delta.square().mean(1).log10()


def _curve(found: Found, threat: Threat) -> list[CurvePoint]:
    """Accuracy at every radius; at the audit's own, everything that was found counts."""
    k = len(found.hit)
    eps = torch.as_tensor(threat.eps).double().mean().item()
    points = [CurvePoint(eps=0.0, accuracy=intervals.share(found.right[:k]))]
    for radius, hit in zip(found.radii, found.hit.T, strict=True):
        lost = hit | found.fooled[:k] if radius >= 1 else hit
        points.append(CurvePoint(eps=radius * eps, accuracy=intervals.share(found.right[:k] & ~lost)))
    return points


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
    write_record(folder / "summary.json", summary)
