"""Plan of an audit, composed of small frozen values: the attack, the nearest points, the explanation, the attack on it.

A stage of an audit takes its value and no other. `Plan` also takes every option as a flat keyword, such as `nearest_n`;
each field of a value names its keyword, and `PlanOptions` lists the keywords for type checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from inspect import Parameter, Signature
from typing import Any, TypedDict, TypeVar, Unpack

from torch import Tensor

from unfooled.attacks.ensembles.cascade import NORMAL, Certify, Effort, fitted
from unfooled.attacks.ensembles.stages import Stage, UserAttack
from unfooled.certification.certify import effort_of
from unfooled.certification.smoothed import Smoothing
from unfooled.core.checks import check_number
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack
from unfooled.core.threats import Threat
from unfooled.core.types import Explain
from unfooled.evaluation.checks.after import MIN_BUDGET
from unfooled.explanations.gradients import saliency
from unfooled.explanations.paths import integrated_gradients
from unfooled.runs.spelling import as_json

V = TypeVar("V", "LabelAttack", "NearestPoints", "Explaining", "ExplanationAttack")


def _at_least_one(value: Any, *names: str) -> None:
    for f in fields(value):
        if f.name in names and getattr(value, f.name) < 1:
            raise BadInput(f"the plan's {f.metadata['keyword']} is {getattr(value, f.name)}; it must be at least 1")


@dataclass(frozen=True)
class LabelAttack:
    """The attack on the label.

    Attributes:
        effort: Effort of the cascade.
        attack: Budget attack that runs instead of the cascade. None: the cascade.
        name: Name of the attack in the report; empty for the cascade.
        whole: Attack on all samples at once, with stages of its own. None: there is none.
        certify: Effort of the proofs, "quick", "normal" or "thorough", or a function that returns which samples are
            proven robust; or a `Smoothing`, as text "smoothing:0.25", whose figures stand beside the verdict. None:
            nothing is certified.
        floor: Least budget of the checks, in passes of the whole run; a tenth of the attack's passes if that is more.
        torch_compile: True: the cascade asks a copy of the network that torch.compile has compiled.
    """

    effort: Effort = field(default=NORMAL, metadata={"keyword": "effort"})
    attack: Attack | None = field(default=None, metadata={"keyword": "attack"})
    name: str = field(default="", metadata={"keyword": "attack_name"})
    whole: Attack | None = field(default=None, metadata={"keyword": "whole"})
    certify: str | Smoothing | Certify | None = field(default=None, metadata={"keyword": "certify"})
    floor: int = field(default=MIN_BUDGET, metadata={"keyword": "floor"})
    torch_compile: bool = field(default=False, metadata={"keyword": "torch_compile"})

    def __post_init__(self) -> None:
        if not isinstance(self.effort, Effort):
            raise BadInput(
                f"the plan's effort is {self.effort!r}; give QUICK, NORMAL, THOROUGH or an Effort of your own"
            )
        if self.torch_compile and not self.is_cascade:
            raise BadInput("the plan's torch_compile belongs to the cascade; leave it out beside another attack")
        if isinstance(self.certify, str):
            smoothing = Smoothing.of(self.certify)
            if smoothing is None:
                effort_of(self.certify)
            else:
                object.__setattr__(self, "certify", smoothing)

    @property
    def is_cascade(self) -> bool:
        """True for the cascade, which is extended where a check asks for it; False for another attack."""
        return self.attack is None and self.whole is None

    @property
    def label(self) -> str:
        """Text that the report shows."""
        return f"cascade, {self.effort.name}" if self.is_cascade else self.name or "custom"

    def stages(self, threat: Threat) -> tuple[Stage, ...]:
        """Return the stages that are run against the survivors."""
        return fitted(self.effort.stages, threat) if self.attack is None else (UserAttack(self.attack),)


@dataclass(frozen=True)
class NearestPoints:
    """The search for the nearest adversarial examples, and the curve that is read off them.

    Attributes:
        n: Number of samples searched, the first ones.
        budget: Passes per sample and norm of a search from the sample itself; one from the attack's point takes fewer.
        norms: Norms of the search. None: the threat's own.
        radii: Radii of the curve, in multiples of eps.
        precision: Half the width of the median's interval, relative to the median, at which no further samples are
            searched, after the first 64 and where the attack has fooled all others; 0: all of the n are.
    """

    n: int = field(default=200, metadata={"keyword": "nearest_n"})
    budget: int = field(default=400, metadata={"keyword": "nearest_budget"})
    norms: Sequence[float] | None = field(default=None, metadata={"keyword": "norms"})
    radii: Sequence[float] = field(default=(0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), metadata={"keyword": "radii"})
    precision: float = field(default=0.1, metadata={"keyword": "nearest_precision"})

    def __post_init__(self) -> None:
        _at_least_one(self, "n")
        if not self.precision >= 0:
            raise BadInput(f"the plan's nearest_precision is {self.precision}; it must be at least 0")


@dataclass(frozen=True)
class Explaining:
    """The explanations before and after the attack.

    Attributes:
        explain: The explanation.
        name: Name of the explanation in the report.
        n: Number of samples explained, the first ones.
        gallery: Number of examples drawn in the report.
    """

    explain: Explain = field(default=integrated_gradients, metadata={"keyword": "explain"})
    name: str = field(default="integrated gradients", metadata={"keyword": "explain_name"})
    n: int = field(default=100, metadata={"keyword": "explain_n"})
    gallery: int = field(default=12, metadata={"keyword": "gallery"})

    def __post_init__(self) -> None:
        _at_least_one(self, "n")


@dataclass(frozen=True)
class ExplanationAttack:
    """The attack on an explanation, label kept; its objective moves mass out of the LENS neighbourhood.

    Attributes:
        explain: The explanation.
        name: Name of the explanation in the report.
        n: Largest number of samples attacked, the first that are right when clean.
        radii: Radii, in multiples of eps.
        steps: Gradients per restart.
        restarts: Random starts.
        half_width: Half the width of the interval of the mean LENS at which no further samples are attacked; 0: all of
            the n are.
        share: Share of the audit's passes beyond which no further samples are attacked, after the first 8; 1: all of
            the n are.
    """

    explain: Callable[..., Tensor] = field(default=saliency, metadata={"keyword": "reasons"})
    name: str = field(default="saliency", metadata={"keyword": "reasons_name"})
    n: int = field(default=32, metadata={"keyword": "reasons_n"})
    radii: Sequence[float] = field(default=(0.25, 0.5, 1.0), metadata={"keyword": "reasons_radii"})
    steps: int = field(default=20, metadata={"keyword": "reasons_steps"})
    restarts: int = field(default=1, metadata={"keyword": "reasons_restarts"})
    half_width: float = field(default=0.1, metadata={"keyword": "reasons_half_width"})
    share: float = field(default=0.25, metadata={"keyword": "reasons_share"})

    def __post_init__(self) -> None:
        _at_least_one(self, "n", "steps", "restarts")
        if not (self.radii and min(self.radii) > 0):
            raise BadInput(f"the plan's reasons_radii are {self.radii}; give at least one, all above 0")
        if not self.half_width >= 0:
            raise BadInput(f"the plan's reasons_half_width is {self.half_width}; it must be at least 0")
        if not 0 < self.share <= 1:
            raise BadInput(f"the plan's reasons_share is {self.share}; it must be above 0 and at most 1")


VALUES = (LabelAttack, NearestPoints, Explaining, ExplanationAttack)
KEYWORDS = {f.metadata["keyword"]: f for value in VALUES for f in fields(value)}
"""The flat keywords of `Plan`, and the fields that they give."""


class PlanOptions(TypedDict, total=False):
    """The flat keywords of `Plan`, where they are documented."""

    effort: Effort
    attack: Attack | None
    attack_name: str
    whole: Attack | None
    certify: str | Smoothing | Certify | None
    floor: int
    torch_compile: bool
    nearest_n: int
    nearest_budget: int
    norms: Sequence[float] | None
    radii: Sequence[float]
    nearest_precision: float
    explain: Explain
    explain_name: str
    explain_n: int
    gallery: int
    reasons: Callable[..., Tensor] | None
    reasons_name: str
    reasons_n: int
    reasons_radii: Sequence[float]
    reasons_steps: int
    reasons_restarts: int
    reasons_half_width: float
    reasons_share: float


@dataclass(frozen=True, init=False)
class Plan:
    """Plan of an audit. Every field but `budget` belongs to the figures of a finished run, and is recorded.

    The flat keywords below change fields of the four values, whose defaults hold otherwise.

    Args:
        effort: Effort of the cascade: `QUICK`, `NORMAL`, `THOROUGH` or your own.
        attack: Budget attack with its options bound, run instead of the cascade; it is not extended. None: the cascade.
        attack_name: Name of that attack in the report.
        whole: Attack on all samples at once, with stages of its own, such as `autoattack`; otherwise like `attack`.
        certify: Effort of the proofs, "quick", "normal" or "thorough", or a function that returns which samples are
            proven robust; all but 32 of these are not attacked. A `certification.Smoothing`, as text "smoothing:0.25",
            proves the smoothed classifier instead, whose figures stand beside the verdict. None: nothing is certified.
        floor: Least budget of the checks, in passes of the whole run; a tenth of the attack's passes if that is more.
        torch_compile: True: the cascade asks a copy of the network that torch.compile has compiled, which takes a
            minute or so and pays on a GPU with many samples; verdicts are of the network as given. A warning says
            where that does not work.
        nearest_n: Largest number of samples whose nearest adversarial examples are searched, the first ones.
        nearest_budget: Passes per sample and norm for that search.
        norms: Norms of that search. None: the threat's own.
        radii: Radii of the curve, in multiples of eps.
        nearest_precision: Relative half-width of the median's interval at which no further samples are searched, after
            the first 64 and where the attack has fooled all others.
        explain: Explanation before and after the attack; integrated gradients by default.
        explain_name: Name of that explanation in the report.
        explain_n: Number of samples explained, the first ones.
        gallery: Number of examples drawn in the report.
        reasons: Explanation that is attacked itself, label kept; saliency by default, as the cheapest. None: none is.
        reasons_name: Name of that explanation in the report.
        reasons_n: Samples whose explanation is attacked at most, the first that are right when clean.
        reasons_radii: Radii of that attack, in multiples of eps.
        reasons_steps: Gradients per restart of that attack.
        reasons_restarts: Random starts of that attack.
        reasons_half_width: Half the width of the interval of the mean LENS at which no further samples are attacked.
        reasons_share: Share of the audit's passes beyond which no further samples are attacked, after the first 8.
        label_attack: The attack on the label, as a value.
        nearest: The search for the nearest adversarial examples, as a value.
        explaining: The explanations before and after the attack, as a value.
        explanation_attack: The attack on an explanation, as a value. None: there is none.
        budget: Seconds after which the audit goes no further: the summary says what was left out, and a verdict that is
            not complete is never trusted. A second start in the same folder goes on. None: no limit.

    Raises:
        BadInput: A number of samples, steps or restarts below 1, radii that are not above 0, or an unknown effort.
        TypeError: A keyword that does not exist.
    """

    label_attack: LabelAttack
    nearest: NearestPoints
    explaining: Explaining
    explanation_attack: ExplanationAttack | None
    budget: float | None

    def __init__(
        self,
        *,
        label_attack: LabelAttack = LabelAttack(),
        nearest: NearestPoints = NearestPoints(),
        explaining: Explaining = Explaining(),
        explanation_attack: ExplanationAttack | None = ExplanationAttack(),
        budget: float | None = None,
        **options: Unpack[PlanOptions],
    ) -> None:
        if budget is not None:
            check_number("the plan's budget, in seconds,", budget, above=0)
            budget = float(budget)
        if unknown := options.keys() - KEYWORDS.keys():
            raise TypeError(f"a plan has no option {min(unknown)!r}; it has {', '.join(KEYWORDS)}")
        if "reasons" in options:
            explanation_attack = None if options["reasons"] is None else explanation_attack or ExplanationAttack()
        attacked = None if explanation_attack is None else _changed(explanation_attack, options)
        object.__setattr__(self, "label_attack", _changed(label_attack, options))
        object.__setattr__(self, "nearest", _changed(nearest, options))
        object.__setattr__(self, "explaining", _changed(explaining, options))
        object.__setattr__(self, "explanation_attack", attacked)
        object.__setattr__(self, "budget", budget)

    def with_budget(self, seconds: float | None) -> Plan:
        """Return the plan with another budget of seconds."""
        return Plan(
            label_attack=self.label_attack, nearest=self.nearest, explaining=self.explaining,
            explanation_attack=self.explanation_attack, budget=seconds,
        )  # fmt: skip

    def with_options(self, **options: Unpack[PlanOptions]) -> Plan:
        """Return the plan with other options, by their flat keywords."""
        return Plan(
            label_attack=self.label_attack, nearest=self.nearest, explaining=self.explaining,
            explanation_attack=self.explanation_attack, budget=self.budget, **options,
        )  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON, for `Config.options`, without batch sizes, which change no figure."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "budget"}
        return {name: value and as_json(_without_batch(value), depth=1) for name, value in values.items()}


def _signature() -> Signature:
    """Return the parameters of `Plan`, flat keywords with their defaults first, for `help` and editors."""
    flat = [Parameter(k, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type) for k, f in KEYWORDS.items()]
    values = [p for p in Signature.from_callable(Plan.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return Signature([*flat, *values])


Plan.__signature__ = _signature()  # type: ignore[attr-defined]


def _changed(value: V, options: PlanOptions) -> V:
    """Return a value with the fields that the options give."""
    keywords = {f.name: f.metadata["keyword"] for f in fields(value)}
    given: dict[str, Any] = dict(options)
    return replace(value, **{name: given[keyword] for name, keyword in keywords.items() if keyword in given})


def _without_batch(value: V) -> V:
    """Return a value whose functions have no batch size bound to them."""
    bound = {f.name: getattr(value, f.name) for f in fields(value) if isinstance(getattr(value, f.name), partial)}
    for name, function in bound.items():
        keywords = {keyword: item for keyword, item in function.keywords.items() if keyword != "batch"}
        change: dict[str, Any] = {name: partial(function.func, *function.args, **keywords)}
        value = replace(value, **change)
    return value
