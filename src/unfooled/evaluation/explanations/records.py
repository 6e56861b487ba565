"""What is recorded of explanations under attack."""

from __future__ import annotations

from pydantic import Field

from unfooled.runs.records import Passes, Record
from unfooled.statistics.intervals import Estimate, Mean


class Movement(Record):
    """How far something moved between x and x_adv, on samples that were fooled and on those that were not.

    Attributes:
        name: field's name of the score, e.g. "top-k intersection".
        explanation: the explanation that moved.
        better: "higher" where 1 means that nothing moved, "lower" where 0 does.
        fooled, unfooled: means over either group.
        undefined: samples whose map was constant and has no score.
    """

    name: str
    explanation: str
    better: str
    fooled: Mean
    unfooled: Mean
    undefined: int


class ReasonPoint(Record):
    """What is left of the reasons at one radius, under one kind of perturbation.

    Attributes:
        eps: the radius, a mean where samples have their own; share: in multiples of the audited one.
        how: "attack", "best of N" (random points, as many as the attack takes explanations) or "random" (one point).
        lens: corrected LENS-recall; lens_raw: before the correction. Each score is taken at its own worst
            point, but Kendall, on maps of 4096 pixels and more, at that of LENS.
        top_k: intersection of the top k. kendall: tau-b.
        attacked, failed, undefined, skipped: samples by status, of LENS; means are over the attacked.
    """

    eps: float
    share: float
    how: str
    lens: Mean
    lens_raw: Mean
    top_k: Mean
    kendall: Mean
    attacked: int
    failed: int
    undefined: int
    skipped: int


class ReasonExample(Record):
    """One of the worst cases at the largest audited radius; pictures are rows of reasons.safetensors in this order.

    Attributes:
        how: what found it, "attack" or "best of N".
        lens: corrected; lens_raw and chance: what it is corrected from. top_k: intersection.
        output_change: of the label's logit. moved_at: smallest audited radius, in multiples of eps, that moved it.
    """

    index: int
    label: int
    how: str
    lens: float | None
    lens_raw: float | None
    chance: float | None
    top_k: float | None
    output_change: float | None
    moved_at: float | None


class Reasons(Record):
    """Whether explanations survive an attack that keeps the label, on n samples that are right when clean.

    Attributes:
        explanation: its name. skipped: why nothing was attacked; empty where something was.
        by: "gradients" or "differences".
        k, w, pixels: of the scores: the top k of a map of so many pixels, LENS within w pixels.
        steps, restarts, random_points: of the attack, and N of best of N.
        curve: by radius and kind of perturbation.
        chance: what an unrelated map would score as raw LENS.
        threshold: of corrected LENS, below which a reason counts as moved, by attack or best of N.
        reason_first, label_first, neither: shares of the samples that can be compared.
        passes: per attacked sample; second derivatives count as the backward that they are taken through.
    """

    explanation: str
    skipped: str = ""
    by: str = ""
    n: int
    k: int = 0
    w: int = 0
    pixels: int = 0
    steps: int = 0
    restarts: int = 0
    random_points: int = 0
    curve: list[ReasonPoint] = Field(default_factory=list)
    chance: Mean | None = None
    threshold: float = 0.5
    reason_first: Estimate | None = None
    label_first: Estimate | None = None
    neither: Estimate | None = None
    passes: Passes = Passes(forward=0.0, backward=0.0)
    gallery: list[ReasonExample] = Field(default_factory=list)

    def at_eps(self, how: str = "attack") -> ReasonPoint | None:
        """The point at the audited radius, or the largest below it."""
        found = [p for p in self.curve if p.how == how and p.share <= 1 + 1e-9]
        return max(found, key=lambda p: p.share) if found else None


class AttentionExample(Record):
    """One case of the gallery; pictures are rows of attention.safetensors in this order.

    Attributes:
        complete: share of the evidence in the attended quarter, before. js: between the maps.
        start, end: centre of attention before and after, (row, column) in shares of the map's sides.
    """

    index: int
    label: int
    fooled: bool
    complete: float | None
    js: float
    start: tuple[float, float]
    end: tuple[float, float]


class Attention(Record):
    """Attention to the label, before and after the attack, on the first n samples that are right when clean.

    Attributes:
        cells: (h, w) of the map.
        points: (completeness, distance of the nearest adversarial example, fooled) of samples that have both.
        undefined: samples without a completeness. unreached: those for which no adversarial example was found.
        correlation: Spearman's, of the points.
    """

    n: int
    cells: tuple[int, int]
    points: list[tuple[float, float, bool]]
    undefined: int
    unreached: int
    correlation: Mean
    gallery: list[AttentionExample] = Field(default_factory=list)
