"""Values that the stages of an audit take and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import AttackState, Certify
from unfooled.attacks.ensembles.frontier import Problem
from unfooled.attacks.ensembles.keys import Ledger
from unfooled.certification.smoothing import SmoothedRadius
from unfooled.core.access import Access
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.evaluation.audit.guard_fields import Guard, PurifiedExample
from unfooled.evaluation.audit.records import Efficiency
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.guards import Way
from unfooled.evaluation.checks.memory import OriginalModel
from unfooled.evaluation.checks.subject import Subject
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.checks.verdict import Conclusion
from unfooled.evaluation.explanations.survival import AttackedExplanations
from unfooled.purification.guard import Guarded
from unfooled.runs.chunks import Rows
from unfooled.runs.progress import Progress


def finite(value: Tensor) -> float | None:
    """Return a number for a record; None where it is not finite."""
    return float(value) if bool(torch.isfinite(value)) else None


PREDICTED = (
    "There were no labels: the class that the model predicts was taken for each sample. Clean accuracy is not stated, "
    "and robust accuracy is the share of the predictions that no attack changed."
)
"""Warning of an audit without labels."""
JUDGE_DRAWS = 20
"""Fresh draws of a random model, whose majority decides."""


@dataclass(frozen=True, eq=False)
class Setting:
    """Model, samples and settings that all stages of an audit are given.

    Attributes:
        subject: Model under audit, as the checks see it.
        counted: The same model, counting its passes.
        original: The model before it was asked anything.
        x: Inputs, (n, *D).
        y: Labels, (n,).
        threat: Constraint set.
        seed: Random seed.
        batch: Samples computed at once.
        ledger: Store of the chunks, and counter of the passes.
    """

    subject: Subject
    counted: Counted
    original: OriginalModel
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int
    batch: int
    ledger: Ledger

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.x)

    @property
    def draws(self) -> int:
        """Evaluations of the model that decide on success."""
        return JUDGE_DRAWS if self.subject.random else 1

    def problem(self, gradients: Gradients) -> Problem:
        """Return the attack's problem, with the gradients that the checks ask for."""
        return Problem(
            self.counted, self.x, self.y, self.threat, gradients.attacked, gradients.draws, self.seed, self.batch,
            gradients.faster,
        )  # fmt: skip

    def at(self, rows: Tensor) -> Tensor:
        """Return positions on the device of the samples."""
        return rows.to(self.x.device)


@dataclass(frozen=True, eq=False)
class Clean:
    """Clean samples: predicted class, confidence, and share of the draws that are right, (n,) each.

    Attributes:
        drawn: Class predicted in a single draw of a random model, as a majority of draws would exaggerate what is more
            frequent. None: the model is not random.
    """

    prediction: Tensor
    confidence: Tensor
    right_share: Tensor
    drawn: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """Verdict on the points that the attack found, one entry per sample; see `Verdict` for the other fields.

    Attributes:
        x_adv: The points; x where they are not allowed.
        confidence: Confidence there.
        success_8bit: Success of the points rounded to 8 bits. None: the clean samples are no 8-bit images.
    """

    x_adv: Tensor
    inside: Tensor
    success: Tensor
    distance: Tensor
    undefined: Tensor
    prediction: Tensor
    confidence: Tensor
    right_share: Tensor
    success_8bit: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ThroughPurifier:
    """Result of the attacks on a model behind a purifier.

    Attributes:
        guarded: The model. None: it is inside another model, and its parts cannot be seen.
        missing: Attacks that robust accuracy needs and that were not run.
        state: State of the cascade, with the samples that the other attacks fooled.
        findings: Findings D29 and D30.
        notes: Sentences for the warnings.
        rows: Share of each sample's draws that are right under an attack by itself, (n,), by attack.
        counted: Number of the first samples that the row of an attack is about, by attack.
        bare: The model without the purifier.
        bare_points: Points of the attack on it, (n, *D). None: it was not attacked.
        misassigned: Points of the attack on the assignment, (n, *D). None: there was none.
        differentiable: False: the purifier passes no gradient on to its input.
    """

    guarded: Guarded | None
    missing: tuple[Way, ...]
    state: AttackState
    findings: list[Finding]
    notes: tuple[str, ...] = ()
    rows: Mapping[Way, Tensor] = field(default_factory=dict)
    counted: Mapping[Way, int] = field(default_factory=dict)
    bare: Model | None = None
    bare_points: Tensor | None = None
    misassigned: Tensor | None = None
    differentiable: bool = True


