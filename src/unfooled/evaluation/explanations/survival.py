"""Do the reasons survive? An audit's attack on the explanations of samples whose label holds, and what it says of them.

    corrected LENS   (LENS-recall - c) / (1 - c) at w = 1, c the level of an unrelated map: 1 unmoved, 0 no better than
                     a map of something else
    moved            corrected LENS below 1/2 at an allowed point that keeps the label
    reason first     moved at an audited radius smaller than the distance of the nearest adversarial example
    label first      an adversarial example within eps, no farther than the smallest radius that moves the reason
    neither          neither was found up to eps, which is not to say that neither is there

Beside the attack stand the best of as many random points as it takes explanations, and one random point. What moves a
reason moves it, whoever found it: so the shares count the better of attack and best of N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks import Differences, out_of_lens
from unfooled.attacks.explanations.attack import differentiable
from unfooled.attacks.explanations.candidates import Explanation
from unfooled.core.errors import BadInput
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances import chance, corrected, kendall, lens_recall, top_k_intersection
from unfooled.distances.maps.locality import as_maps
from unfooled.evaluation.explanations.judge import (
    ATTACKED,
    SKIPPED,
    STATUSES,
    UNDEFINED,
    Arm,
    Score,
    explanation_robustness,
)
from unfooled.evaluation.explanations.movement import TOP
from unfooled.evaluation.explanations.records import ReasonExample, ReasonPoint, Reasons
from unfooled.runs.chunks import Rows
from unfooled.runs.records import Passes
from unfooled.statistics import intervals

W = 1
"""Reach of LENS in pixels."""
MOVED = 0.5
"""Corrected LENS below which a reason counts as moved."""
HOW = ("attack", "best of N", "random")
LARGE = 4096
"""Pixels of a map from which on candidates are not ranked by Kendall's tau, which would cost more than the attack."""
WORST = 6
"""Cases in the gallery."""
FEW = Differences(draws=4)
"""How explanations without a second derivative are attacked."""


@dataclass(frozen=True)
class Way:
    """How an explanation can be attacked: by "gradients", by "differences", or "" with the reason why not."""

    by: str
    reason: str = ""
    pixels: int = 0

    @property
    def differences(self) -> Differences | None:
        """As the attack takes it."""
        return FEW if self.by == "differences" else None

    @property
    def k(self) -> int:
        """How many pixels count as the top of a map."""
        return max(1, round(TOP * self.pixels))


def way_of(model: Model, x: Tensor, y: Tensor, explain: Explanation) -> Way:
    """Try an explanation, and its derivative, on one sample. Cost: 2 explanations, a gradient of one."""
    x, y = x[:1].detach(), y[:1]
    with frozen(model):
        try:
            found = as_maps(torch.as_tensor(explain(model, x, y)))
        except BadInput as e:
            return Way("", f"the explanation cannot be computed: {e}")
        pixels = found[0].numel()
        if pixels < 2:
            return Way("", "its maps have a single value, which has no order", pixels)
    return Way("gradients" if differentiable(model, x, y, explain) else "differences", pixels=pixels)


def shrunk(threat: Threat, share: float) -> Threat:
    """The threat at a share of its eps; counts are rounded up."""
    smaller = threat.scaled(share)
    if threat.norm != 0:
        return smaller
    eps = smaller.eps
    return smaller.with_eps(eps.ceil() if isinstance(eps, Tensor) else math.ceil(eps))


