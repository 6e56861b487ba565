"""What a run leaves behind, as pydantic records: every table and page is a pure function of them.

A run folder holds

    config.json          what was asked (`Config`); a second start with another configuration is refused
    summary.json         what was found (`Summary`)
    samples.safetensors  per-sample results: y, clean, adversarial, success, distance, x_adv
    gallery.safetensors  the pictures of `Summary.gallery`: x, x_adv, before, after, (G, *D) each
    reasons.safetensors  likewise, of `Summary.reasons.gallery`, where explanations were attacked
    attention.safetensors  likewise, of `Summary.attention.gallery`; before and after are (G, h, w)
    chunks/              the work done so far, one file a chunk, by stage
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unfooled.core.checks import BadInput
from unfooled.core.files import write_whole

R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """Immutable, and strict about unknown fields, so that a typo in a file is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A share of n samples with its 95 % interval (Clopper-Pearson); value is None where n = 0."""

    value: float | None
    low: float
    high: float
    n: int


class Mean(Record):
    """A mean over n samples with its 95 % interval (bootstrap); all None where n = 0."""

    value: float | None
    low: float | None
    high: float | None
    n: int


class Passes(Record):
    """Model passes per sample."""

    forward: float
    backward: float


class CurvePoint(Record):
    """Accuracy when an adversary may use radius eps."""

    eps: float
    accuracy: Estimate


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


class Example(Record):
    """One row of the gallery; pictures are rows of gallery.safetensors in the same order."""

    index: int
    label: int
    clean: int
    adversarial: int
    clean_confidence: float | None
    adversarial_confidence: float | None
    fooled: bool
    distance: float | None
    psnr: float | None
    similarity: float | None


class Finding(Record):
    """One check of the verdict.

    Attributes:
        id: D1 to D25, as in the documentation of the diagnostics.
        fired: whether something was found.
        detail: what was seen, in words.
        action: what was done about it; empty where nothing fired.
        value, threshold: the figure that decides, where there is one.
    """

    id: str
    fired: bool
    detail: str
    action: str
    value: float | None = None
    threshold: float | None = None


class Progress(Record):
    """The attack after one of its stages: passes a sample so far, and the accuracy that is left."""

    stage: str
    forward: float
    backward: float
    accuracy: float
    taken: int
    closed: int


class Nearness(Record):
    """How near the nearest adversarial examples are, in one norm.

    Attributes:
        norm: "l0", "l1", "l2" or "linf".
        n: samples looked at; those that are wrong when clean count with distance 0.
        reached: share for which an adversarial example was found at all.
        quartiles: 25, 50 and 75 % of the distances; None where that share was not reached.
        classes: the median by true class, in the order of the classes; None where there is no sample or no median.
        curve: (distance, share of samples that are right up to it), at most 64 points.
    """

    norm: str
    n: int
    reached: Estimate
    quartiles: tuple[float | None, float | None, float | None]
    classes: list[float | None]
    curve: list[tuple[float, float]]


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
    curve: list[ReasonPoint] = []
    chance: Mean | None = None
    threshold: float = 0.5
    reason_first: Estimate | None = None
    label_first: Estimate | None = None
    neither: Estimate | None = None
    passes: Passes = Passes(forward=0.0, backward=0.0)
    gallery: list[ReasonExample] = []

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
    gallery: list[AttentionExample] = []


class Environment(Record):
    """Where the run was made."""

    unfooled: str
    python: str
    torch: str
    numpy: str
    platform: str
    device: str
    threads: int

    @classmethod
    def here(cls, device: str) -> Environment:
        """Describe this process."""
        import numpy
        import torch

        import unfooled

        return cls(
            unfooled=unfooled.__version__,
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=numpy.__version__,
            platform=f"{platform.system()} {platform.machine()}",
            device=device,
            threads=torch.get_num_threads(),
        )


class Config(Record):
    """What was asked. Two runs with equal configurations have the same verdicts; speed settings do not belong here.

    Attributes:
        model, data: the sources, as given; `fingerprint` tells their content.
        options: all else that changes a verdict, by name.
        fingerprint: hashes of the model's logits and of the data.
    """

    model: str
    data: str
    n: int
    threat: str
    seed: int
    options: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)


class Summary(Record):
    """What an audit found. `passes` counts the attack over n; diagnostics, nearest points (over n,
    too) and explanations are counted apart.

    `verdict` is SOUND (nothing speaks against the figure), EXTENDED (something did; the attack went on until nothing
    did), OVERSTATED (the true figure is probably lower) or NOT EVALUABLE; `trusted` is true for the first two, and
    `because` says why in words. `robust_accuracy_8bit` is judged on images rounded to 8 bits, where the clean ones are.

    `confusion` counts samples by true class and class under attack. Above 100 classes it is empty, and
    `confusion_entries` holds (true, under attack, count) where the count is not 0.
    """

    schema_version: int = 1
    title: str
    model: str
    data: str
    n: int
    threat: str
    seed: int
    clean_accuracy: Estimate
    robust_accuracy: Estimate
    robust_accuracy_8bit: Estimate | None = None
    verdict: str = ""
    trusted: bool = False
    because: str = ""
    diagnostics: list[Finding] = []
    diagnostic_passes: Passes = Passes(forward=0.0, backward=0.0)
    nearest_passes: Passes = Passes(forward=0.0, backward=0.0)
    effort: str = ""
    progress: list[Progress] = []
    nearest: list[Nearness] = []
    attack_success_rate: Estimate
    passes: Passes
    explanation_passes: Passes
    seconds: float
    warnings: list[str]
    attack: str
    curve: list[CurvePoint]
    curve_n: int
    confusion: list[list[int]]
    confusion_entries: list[tuple[int, int, int]] = []
    classes: list[str]
    psnr: Mean
    ssim: Mean
    noise: Mean
    noise_unit: str
    movements: list[Movement]
    explanation: str
    reasons: Reasons | None = None
    attention: Attention | None = None
    gallery: list[Example]
    limits: list[str]
    command: str
    created: str
    options: dict[str, Any]
    environment: Environment


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, whole."""
    write_whole(path, (record.model_dump_json(indent=2) + "\n").encode())


def read_record(path: Path, kind: type[R]) -> R:
    """Read a record.

    Raises:
        BadInput: the file is missing, is not JSON or holds something else.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as e:
        raise BadInput(f"cannot read {path}: {e.strerror or e}") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path} is not a {kind.__name__.lower()}: {where}: {first['msg']}") from e