@dataclass(frozen=True, eq=False)
class Attacked:
    """Result of the attack on the label.

    Attributes:
        state: Final state of the attack: best points and progress.
        gradients: Gradients that it followed.
        nearest: Norm -> distances of the first samples' nearest adversarial examples.
        unanswered: Norm -> distances of their nearest points without a finite answer.
        findings: Findings on the way.
        again: Findings of the checks that were repeated after the attack went on.
        extended: True if it was allowed to go on, and a check asked for it.
        stopped: True if it was stopped at its limit of passes.
        notes: Sentences about what was left out.
        left_out: Names of what there was no time for.
        through: Attacks on a model behind a purifier. None: there is no purifier.
        certify: Function that certified samples. None: none were.
        nearest_points: The nearest adversarial examples in the threat's norm, of the first samples. None: not searched.
    """

    state: AttackState
    gradients: Gradients
    nearest: dict[float, Tensor]
    unanswered: dict[float, Tensor]
    findings: list[Finding]
    again: list[Finding]
    extended: bool
    stopped: bool = False
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    through: ThroughPurifier | None = None
    certify: Certify | None = None
    nearest_points: Tensor | None = None


@dataclass(frozen=True, eq=False)
class NearestShown:
    """Some nearest adversarial examples and their explanations, from the nearest to the farthest.

    Attributes:
        samples: Their samples, (k,).
        distance: Their distances in the threat's norm, (k,).
        rows: x, x_adv, before and after, (k, *D) each; prediction and confidence at x_adv, (k,).
    """

    samples: Tensor
    distance: Tensor
    rows: Rows


@dataclass(frozen=True, eq=False)
class PurifiedShown:
    """What a purifier does to some samples, k of them.

    Attributes:
        examples: Their records.
        pictures: x, x_adv, and both purified, before and after, (k, *D) each; with clusters also the bands of x_adv,
            low and high, its high band rebuilt, and the atoms that it was rebuilt from, (k, A, C, size, size).
    """

    examples: list[PurifiedExample]
    pictures: Rows


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of all stages of an audit, one entry per sample.

    Attributes:
        shown: Samples as they are shown, (n, *D): those of a bound model without their numbers.
        clean: Clean samples.
        attack: Points that the attack found.
        explain: Rows of `map_scores`, of the first samples.
        survival: Result of the attack on the explanations. None: there was none.
        right: Samples that are right when clean, (n,) bool.
        nearest: Norm -> distances of the first samples' nearest adversarial examples.
        nearest_unanswered: Norm -> distances of their nearest points without a finite answer.
        distance: Distances of the nearest points that any stage found in the threat's norm, for the same samples.
        unanswered: Distances of the nearest points without a finite answer, inf where none is known, (n,).
        random: True if the model is random, so that accuracies are means of the share of each sample's draws.
        findings: Findings, one per check.
        conclusion: Verdict and its reasons.
        progress: The curve of accuracy against passes.
        aside: Forwards and backwards of the checks that are no stages.
        notes: Sentences about what was left out.
        left_out: Names of what there was no time for.
        guard: Record of a model behind a purifier. None: there is no purifier.
        efficiency: Use of the model by the attack. None: there was no attack.
        access: Part of the model that the attack could use.
        certified: Samples that are proven robust, (n,) bool. None: nothing was certified.
        proofs_tried: Number of samples that proofs were tried for in vain, so that no other was. None: all were.
        reach: Largest radius at which each sample is proven, in multiples of eps, (n,). None: not known.
        nearest_shown: Nearest adversarial examples with their explanations. None: there are none to show.
        purified: Pictures of what a purifier does. None: there is no purifier, or nothing to show.
        smoothed: Answers of the smoothed classifier. None: not asked for, or there was no time.
    """

    shown: Tensor
    clean: Clean
    attack: Judged
    explain: Rows
    survival: AttackedExplanations | None
    right: Tensor
    nearest: dict[float, Tensor]
    nearest_unanswered: dict[float, Tensor]
    distance: Tensor
    unanswered: Tensor
    random: bool
    findings: list[Finding]
    conclusion: Conclusion
    progress: tuple[Progress, ...]
    aside: tuple[int, int]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    guard: Guard | None = None
    efficiency: Efficiency | None = None
    access: Access = Access.GRADIENTS
    certified: Tensor | None = None
    proofs_tried: int | None = None
    reach: Tensor | None = None
    nearest_shown: NearestShown | None = None
    purified: PurifiedShown | None = None
    smoothed: SmoothedRadius | None = None

    @property
    def fooled(self) -> Tensor:
        """Samples that are right when clean, and lost to an allowed point, (n,) bool."""
        return self.right & self.attack.success

    @property
    def no_answer(self) -> Tensor:
        """Samples that are right when clean, not fooled, and without an answer at an allowed point, (n,) bool."""
        return self.right & ~self.attack.success & self.attack.undefined
