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
    chunks/                the work done so far, one file per chunk, by stage
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from unfooled.attacks.ensembles.progress import Progress
from unfooled.evaluation.audit.possible import check_class_names, check_threat_text, check_verdict
from unfooled.evaluation.audit.shown import Shown
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.checks.verdict import Trust
from unfooled.evaluation.explanations.records import Attention, Movement, Reasons
from unfooled.runs.records import Count, Environment, Part, Passes, Record, Size
from unfooled.statistics.intervals import Estimate, Mean

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


class GuardRow(Record):
    """One attack on a model behind a purifier, by itself.

    Attributes:
        key: Name in records, such as "bpda".
        name: Name on the page.
        accuracy: Share of the attacked samples that are right under this attack alone.
    """

    key: str
    name: str
    accuracy: Estimate


class Submissions(Record):
    """Accuracy of a random purifier at the attacks' points, each submitted several times.

    Attributes:
        count: Number of submissions.
        mean: Share of the submissions that are right.
        worst: Share of the samples that are right in all of them.
    """

    count: int = Field(ge=1)
    mean: Estimate
    worst: Estimate


class Roc(Record):
    """ROC of a score that detects attacked samples.

    Attributes:
        auroc: Area under the curve; .5 for a score that says nothing.
        detected: Share of the attacked samples above the threshold that 5 % of the clean ones exceed.
        curve: Some points (share of clean samples above a threshold, share of attacked ones), from (0, 0) to (1, 1).
    """

    auroc: Part
    detected: Part
    curve: list[tuple[Part, Part]] = Field(default_factory=list, max_length=100)


class Detector(Record):
    """A score of a purifier as a detector of attacks, on the first samples.

    Attributes:
        key: Name in records: "distance", "reconstruction" or "label-change".
        name: Name on the page.
        n: Number of samples.
        threshold: Score that 5 % of the clean samples exceed.
        static: Against points of the attack on the bare model, which know neither purifier nor detector.
        attacked: Against the points of all attacks on the guarded model, which do not know the detector.
        joint: Against a joint attack on label and detector, with the kappa that hides best.
        kappa: Weight of the detector in that attack.
        right_or_rejected: Share of the samples that are right, or above the threshold, under the joint attack with
            every kappa.
    """

    key: str
    name: str
    n: int = Field(ge=1)
    threshold: float
    static: Roc
    attacked: Roc
    joint: Roc
    kappa: float
    right_or_rejected: Estimate


class Choice(Record):
    """A purifier beside itself without its choice of a dictionary: shuffled among the clusters, or one for all of them.

    All get the same attack, short ascents through the purifier, so that these figures are higher than robust accuracy.

    Attributes:
        n: Number of samples, the first ones.
        own_static: Accuracy with the dictionary of the nearest cluster at the points of the attack on the bare model.
        shuffled_static: The same with the dictionaries shuffled.
        own_attacked: Accuracy with the dictionary of the nearest cluster under the attack, and at those points.
        shuffled_attacked: The same with the dictionaries shuffled.
        adds: Difference of own_attacked and shuffled_attacked, paired.
        one_static: The same with one dictionary for all clusters, that of the cluster most samples are nearest to.
            None: not measured, as in records of earlier versions.
        one_attacked: The same under the attack, and at those points.
        one_adds: Difference of own_attacked and one_attacked, paired.
    """

    n: int = Field(ge=1)
    own_static: Estimate
    shuffled_static: Estimate
    own_attacked: Estimate
    shuffled_attacked: Estimate
    adds: Mean
    one_static: Estimate | None = None
    one_attacked: Estimate | None = None
    one_adds: Mean | None = None


class Guard(Record):
    """Results for a model behind a purifier, beside those of the same model without it; all on the same samples.

    Attributes:
        bare_clean: Clean accuracy without the purifier.
        bare_robust: Accuracy without the purifier, under the same cascade and at the points made for the guarded model.
        static: Accuracy behind the purifier at the points of an attack on the bare model; never robust accuracy.
        worst: Accuracy behind the purifier under all attacks together. None: one of them is missing.
        adds: Difference of worst and bare_robust, paired. None: one of them is missing.
        static_minus_worst: Difference of static and worst, paired. None: one of them is missing.
        rows: Attacks, each by itself.
        missing: Keys of the attacks without which there is no robust accuracy.
        left: Median of norm(P(x') - P(x)) / norm(x' - x) over the points that differ from the sample, in L2. None:
            none differs.
        left_n: Number of these points.
        own_cluster_clean: Share of the samples whose nearest cluster is of their class. None: there are no clusters.
        own_cluster_attacked: The same at the points of the attack on the assignment.
        differentiable: False: the purifier passes no gradient on to its input.
        submissions: Accuracy of a random purifier over repeated submissions. None: it is not random.
        choice: The purifier beside itself without its choice of a dictionary. None: it has no clusters to choose from.
        detectors: Scores of the purifier as detectors of attacks; empty where they were not judged.
    """

    bare_clean: Estimate | None = None
    bare_robust: Estimate | None = None
    static: Estimate | None = None
    worst: Estimate | None = None
    adds: Mean | None = None
    static_minus_worst: Mean | None = None
    rows: list[GuardRow] = Field(default_factory=list, max_length=100)
    missing: list[str] = Field(default_factory=list, max_length=100)
    left: Size | None = None
    left_n: Count = 0
    own_cluster_clean: Estimate | None = None
    own_cluster_attacked: Estimate | None = None
    differentiable: bool = True
    submissions: Submissions | None = None
    choice: Choice | None = None
    detectors: list[Detector] = Field(default_factory=list, max_length=10)

    @property
    def not_stated(self) -> str:
        """Words that stand in the place of robust accuracy; empty where it is stated."""
        return f"not stated (missing: {', '.join(self.missing)})" if self.missing else ""


def purifier_sentence(guard: Guard) -> str:
    """Return one or two sentences on what a purifier adds, or on why this is not stated."""
    if guard.adds is None or guard.adds.value is None or guard.worst is None or guard.bare_robust is None:
        static = guard.static.value if guard.static is not None else None
        shown = "" if static is None else f" Static: {100 * static:.1f} %, which is no robust accuracy."
        return f"What the purifier adds is {guard.not_stated or 'not available'}.{shown}"
    value, low, high = guard.adds.value, guard.adds.low, guard.adds.high
    within, outcome = "", "undecided"
    if low is not None and high is not None:
        within = f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        outcome = "a gain" if low > 0 else "a loss" if high < 0 else outcome
    worst, bare = (100 * (e.value or 0.0) for e in (guard.worst, guard.bare_robust))
    text = (
        f"Under the worst attack the purifier adds {100 * value:+.1f} points{within} over the bare network, {outcome}: "
        f"{worst:.1f} % against {bare:.1f} %, paired, n = {guard.adds.n}."
    )
    apart = guard.static_minus_worst
    if apart is None or apart.value is None:
        return text
    return f"{text} Static minus worst: {100 * apart.value:+.1f} points."


class Efficiency(Record):
    """Use of the model by the attack on the label.

    Attributes:
        calls: Calls of the model.
        rows: Mean number of samples per call.
        share: Share of the attack's time that its passes take in full batches, without the attack around them; at
            most 1, also where the machine was busier while they were timed. None: not measured.
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
        return self
