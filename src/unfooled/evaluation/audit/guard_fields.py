"""Records of an audit of a model behind a purifier."""

from __future__ import annotations

from pydantic import Field

from unfooled.evaluation.checks.verdict import Trust
from unfooled.runs.records import Count, Part, Passes, Record, Size
from unfooled.statistics.intervals import Estimate, Mean


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
            every kappa, at the static points and at those of all attacks.
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


class PurifiedExample(Record):
    """A sample whose purification is shown; pictures are rows of purified.safetensors in the same order.

    Attributes:
        index: Position among the audited samples.
        label: Its class.
        prediction: Class predicted at the attacked point, behind the purifier.
        fooled: True if the sample is right and its attacked point is not.
        cluster: Nearest cluster of the sample. None: there are no clusters.
        attacked_cluster: Nearest cluster of the attacked point, whose atoms are shown.
        cluster_label: Class of that cluster.
    """

    index: Count
    label: Count
    prediction: Count
    fooled: bool
    cluster: Count | None = None
    attacked_cluster: Count | None = None
    cluster_label: Count | None = None


class ClassClusters(Record):
    """Number of clusters of one class."""

    label: Count
    clusters: int = Field(ge=1)


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
        examples: Samples whose purification is shown; empty where samples are no images.
        clusters: Number of clusters of each class; empty where there are none.
        beside: Passes per sample of the attacks on the bare model, on the detectors and on the choice of a dictionary,
            which are no part of `Summary.passes`.
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
    examples: list[PurifiedExample] = Field(default_factory=list, max_length=100)
    clusters: list[ClassClusters] = Field(default_factory=list, max_length=100_000)
    beside: Passes = Passes(forward=0.0, backward=0.0)

    @property
    def not_stated(self) -> str:
        """Words that stand in the place of robust accuracy; empty where it is stated."""
        return f"not stated (missing: {', '.join(self.missing)})" if self.missing else ""


def purifier_sentence(guard: Guard, verdict: str) -> str:
    """Return one or two sentences on what a purifier adds, or on why this is not stated."""
    if verdict == Trust.NOT_EVALUABLE and not guard.missing:
        return f"What the purifier adds is not stated: the verdict is {verdict}."
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
    most = "at most " * (verdict == Trust.OVERSTATED)
    text = (
        f"Under the worst attack the purifier adds {most}{100 * value:+.1f} points{within} over the bare network, "
        f"{outcome}: {worst:.1f} % against {bare:.1f} %, paired, n = {guard.adds.n}."
    )
    apart = guard.static_minus_worst
    if apart is None or apart.value is None:
        return text
    return f"{text} Static minus worst: {100 * apart.value:+.1f} points."