def attack_reasons(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    way: Way,
    *,
    steps: int,
    restarts: int,
    seed: int,
    batch: int,
    pictures: bool,
) -> Rows:
    """Attack the explanations of some samples at one radius, and judge.

    Args:
        model: any callable to logits.
        x: samples, (B, *D).
        y: their labels, (B,).
        threat: what is allowed.
        explain: the explanation.
        way: how it can be attacked.
        steps: of each ascent.
        restarts: of the attack.
        seed: of its starts and of the random points.
        batch: samples alive at once.
        pictures: whether points and maps are returned too.

    Returns:
        chance (B,), and for each way of `HOW` its lens, top_k and tau (B,), NaN where not attacked, and its status for
        LENS, (B,); random_points, N; with pictures x_adv, before and after, (B, *D), at the worst point for LENS that
        either attack or best of N found, whether it was `by chance`, its output_change and top_k.
        Cost: the attack's, about 3 passes a random point, and the judge's 60.
    """
    k = way.k
    scores: dict[str, Score] = {
        "lens": partial(lens_recall, k=k, w=W),
        "top_k": partial(top_k_intersection, k=k),
    }
    if way.pixels < LARGE:
        scores["tau"] = kendall
    found = explanation_robustness(
        model, x, y, threat, explain, scores=scores, objectives=(out_of_lens(k, W),), steps=steps, restarts=restarts,
        differences=way.differences, batch=batch, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    rows = {"chance": chance(found.clean, k=k, w=W), "random_points": torch.full_like(y, found.n)}
    for how, arm in zip(HOW, (found.attack, found.best_of_n, found.random), strict=True):
        rows |= {f"{how}: {name}": value for name, value in arm.scores.items()}
        rows[f"{how}: status"] = arm.status["lens"]
        if "tau" not in scores:
            rows[f"{how}: tau"] = _tau(model, y, arm, found.clean, explain, batch)
    if pictures:
        attack, lucky = (arm.scores["lens"].nan_to_num(nan=torch.inf) for arm in (found.attack, found.best_of_n))
        rows["by chance"] = by_chance = lucky < attack
        rows["x_adv"] = z = where_rows(by_chance, found.best_of_n.x_adv["lens"], found.attack.x_adv["lens"])
        change = found.best_of_n.output_change["lens"], found.attack.output_change["lens"]
        rows["output_change"] = torch.where(by_chance, *change)
        for name, points in (("before", x), ("after", z)):
            parts = zip(points.split(batch), y.split(batch), strict=True)
            rows[name] = torch.cat([torch.as_tensor(explain(model, *part)).detach() for part in parts])
        rows["top_k"] = top_k_intersection(found.clean, as_maps(rows["after"]), k=k)
    return rows


def _tau(model: Model, y: Tensor, arm: Arm, clean: Tensor, explain: Explanation, batch: int) -> Tensor:
    """Kendall's tau at the points that LENS chose."""
    parts = zip(arm.x_adv["lens"].split(batch), y.split(batch), strict=True)
    maps = torch.cat([as_maps(torch.as_tensor(explain(model, *part)).detach()) for part in parts])
    return kendall(clean, maps).where(arm.status["lens"] == ATTACKED, torch.nan)


@dataclass(frozen=True)
class Attacked:
    """What the attack on the reasons left: rows by radius.

    Attributes:
        way: how it went.
        samples: which were attacked, (n,) int64.
        radii: in multiples of eps, ascending; rows: of each.
        passes: forwards and backwards in all.
        steps, restarts: of the attack.
    """

    way: Way
    samples: Tensor
    radii: tuple[float, ...] = ()
    rows: tuple[Rows, ...] = ()
    passes: tuple[int, int] = (0, 0)
    steps: int = 0
    restarts: int = 0

    def lens(self, how: str) -> Tensor:
        """Corrected LENS by radius and sample, (R, n); NaN where not attacked."""
        return torch.stack([corrected(rows[f"{how}: lens"], rows["chance"]) for rows in self.rows]).double()

    def status(self, how: str) -> Tensor:
        """Positions in `STATUSES` by radius and sample, (R, n); undefined, too, where chance is 1."""
        found = torch.stack([rows[f"{how}: status"] for rows in self.rows])
        full = torch.stack([rows["chance"] >= 1 for rows in self.rows])
        return torch.where(full & (found == ATTACKED), UNDEFINED, found)

    @property
    def worst(self) -> Tensor:
        """The lower of attack and best of N, (R, n); NaN where both are."""
        return torch.fmin(self.lens("attack"), self.lens("best of N"))

    def moved_at(self) -> Tensor:
        """The smallest audited radius, in multiples of eps, that moves each reason; inf where none does, (n,)."""
        at = torch.tensor(self.radii, dtype=torch.float64)[:, None].expand(self.worst.shape)
        return torch.where(self.worst < MOVED, at, torch.inf).amin(0)

    def comparable(self) -> Tensor:
        """Samples of which it can be said which moved first, (n,) bool: right, with a map that has an order."""
        status = self.status("attack")
        return ~((status == UNDEFINED) | (status == SKIPPED)).all(0)


def order(moved: Tensor, label: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which moved first: the reason at a radius `moved`, or the label at a distance `label`, (n,) each; inf for never.

    Returns:
        Reason first, label first, neither up to eps: (n,) bool, exactly one of them for each sample.
    """
    reason = (moved <= eps * (1 + 1e-6)) & (moved < label)
    lost = ~reason & (label <= eps * (1 + 1e-6))
    return reason, lost, ~reason & ~lost


def summarise_reasons(found: Attacked, distance: Tensor, eps: Tensor, y: Tensor, *, name: str, seed: int) -> Reasons:
    """Averages, shares and the worst cases.

    Args:
        found: what was attacked.
        distance: of every sample's nearest adversarial example, inf where none was found, (N,).
        eps: every sample's, (N,).
        y: labels, (N,).
        name: of the explanation.
        seed: of the intervals.
    """
    n, way = len(found.samples), found.way
    if not found.rows:
        return Reasons(explanation=name, skipped=way.reason or "no sample is right when clean", n=n)
    each = eps[found.samples].double()
    middle = float(each.mean())
    curve = [_point(found, i, how, middle * share, seed) for i, share in enumerate(found.radii) for how in HOW]
    kept = found.comparable()
    first = order((found.moved_at() * each)[kept], distance[found.samples].double()[kept], each[kept])
    level = found.rows[-1]["chance"]
    return Reasons(
        explanation=name,
        by=way.by,
        n=n,
        k=way.k,
        w=W,
        pixels=way.pixels,
        steps=found.steps,
        restarts=found.restarts,
        random_points=int(found.rows[-1]["random_points"].amax()),
        curve=curve,
        chance=intervals.mean(level, seed=seed),
        threshold=MOVED,
        reason_first=intervals.share(first[0]),
        label_first=intervals.share(first[1]),
        neither=intervals.share(first[2]),
        passes=Passes(forward=found.passes[0] / n, backward=found.passes[1] / n),
        gallery=[_example(found, i, y) for i in worst_reasons(found).tolist()],
    )


def _point(found: Attacked, i: int, how: str, eps: float, seed: int) -> ReasonPoint:
    rows, status = found.rows[i], found.status(how)[i]
    return ReasonPoint(
        eps=eps,
        share=found.radii[i],
        how=how,
        lens=intervals.mean(found.lens(how)[i], seed=seed),
        lens_raw=intervals.mean(rows[f"{how}: lens"], seed=seed),
        top_k=intervals.mean(rows[f"{how}: top_k"], seed=seed),
        kendall=intervals.mean(rows[f"{how}: tau"], seed=seed),
        **{name: int((status == code).sum()) for code, name in enumerate(STATUSES)},
    )


def worst_reasons(found: Attacked) -> Tensor:
    """Rows whose corrected LENS fell most at the largest radius, the worst first."""
    if not found.rows:
        return torch.zeros(0, dtype=torch.int64)
    score = found.worst[-1].nan_to_num(nan=torch.inf)
    return score.argsort(stable=True)[: min(WORST, int(torch.isfinite(score).sum()))]


def _example(found: Attacked, i: int, y: Tensor) -> ReasonExample:
    def number(value: Tensor) -> float | None:
        return float(value) if bool(torch.isfinite(value)) else None

    rows, sample = found.rows[-1], int(found.samples[i])
    how = "best of N" if bool(rows["by chance"][i]) else "attack"
    return ReasonExample(
        index=sample,
        label=int(y[sample]),
        how=how,
        lens=number(found.worst[-1][i]),
        lens_raw=number(rows[f"{how}: lens"][i]),
        chance=number(rows["chance"][i]),
        top_k=number(rows["top_k"][i]),
        output_change=number(rows["output_change"][i]),
        moved_at=number(found.moved_at()[i]),
    )


def reason_pictures(found: Attacked, x: Tensor) -> Rows:
    """The worst cases as tensors: x, x_adv, before, after, (G, *D) each."""
    rows = worst_reasons(found)
    kept = {name: found.rows[-1][name][rows] for name in ("x_adv", "before", "after")} if found.rows else {}
    return {"x": x[found.samples[rows]], **kept}
