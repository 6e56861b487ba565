"""Records of an audit: every table and page is a pure function of them.

A run folder holds

    config.json            the configuration (`Config`); restarting the run with another one is refused
    summary.json           the results (`Summary`)
    samples.safetensors    results by sample: y, clean (predicted class), adversarial (class predicted under attack),
                           success, distance, x_adv
    gallery.safetensors    the pictures of `Summary.gallery`: x, x_adv, before, after, (G, *D) each
    nearest.safetensors    likewise, of `Summary.nearest_gallery`, where nearest points were found
    reasons.safetensors    likewise, of `Summary.reasons.gallery`, where explanations were attacked
    attention.safetensors  likewise, of `Summary.attention.gallery`; before and after are (G, h, w)
    purified.safetensors   likewise, of `Summary.guard.examples`; before and after are x and x_adv, purified; with
                           clusters also the bands low, high and rebuilt of x_adv, and atoms (G, A, C, size, size)
    chunks/                the work done so far, one file per chunk, by stage
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from unfooled.evaluation.audit.guard_fields import Guard
from unfooled.evaluation.audit.possible import check_class_names, check_threat_text, check_verdict
from unfooled.evaluation.audit.shown import Shown
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.checks.verdict import Trust
from unfooled.evaluation.explanations.records import Attention, Movement, Reasons
from unfooled.runs.progress import Progress
from unfooled.runs.records import Count, Environment, Part, Passes, Record, Size
from unfooled.statistics.intervals import Estimate, Mean

OF_THE_VERDICT = (
    "the rest of the attack",
    "the nearest points",
    "the checks after the attack",
    "the attack that the checks asked for",
)
"""Names of what an audit may have had no time for, of that without which no verdict is trusted."""
MAX_ENTRIES = 10_000
"""Largest number of entries of a list that the page shows."""


class CurvePoint(Record):
    """Accuracy against attacks of radius eps.

    Attributes:
        eps: Radius.
        accuracy: Share of the samples that are classified correctly at every point tried.
        no_answer: Share of the samples with a point at which the logits are not finite, and no misclassified point.
    """

    eps: Size
    accuracy: Estimate
    no_answer: Part = 0.0


class ClassEnds(Record):
    """Both ends of robust accuracy for a class, as numbers of samples.

    Attributes:
        label: The class.
        n: Its samples.
        unbroken: Those that are right and were not fooled.
        certified: Those that are proven robust.
    """

    label: Count
    n: Count
    unbroken: Count
    certified: Count

    @model_validator(mode="after")
    def _possible(self) -> ClassEnds:
        if not self.certified <= self.unbroken <= self.n:
            raise ValueError(f"{self.certified} certified, {self.unbroken} unbroken and {self.n} samples of a class")
        return self


class Example(Record):
    """A row of the gallery; pictures are rows of gallery.safetensors in the same order."""

    index: Count
    label: Count
    clean: Count
    adversarial: Count
    clean_confidence: Part | None
    adversarial_confidence: Part | None
    fooled: bool
    distance: Size | None
    psnr: float | None
    similarity: float | None


class Nearness(Record):
    """Distances of the nearest adversarial examples, in one norm.

    Attributes:
        norm: "l0", "l1", "l2" or "linf".
        n: Number of samples; samples that are misclassified when clean count with distance 0.
        reached: Share of the samples for which an adversarial example was found.
        quartiles: Quartiles of the distances. None: fewer samples have an adversarial example.
        classes: Median by true class, in the order of the classes. None: the class has no sample, or no finite median.
        curve: (distance, share of samples classified correctly up to it), at most 64 points.
        interval: 95 % interval of the median where some samples lose their answer, and not their label, within the
            distance; then the curve is of both. None: it follows from the curve, or an end is unknown.
    """

    norm: str
    n: Count
    reached: Estimate
    quartiles: tuple[Size | None, Size | None, Size | None]
    classes: list[Size | None]
    curve: list[tuple[Size, Part]] = Field(max_length=MAX_ENTRIES)
    interval: tuple[Size, Size | None] | None = None


class Efficiency(Record):
    """Use of the model by the attack on the label.

    Attributes:
        calls: Calls of the model.
        rows: Mean number of samples per call.
        share: Share of the attack's time that as many passes of the model that it asks (the faster copy, if there is
            one) take in full batches, without the attack around them; above 1 where the machine was busier while they
            were timed. None: not measured, as of a black box.
        checks: Share of the audit's time that the checks took, with the twin. None: not measured.
        workers: Processes that shared the work of the last start.
        busy: Share of their time in which these worked at stages. None: one process, or not measured.
    """

    calls: Count
    rows: Size
    share: Size | None = None
    checks: Size | None = None
    workers: Count = 1
    busy: Size | None = None


class Smoothed(Record):
    """Figures of the smoothed classifier: the majority class of the audited one under noise.

    It is another classifier, so that these figures are no end of the audit's verdict. Each radius is too large with a
    probability of at most `failure`.

    Attributes:
        size: Standard deviation of the noise in L2, its scale in L1, entries or pixels that stay in L0.
        first: Draws that select the class.
        draws: Draws that bound its probability.
        failure: Probability that the radius of a sample is too large, at most.
        ceiling: Largest radius that these draws can give.
        clean_accuracy: Share of the samples whose majority is right; where it is not clear enough, it is not.
        certified_accuracy: Share of the samples that are right, and stay so within eps.
        abstained: Share of the samples without a clear majority.
        curve: Certified accuracy at other radii, up to the ceiling.
        passes: Passes per sample.
    """

    size: Size
    first: Count
    draws: Count
    failure: Part
    ceiling: Size
    clean_accuracy: Estimate
    certified_accuracy: Estimate
    abstained: Part
    curve: list[CurvePoint] = Field(default_factory=list, max_length=MAX_ENTRIES)
    passes: Passes

    @model_validator(mode="after")
    def _possible(self) -> Smoothed:
        """Refuse figures that no classifier has."""
        clean, certified = self.clean_accuracy.value, self.certified_accuracy.value
        if clean is not None and certified is not None and certified > clean + 1e-6:
            raise ValueError(f"certified accuracy is {certified:g}, above clean accuracy, {clean:g}, when smoothed")
        return self


class Summary(Shown):
    """Results of an audit.

    Passes are per sample: `passes` those of the attack; `diagnostic_passes` (checks), `nearest_passes` (nearest points)
    and `explanation_passes` are counted separately, the last per sample explained.

    `verdict` is one of `Trust`: SOUND, EXTENDED, OVERSTATED or NOT EVALUABLE; `trusted` is true for the first two, and
    `because` says why in words. `no_answer` is the share of samples that are right when clean and not fooled, but have
    a point inside the threat at which the logits are not finite. `robust_accuracy_8bit` is measured on adversarial
    images rounded to 8 bits, if the clean images are 8-bit too.

    `access` is the part of the model that the attack could use: "gradients"; of a black box "scores" or "labels".

    `labels_predicted`: there were no labels, and the predicted classes were taken; clean accuracy is not stated then.

    `certified_accuracy` is the share of the samples that are right whatever the allowed change, by proof: a lower bound
    of robust accuracy, which is the upper one. `open` is the share that is neither proven nor broken. Both are None
    where nothing was certified. `proofs_tried` is the number of samples that proofs were tried for, where none of these
    was proven and so no other was tried; None: all were. `certified_curve` is what is proven at other radii, over the
    samples of `curve`; `certified_classes` has both ends by class, up to 100 classes.

    `smoothed` has the figures of the smoothed classifier, where it was asked for.

    `budget` is the time limit in seconds, if there was one; `left_out` names what there was no time for.

    `guard` belongs to a model behind a purifier. Where it lacks an attack, robust accuracy and what follows from it are
    not stated: their values are None.

    `confusion` counts samples by true class and class under attack, without those of `no_answer`. Above 100 classes it
    is empty, and `confusion_entries` holds (true, under attack, count) where the count is not 0.
    """

    schema_version: int = 1
    title: str
    model: str
    data: str
    n: Count
    threat: str
    seed: int
    clean_accuracy: Estimate
    robust_accuracy: Estimate
    robust_accuracy_8bit: Estimate | None = None
    certified_accuracy: Estimate | None = None
    open: Part | None = None
    proofs_tried: Count | None = None
    certified_curve: list[CurvePoint] = Field(default_factory=list, max_length=MAX_ENTRIES)
    certified_classes: list[ClassEnds] = Field(default_factory=list, max_length=MAX_ENTRIES)
    smoothed: Smoothed | None = None
    verdict: str = ""
    trusted: bool = False
    because: str = ""
    access: str = "gradients"
    labels_predicted: bool = False
    diagnostics: list[Finding] = Field(default_factory=list)
    diagnostic_passes: Passes = Passes(forward=0.0, backward=0.0)
    nearest_passes: Passes = Passes(forward=0.0, backward=0.0)
    effort: str = ""
    progress: list[Progress] = Field(default_factory=list, max_length=MAX_ENTRIES)
    nearest: list[Nearness] = Field(default_factory=list, max_length=100)
    attack_success_rate: Estimate
    no_answer: Estimate | None = None
    passes: Passes
    explanation_passes: Passes
    seconds: Size
    efficiency: Efficiency | None = None
    budget: Size | None = None
    left_out: list[str] = Field(default_factory=list, max_length=MAX_ENTRIES)
    warnings: list[str] = Field(max_length=MAX_ENTRIES)
    attack: str
    curve: list[CurvePoint] = Field(max_length=MAX_ENTRIES)
    curve_n: Count
    confusion: list[list[Count]]
    confusion_entries: list[tuple[Count, Count, Count]] = Field(default_factory=list)
    classes: list[str]
    psnr: Mean
    ssim: Mean
    noise: Mean
    noise_unit: str
    movements: list[Movement] = Field(max_length=MAX_ENTRIES)
    explanation: str
    reasons: Reasons | None = None
    attention: Attention | None = None
    guard: Guard | None = None
    gallery: list[Example] = Field(max_length=MAX_ENTRIES)
    nearest_gallery: list[Example] = Field(default_factory=list, max_length=MAX_ENTRIES)
    limits: list[str]
    command: str
    created: str
    options: dict[str, Any]
    environment: Environment

    @model_validator(mode="after")
    def _possible(self) -> Summary:
        """Refuse inconsistent figures and verdicts. An empty verdict is allowed: version 0.1 stored none."""
        if self.verdict and self.verdict not in list(Trust):
            raise ValueError(f"the verdict is {self.verdict!r}; there are {', '.join(Trust)}")
        if self.verdict and self.trusted != Trust(self.verdict).trusted:
            raise ValueError(f"the verdict is {self.verdict} and trusted {self.trusted}")
        clean, robust = self.clean_accuracy, self.robust_accuracy
        check_threat_text(self.threat)
        check_class_names(self.classes)
        if self.verdict:
            check_verdict(self.verdict, self.diagnostics, None if self.labels_predicted else clean.value, robust.value)
        if max(clean.n, robust.n) > self.n:
            raise ValueError(f"accuracy is of {max(clean.n, robust.n)} samples, and the audit of {self.n}")
        if clean.value is not None and robust.value is not None and robust.value > clean.value + 1e-6:
            raise ValueError(f"robust accuracy is {robust.value:g}, above clean accuracy, {clean.value:g}")
        certified = None if self.certified_accuracy is None else self.certified_accuracy.value
        if certified is not None and robust.value is not None and certified > robust.value + 1e-6:
            raise ValueError(f"certified accuracy is {certified:g}, above robust accuracy, {robust.value:g}")
        if self.smoothed is not None and self.smoothed.certified_accuracy.n > self.n:
            raise ValueError(
                f"certified accuracy is of {self.smoothed.certified_accuracy.n} samples, and the audit of {self.n}"
            )
        return self
