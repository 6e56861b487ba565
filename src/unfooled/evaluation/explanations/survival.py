"""Survival of explanations: an audit's attack on the explanations of samples whose label is kept, and its summary.

    corrected LENS   (LENS-recall - c) / (1 - c) at w = 1, c the level of an unrelated map: 1 unmoved, 0 no better than
                     a map of something else
    moved            corrected LENS below 1/2 at an allowed point that keeps the label
    reason first     moved at an attacked radius smaller than the distance of the nearest adversarial example
    label first      an adversarial example within eps, no farther than the smallest radius that moves the explanation
    neither          neither was found up to eps, which is not to say that neither is there

Which moved first is decided only for samples whose nearest adversarial example was searched for: an attack inside eps
ends near eps wherever the boundary is. Where the example is no farther than the smallest audited radius, the
explanation is also attacked a little below its distance.

Beside the attack stand the best of random points, as many in all as it computes explanations at one radius, and one
random point. Points at a smaller radius are allowed at a larger one, and count there too. What moves an explanation
moves it, whoever found it: so the shares count the better of attack and best of N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks import Differences, Search, out_of_lens
from unfooled.attacks.explanations.attack import differentiable
from unfooled.attacks.explanations.candidates import Explanation
from unfooled.core.errors import BadInput
from unfooled.core.model.modes import frozen
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances import chance, corrected, kendall, top_k_intersection
from unfooled.distances.maps.locality import SetScore, TopSets, as_maps
from unfooled.evaluation.explanations.judge import (
    ATTACKED,
    SKIPPED,
    STATUSES,
    UNDEFINED,
    Score,
    attributions_of,
    maps_of,
)
from unfooled.evaluation.explanations.movement import TOP_SHARE
from unfooled.evaluation.explanations.nearer import MOVED_BELOW, BelowLabel
from unfooled.evaluation.explanations.records import MAX_PIXELS_FOR_TAU, How, ReasonExample, ReasonPoint, Reasons
from unfooled.evaluation.explanations.robustness import ExplanationRobustness, WorstPoints, robustness_by_radius
from unfooled.runs.chunks import Rows
from unfooled.runs.records import Passes
from unfooled.statistics import intervals

LENS_RADIUS = 1
"""Reach of LENS in pixels."""
GALLERY_SIZE = 6
"""Cases in the gallery."""
FINITE_DIFFERENCES = Differences(draws=4)
"""Attack on explanations that have no second derivative."""


class Derivative(StrEnum):
    """Signal that an attack on an explanation follows."""

    GRADIENTS = "gradients"
    DIFFERENCES = "differences"


@dataclass(frozen=True)
class Approach:
    """Way of attacking an explanation.

    Attributes:
        by: Derivative that is followed. None: it cannot be attacked.
        reason: Reason why it cannot be attacked.
        pixels: Pixels of a map.
    """

    by: Derivative | None
    reason: str = ""
    pixels: int = 0

    @property
    def differences(self) -> Differences | None:
        """Differences in place of gradients. None: by gradients."""
        return FINITE_DIFFERENCES if self.by is Derivative.DIFFERENCES else None

    @property
    def k(self) -> int:
        """Number of pixels that count as the top of a map."""
        return max(1, round(TOP_SHARE * self.pixels))


def approach_to(model: Model, x: Tensor, y: Tensor, explain: Explanation) -> Approach:
    """Try an explanation, and its derivative, on one sample. Cost: 2 explanations, a gradient of one."""
    x, y = x[:1].detach(), y[:1]
    with frozen(model):
        try:
            maps = as_maps(torch.as_tensor(explain(model, x, y)))
        except BadInput as e:
            return Approach(None, f"the explanation cannot be computed: {e}")
        pixels = maps[0].numel()
        if pixels < 2:
            return Approach(None, "its maps have a single value, which has no order", pixels)
    derivative = Derivative.GRADIENTS if differentiable(model, x, y, explain) else Derivative.DIFFERENCES
    return Approach(derivative, pixels=pixels)


def shrunk(threat: Threat, share: float) -> Threat:
    """Return the threat at a share of its eps; counts are rounded up."""
    smaller = threat.scaled(share)
    if threat.norm != 0:
        return smaller
    eps = smaller.eps
    return smaller.with_eps(eps.ceil() if isinstance(eps, Tensor) else math.ceil(eps))


def attack_explanations(
    model: Model,
    x: Tensor,
    y: Tensor,
    threats: Sequence[Threat],
    explain: Explanation,
    approach: Approach,
    *,
    steps: int,
    restarts: int,
    seed: int,
    batch: int,
    pictures: bool = True,
) -> list[Rows]:
    """Attack the explanations of some samples at several radii, and judge.

    Points found at a radius count at the larger ones too. Random points are drawn once for all radii: as many in all as
    the attack computes explanations at one radius, in equal parts.

    Args:
        model: Any callable to logits.
        x: Samples, (B, *D).
        y: Labels, (B,).
        threats: Constraint sets, the smallest radius first.
        explain: The explanation.
        approach: Way of attacking it; see `approach_to`.
        steps: Gradients per restart and radius.
        restarts: Random starts.
        seed: Random seed.
        batch: Samples computed at once.
        pictures: Return the points and maps at the largest radius too.

    Returns:
        For each radius: chance (B,), and for each way of `How` its lens, top_k and tau (B,), NaN where not attacked,
        and its status for LENS, (B,); random_points, the number of random points up to this radius; with pictures
        x_adv, before and after, (B, *D), at the worst point for LENS that either attack or best of N found, whether it
        was `by chance`, its output_change and top_k.
        Cost: the attack's, about 2 passes per random point, and the judge's 5 for each of at most 7 points per radius.
    """
    k, tau = approach.k, approach.pixels < MAX_PIXELS_FOR_TAU
    scores: dict[str, Score] = {
        "lens": SetScore(partial(TopSets.recall, w=LENS_RADIUS), k),
        "top_k": SetScore(TopSets.intersection, k),
        **({"tau": kendall} if tau else {}),
    }
    search = Search(steps, restarts=restarts, differences=approach.differences)
    results = robustness_by_radius(
        model, x, y, threats, explain, scores=scores, objectives=(out_of_lens(k, LENS_RADIUS),), search=search,
        n=max(search.explanations, len(threats)), batch=batch, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    by_radius: list[Rows] = []
    for result in results:
        rows = {"chance": chance(result.clean, k=k, w=LENS_RADIUS), "random_points": torch.full_like(y, result.n)}
        for how, worst_points in zip(How, (result.attack, result.best_of_n, result.random), strict=True):
            rows |= {f"{how}: {name}": value for name, value in worst_points.scores.items()}
            rows[f"{how}: status"] = worst_points.status["lens"]
            if not tau:
                rows[f"{how}: tau"] = _tau(model, y, worst_points, result.clean, explain, batch)
        by_radius.append(rows)
    if pictures:
        by_radius[-1] |= _pictures(model, x, y, explain, results[-1], k, batch)
    return by_radius


def _pictures(
    model: Model, x: Tensor, y: Tensor, explain: Explanation, result: ExplanationRobustness, k: int, batch: int
) -> Rows:
    """Return the worst point for LENS of each sample, and its maps."""
    attack, lucky = (
        worst_points.scores["lens"].nan_to_num(nan=torch.inf) for worst_points in (result.attack, result.best_of_n)
    )
    by_chance = lucky < attack
    z = where_rows(by_chance, result.best_of_n.x_adv["lens"], result.attack.x_adv["lens"])
    change = result.best_of_n.output_change["lens"], result.attack.output_change["lens"]
    before, after = (attributions_of(model, points, y, explain, batch) for points in (x, z))
    return {
        "by chance": by_chance,
        "x_adv": z,
        "output_change": torch.where(by_chance, *change),
        "before": before,
        "after": after,
        "top_k": top_k_intersection(result.clean, as_maps(after), k=k),
    }


def _tau(model: Model, y: Tensor, worst_points: WorstPoints, clean: Tensor, explain: Explanation, batch: int) -> Tensor:
    """Return Kendall's tau at the points that are worst for LENS."""
    maps = maps_of(model, worst_points.x_adv["lens"], y, explain, as_maps, batch)
    return kendall(clean, maps).where(worst_points.status["lens"] == ATTACKED, torch.nan)


