"""Data analysis of the attention study: is incomplete attention easier to fool, and how do attacks move it?

Fixed in advance:

    filter       the clean prediction is right; nothing else, and the exclusions are counted
    outcome      distance to the nearest adversarial example found (`envelope`, Linf), judged by `verify`
    radius       of the deviation analysis: the median of these distances, so that about half of the samples are fooled;
                 the rule uses only distances, and fits any network. Other radii are reported beside it
    points       all steps of PGD at that radius, without early stopping, so that all samples have the same attack
    class        the label, fixed; for the predicted class, reported beside it, deviation is built in where the label
                 is lost
    noise        for every sample, a random corner of the same ball
    course       attention along the straight line to the attacked point: does it move before the label does? Moved: the
                 cells above average have an IoU below .6 with the clean ones

References:
    Wu et al., ARP, 2018, arXiv:1811.09831 (the claims). Its scripts filter by the outcome and by IoU, and rescale the
    ground truth; none of this is done here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.pgd import pgd
from unfooled.core.goals import read_logits
from unfooled.core.threats import Linf
from unfooled.core.types import Model
from unfooled.distances.maps.attention import above_mean, iou, js
from unfooled.evaluation.explanations.attention import attend, attention_moved, attention_records
from unfooled.evaluation.verify import Verdict, verify
from unfooled.studies.attention.measures import MOVED_BELOW_IOU
from unfooled.studies.attention.pictures import first_images
from unfooled.studies.attention.records import Analysed
from unfooled.studies.attention.samples import Samples
from unfooled.studies.common.records import listed

PATH_POINTS = 17
"""Number of points on the straight line, including both ends."""


@dataclass(frozen=True)
class AnalysisEffort:
    """Effort of the analysis of a network.

    Attributes:
        n: Samples looked at.
        budget: Passes per sample for the nearest adversarial example.
        steps: Steps of PGD.
        shown: Images in the gallery.
    """

    n: int
    budget: int
    steps: int
    shown: int = 6


def analyse(model: Model, samples: Samples, effort: AnalysisEffort, *, data: str, arm: str, seed: int) -> Analysed:
    """Measure one network's attention on clean, attacked and noisy samples.

    Columns of the result: distance; fooled (at the median radius, by PGD); completeness and the other measures of
    `attention_records`; for each measure m of `MOVES` "fixed: m", "predicted: m", "noise: m"; first (the map moves
    before the label; NaN where not fooled).

    Args:
        model: Any callable with a spatial layer.
        samples: Samples, of which the first `effort.n` are looked at.
        effort: Effort of the analysis.
        data: Name of the data set, for the record.
        arm: Name of the network, for the record.
        seed: Random seed of the attacks.
    """
    started = time.perf_counter()
    tested = samples.take(torch.arange(min(effort.n, len(samples.x))))
    with torch.no_grad():
        right = read_logits(model, tested.x, batch=256).argmax(1) == tested.y
    indices = right.nonzero()[:, 0]
    correct = tested.take(indices)
    x, y = correct.x, correct.y
    if not len(x):
        return Analysed(
            data=data, arm=arm, seed=seed, n=len(tested.x), wrong=len(tested.x), indices=[], labels=[], eps=0.0,
            columns={}, course={}, cells=0, seconds=time.perf_counter() - started,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    near = envelope(model, x, y, (torch.inf,), budget=effort.budget, generator=generator)[torch.inf]
    distance = verify(model, x, y, near, Linf(torch.inf)).distance
    threat = Linf(median_radius(distance))
    z = pgd(model, x, y, threat, steps=effort.steps, stop=False, generator=generator)
    verdict = verify(model, x, y, z, threat)
    columns, course, maps = attention_under_attack(model, correct, z, verdict, threat.corner(x, seed))
    columns = {"distance": distance, "fooled": verdict.success.float(), **columns}
    fooled, eps = verdict.success, float(threat.eps)
    return Analysed(
        data=data, arm=arm, seed=seed, n=len(tested.x), wrong=int((~right).sum()), indices=indices.tolist(),
        labels=y.tolist(), eps=eps, columns={name: listed(v) for name, v in columns.items()},
        course={name: [round(float(v), 5) for v in values[fooled].mean(0)] for name, values in course.items()}
        if bool(fooled.any()) else {},
        cells=maps[0][0].numel(), seconds=round(time.perf_counter() - started, 3),
        picture=first_images(correct, z, maps, verdict, effort.shown, f"{data}, {arm}", eps),
    )  # fmt: skip


def median_radius(distance: Tensor) -> float:
    """Return the median distance, at least 1/2550 and at most 1; 8/255 where it is infinite."""
    eps = max(float(distance.quantile(0.5)), 1 / 2550) if bool(distance.isfinite().any()) else 8 / 255
    return min(eps, 1.0) if np.isfinite(eps) else 8 / 255


def attention_under_attack(
    model: Model, samples: Samples, z: Tensor, verdict: Verdict, noisy: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Measure clean attention, and its movement under attack.

    Args:
        model: Any callable with a spatial layer.
        samples: Samples that are classified correctly.
        z: Attacked points, (n, C, H, W).
        verdict: Verdict on the attacked points.
        noisy: Points with random noise of the same size, (n, C, H, W).

    Returns:
        Columns, (n,) each; the course along the way to z, (n, PATH_POINTS) each; and the maps before and after,
        (n, h, w).
    """
    x, y = samples.x, samples.y
    measured = attention_records(model, x, y, mask=samples.mask, parts=samples.parts)
    clean = measured.pop("p")
    after = attend(model, z, y)
    columns = {name: values.float() for name, values in measured.items()}
    moved = {
        "fixed": attention_moved(clean, after),
        "predicted": attention_moved(clean, attend(model, z, verdict.prediction)),
        "noise": attention_moved(clean, attend(model, noisy, y)),
    }
    columns |= {f"{kind}: {name}": v for kind, values in moved.items() for name, v in values.items()}
    first, course = course_of_attention(model, x, y, z, clean)
    columns["first"] = torch.where(verdict.success, first, torch.nan)
    return columns, course, (clean, after)


def course_of_attention(
    model: Model, x: Tensor, y: Tensor, z: Tensor, clean: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Follow attention along the straight line to z.

    Args:
        model: Any callable with a spatial layer.
        x: Clean images, (n, C, H, W).
        y: Labels, (n,).
        z: Attacked points, (n, C, H, W).
        clean: Attention of the clean images, (n, h, w).

    Returns:
        1 for samples whose map moves before the label is lost, else 0, (n,) float, and the course, (n, PATH_POINTS)
        each.
    """
    apart, lost, moved = [], [], []
    for t in torch.linspace(0, 1, PATH_POINTS):
        at = x + t * (z - x)
        with torch.no_grad():
            labels = read_logits(model, at, batch=256).argmax(1)
        p = attend(model, at, y)
        apart.append(js(clean, p))
        moved.append(iou(above_mean(clean), above_mean(p)) < MOVED_BELOW_IOU)
        lost.append(labels != y)
    label, map_ = torch.stack(lost, 1), torch.stack(moved, 1)

    def first_true(flags: Tensor) -> Tensor:
        """Return the index of the first true point of the line; PATH_POINTS where there is none."""
        return torch.where(flags.any(1), flags.int().argmax(1), PATH_POINTS)

    course = {"JS divergence": torch.stack(apart, 1), "label lost": label.float(), "map moved": map_.float()}
    return (first_true(map_) < first_true(label)).float(), course
