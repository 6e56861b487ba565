"""Records of explanations under attack."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from unfooled.runs.records import Count, Passes, Record, Size
from unfooled.statistics.intervals import Estimate, Mean

MAX_PIXELS_FOR_TAU = 4096
"""Pixels of a map from which on candidates are not ranked by Kendall's tau, which would cost more than the attack."""


class How(StrEnum):
    """Way of choosing the points that move an explanation."""

    ATTACK = "attack"
    BEST_OF_N = "best of N"
    """The worst of N random points; N is the number of explanations that the attack computes at one radius."""
    RANDOM = "random"
    """A single random point."""


class Movement(Record):
    """Distance that an explanation moved between x and x_adv, on samples that were fooled and on those that were not.

    Attributes:
        name: Name of the score in the field, e.g. "top-k intersection".
        explanation: Name of the explanation.
        better: "higher" where 1 means that nothing moved, "lower" where 0 does.
        fooled: Mean over the samples that were fooled.
        unfooled: Mean over the others.
        undefined: Number of samples whose map was constant and has no score.
    """

    name: str
    explanation: str
    better: str
    fooled: Mean
    unfooled: Mean
    undefined: Count


class ReasonPoint(Record):
    """Scores of the explanations at one radius, under one kind of perturbation.

    Each score is taken at the point where it is worst; Kendall's tau of maps of 4096 pixels and more, at the point
    where LENS is worst. Means are over the attacked samples.

    Attributes:
        eps: Radius, a mean where samples have their own.
        share: Radius in multiples of the audited one.
        how: Way of choosing the points.
        lens: Corrected LENS-recall.
        lens_raw: LENS-recall before the correction.
        top_k: Intersection of the top k.
        kendall: Kendall's tau-b.
        attacked: Number of samples attacked; this and the next two count samples by whether LENS has a value.
        failed: Number of samples whose point loses the label, leaves the threat, or has the map of the clean sample.
        undefined: Number of samples whose map is constant or not finite.
        skipped: Number of samples that are wrong when clean.
        random_points: Number of random points of "best of N" up to this radius; 0 for other ways, and in records of
            version 0.1, which drew as many at each radius.
    """

    eps: Size
    share: Size
    how: How
    lens: Mean
    lens_raw: Mean
    top_k: Mean
    kendall: Mean
    attacked: Count
    failed: Count
    undefined: Count
    skipped: Count
    random_points: Count = 0


class ReasonExample(Record):
    """One of the worst cases at the largest audited radius; pictures are rows of reasons.safetensors in this order.

    Attributes:
        index: Position of the sample.
        label: Label of the sample.
        how: Way in which the point was found, by the attack or the best of N.
        lens: Corrected LENS-recall.
        lens_raw: LENS-recall before the correction.
        chance: Level of LENS-recall of an unrelated map.
        top_k: Intersection of the top k.
        output_change: Change of the label's logit.
        moved_at: Smallest attacked radius, in multiples of eps, that moved the explanation. None: none did.
    """

    index: Count
    label: Count
    how: How
    lens: float | None
    lens_raw: float | None
    chance: float | None
    top_k: float | None
    output_change: float | None
    moved_at: float | None


class Reasons(Record):
    """Survival of explanations under an attack that keeps the label, on samples that are right when clean.

    Attributes:
        explanation: Name of the explanation.
        skipped: Why nothing was attacked; empty where something was.
        by: Method of the attack, "gradients" or "differences".
        n: Number of samples attacked.
        k: Number of pixels that count as the top of a map.
        w: Reach of LENS in pixels.
        pixels: Pixels of a map.
        steps: Gradients per restart.
        restarts: Random starts.
        random_points: Number of random points of "best of N" at the largest radius.
        curve: Scores by radius and kind of perturbation.
        chance: Raw LENS of an unrelated map.
        threshold: Corrected LENS below which an explanation counts as moved, by attack or best of N.
        reason_first: Share of the comparable samples whose explanation moved first. Comparable: the nearest adversarial
            example was searched for, and the maps are neither constant nor NaN.
        label_first: Share of the comparable samples whose label changed first.
        neither: Share of the comparable samples of which neither changed.
        unsearched: Number of samples attacked whose nearest adversarial example was not searched for.
        passes: Passes per attacked sample; the gradient of an explanation's gradient counts as two backwards more.
        gallery: The worst cases.
    """

    explanation: str
    skipped: str = ""
    by: str = ""
    n: Count
    k: Count = 0
    w: Count = 0
    pixels: Count = 0
    steps: Count = 0
    restarts: Count = 0
    random_points: Count = 0
    curve: list[ReasonPoint] = Field(default_factory=list, max_length=1000)
    chance: Mean | None = None
    threshold: float = 0.5
    reason_first: Estimate | None = None
    label_first: Estimate | None = None
    neither: Estimate | None = None
    unsearched: Count = 0
    passes: Passes = Passes(forward=0.0, backward=0.0)
    gallery: list[ReasonExample] = Field(default_factory=list)

    def at_eps(self, how: How = How.ATTACK) -> ReasonPoint | None:
        """Return the point at the audited radius, or at the largest below it; None where there is none."""
        points = [p for p in self.curve if p.how == how and p.share <= 1 + 1e-9]
        return max(points, key=lambda p: p.share) if points else None


class AttentionExample(Record):
    """A case of the gallery; pictures are rows of attention.safetensors in this order.

    Attributes:
        index: Position of the sample.
        label: Label of the sample.
        fooled: True if the sample was fooled.
        complete: Evidence for the label in the quarter of the cells with the most attention, as a share of that in the
            whole image, before the attack. None: undefined.
        js: Jensen-Shannon divergence of the maps.
        start: Centre of attention before, (row, column) in shares of the map's sides.
        end: Centre of attention after.
    """

    index: Count
    label: Count
    fooled: bool
    complete: float | None
    js: float
    start: tuple[float, float]
    end: tuple[float, float]


class Attention(Record):
    """Attention to the label, before and after the attack, on the first samples that are right when clean.

    Attributes:
        n: Number of samples.
        cells: Height and width of a map.
        points: (completeness, distance of the nearest adversarial example, fooled) of samples that have both.
        undefined: Number of samples without a completeness.
        unreached: Number of samples for which no adversarial example was found.
        correlation: Spearman's correlation of the points.
        gallery: Cases with pictures.
    """

    n: Count
    cells: tuple[Count, Count]
    points: list[tuple[float, float, bool]] = Field(max_length=10_000)
    undefined: Count
    unreached: Count
    correlation: Mean
    gallery: list[AttentionExample] = Field(default_factory=list)