@dataclass(frozen=True)
class AttackedExplanations:
    """Result of the attack on explanations: rows by radius.

    Attributes:
        approach: Way in which they were attacked.
        samples: Samples that were attacked, (n,) int64.
        radii: Radii in multiples of eps, ascending.
        rows: Rows of `attack_explanations`, by radius.
        passes: Forwards and backwards in all.
        steps: Gradients per restart.
        restarts: Random starts.
        below: Attack at radii below the labels that change within the smallest radius. None: there is no such label.
    """

    approach: Approach
    samples: Tensor
    radii: tuple[float, ...] = ()
    rows: tuple[Rows, ...] = ()
    passes: tuple[int, int] = (0, 0)
    steps: int = 0
    restarts: int = 0
    below: BelowLabel | None = None

    def lens(self, how: How) -> Tensor:
        """Return corrected LENS by radius and sample, (R, n); NaN where not attacked."""
        return torch.stack([corrected(rows[f"{how}: lens"], rows["chance"]) for rows in self.rows]).double()

    def status(self, how: How) -> Tensor:
        """Return positions in `STATUSES` by radius and sample, (R, n); undefined, too, where chance is 1."""
        status = torch.stack([rows[f"{how}: status"] for rows in self.rows])
        full = torch.stack([rows["chance"] >= 1 for rows in self.rows])
        return torch.where(full & (status == ATTACKED), UNDEFINED, status)

    @property
    def worst(self) -> Tensor:
        """The lower of attack and best of N, (R, n); NaN where both are."""
        return torch.fmin(self.lens(How.ATTACK), self.lens(How.BEST_OF_N))

    def moved_at(self) -> Tensor:
        """Return the smallest radius, in multiples of eps, that moves each explanation; inf where none does, (n,)."""
        at = torch.tensor(self.radii, dtype=torch.float64)[:, None].expand(self.worst.shape)
        moved = torch.where(self.worst < MOVED_BELOW, at, torch.inf).amin(0)
        if self.below is not None:
            rows, moves = self.below.at, self.below.moved
            moved[rows[moves]] = torch.minimum(moved[rows[moves]], self.below.radius[moves])
        return moved

    def comparable(self) -> Tensor:
        """Return whether it can be said what moved first, (n,) bool: right samples, with maps that are not constant."""
        status = self.status(How.ATTACK)
        return ~((status == UNDEFINED) | (status == SKIPPED)).all(0)


def moved_first(moved: Tensor, label: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return whether explanation or label moved first.

    Args:
        moved: Radius that moves the explanation, (n,); inf for never.
        label: Distance of the nearest adversarial example, (n,); inf for none.
        eps: Largest radius that counts, (n,).

    Returns:
        Explanation first, label first, neither up to eps: (n,) bool, exactly one of them for each sample.
    """
    explanation_first = (moved <= eps * (1 + 1e-6)) & (moved < label)
    label_first = ~explanation_first & (label <= eps * (1 + 1e-6))
    return explanation_first, label_first, ~explanation_first & ~label_first


def summarise_survival(
    attacked: AttackedExplanations, distance: Tensor, eps: Tensor, y: Tensor, *, name: str, seed: int
) -> Reasons:
    """Return averages, shares and the worst cases.

    Args:
        attacked: Samples, explanation and threat that were attacked.
        distance: Distances of the nearest adversarial examples of the first samples, inf where none was found, (k,);
            only samples with a distance are compared.
        eps: Every sample's eps, (N,).
        y: Labels, (N,).
        name: Name of the explanation.
        seed: Random seed of the intervals.
    """
    n, approach = len(attacked.samples), attacked.approach
    if not attacked.rows:
        return Reasons(explanation=name, skipped=approach.reason or "no sample is right when clean", n=n)
    each = eps[attacked.samples].double()
    middle = float(each.mean())
    curve = [_point(attacked, i, how, middle * share, seed) for i, share in enumerate(attacked.radii) for how in How]
    searched = attacked.samples < len(distance)
    judged = attacked.comparable() & searched
    near = distance[attacked.samples[judged]].double()
    first = moved_first((attacked.moved_at() * each)[judged], near, each[judged])
    last = attacked.rows[-1]
    return Reasons(
        explanation=name,
        by=approach.by or "",
        n=n,
        k=approach.k,
        w=LENS_RADIUS,
        pixels=approach.pixels,
        steps=attacked.steps,
        restarts=attacked.restarts,
        random_points=int(last["random_points"].amax()),
        curve=curve,
        chance=intervals.mean(last["chance"], within=(0, 1), seed=seed),
        threshold=MOVED_BELOW,
        reason_first=intervals.share(first[0]),
        label_first=intervals.share(first[1]),
        neither=intervals.share(first[2]),
        unsearched=int((~searched).sum()),
        passes=Passes(forward=attacked.passes[0] / n, backward=attacked.passes[1] / n),
        gallery=[_example(attacked, i, y) for i in worst_cases(attacked).tolist()],
    )


def _point(attacked: AttackedExplanations, i: int, how: How, eps: float, seed: int) -> ReasonPoint:
    rows, status = attacked.rows[i], attacked.status(how)[i]
    return ReasonPoint(
        eps=eps,
        share=attacked.radii[i],
        how=how,
        random_points=int(rows["random_points"].amax()) if how == How.BEST_OF_N else 0,
        lens=intervals.mean(attacked.lens(how)[i], within=(-math.inf, 1), seed=seed),
        lens_raw=intervals.mean(rows[f"{how}: lens"], within=(0, 1), seed=seed),
        top_k=intervals.mean(rows[f"{how}: top_k"], within=(0, 1), seed=seed),
        kendall=intervals.mean(rows[f"{how}: tau"], within=(-1, 1), seed=seed),
        **{name: int((status == code).sum()) for code, name in enumerate(STATUSES)},
    )


def worst_cases(attacked: AttackedExplanations) -> Tensor:
    """Return the rows with the lowest corrected LENS at the largest radius, the lowest first."""
    if not attacked.rows:
        return torch.zeros(0, dtype=torch.int64)
    score = attacked.worst[-1].nan_to_num(nan=torch.inf)
    return score.argsort(stable=True)[: min(GALLERY_SIZE, int(torch.isfinite(score).sum()))]


def _example(attacked: AttackedExplanations, i: int, y: Tensor) -> ReasonExample:
    def number(value: Tensor) -> float | None:
        return float(value) if bool(torch.isfinite(value)) else None

    rows, sample = attacked.rows[-1], int(attacked.samples[i])
    how = How.BEST_OF_N if bool(rows["by chance"][i]) else How.ATTACK
    return ReasonExample(
        index=sample,
        label=int(y[sample]),
        how=how,
        lens=number(attacked.worst[-1][i]),
        lens_raw=number(rows[f"{how}: lens"][i]),
        chance=number(rows["chance"][i]),
        top_k=number(rows["top_k"][i]),
        output_change=number(rows["output_change"][i]),
        moved_at=number(attacked.moved_at()[i]),
    )


def survival_pictures(attacked: AttackedExplanations, x: Tensor) -> Rows:
    """Return the worst cases as tensors: x, x_adv, before, after, (G, *D) each."""
    rows = worst_cases(attacked)
    maps = {name: attacked.rows[-1][name][rows] for name in ("x_adv", "before", "after")} if attacked.rows else {}
    return {"x": x[attacked.samples[rows]], **maps}
