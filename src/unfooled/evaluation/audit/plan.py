"""Plan of an audit as small frozen values: the attack, the nearest points, the explanation, the attack on it.

`Plan` takes all options as flat keywords and builds the values from them. It stays a flat dataclass, instead of holding
the values as fields, so that `dataclasses.replace(plan, nearest_n=50)`, the help of an editor and a type checker keep
working with the keywords that users write. The stages of an audit see the values alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor

from unfooled.attacks.ensembles.cascade import NORMAL, Certify, Effort, fitted
from unfooled.attacks.ensembles.stages import Given, Stage
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack
from unfooled.core.threats import Threat
from unfooled.core.types import Explain
from unfooled.evaluation.checks.after import FLOOR
from unfooled.explanations.gradients import saliency
from unfooled.explanations.paths import integrated_gradients
from unfooled.runs.spelling import spelled


@dataclass(frozen=True)
class LabelAttack:
    """The attack on the label.

    Attributes:
        effort: Effort of the cascade.
        attack: Budget attack that runs instead of the cascade. None: the cascade.
        whole: Attack on all samples at once, with stages of its own. None: there is none.
        name: Name of the attack in the report; empty for the cascade.
        certify: Function that returns which samples are proven robust. None: none are.
        floor: Passes that the checks may take, or a tenth of the attack's if that is more.
    """

    effort: Effort
    attack: Attack | None
    whole: Attack | None
    name: str
    certify: Certify | None
    floor: int

    @property
    def own(self) -> bool:
        """True for the cascade, which is extended where a check asks for it."""
        return self.attack is None and self.whole is None

    @property
    def label(self) -> str:
        """Text that the report shows."""
        return f"cascade, {self.effort.name}" if self.own else self.name or "custom"

    def stages(self, threat: Threat) -> tuple[Stage, ...]:
        """Return the stages that are run against the survivors."""
        return fitted(self.effort.stages, threat) if self.attack is None else (Given(self.attack),)

    def record(self, threat: Threat) -> dict[str, Any]:
        """Return the fields to record, functions by their spelling; a batch size changes no figure and is left out."""
        given = {"attack_options": self.attack or self.whole, "certify": self.certify}
        return {
            **{name: None if function is None else _without_batch(function) for name, function in given.items()},
            "attack": self.label,
            "effort": self.effort.name if self.own else "",
            "stages": [spelled(stage) for stage in self.stages(threat)] if self.own else [],
            "floor": self.floor,
        }


@dataclass(frozen=True)
class NearestPoints:
    """The search for the nearest adversarial examples, and the curve that is read off them.

    Attributes:
        n: Number of samples searched, the first ones.
        budget: Passes a sample and norm.
        norms: Norms of the search. None: the threat's own.
        radii: Radii of the curve, in multiples of eps.
    """

    n: int
    budget: int
    norms: Sequence[float] | None
    radii: Sequence[float]

    def __post_init__(self) -> None:
        _at_least_one("nearest_n", self.n)


@dataclass(frozen=True)
class Explaining:
    """The explanations before and after the attack.

    Attributes:
        explain: The explanation.
        name: Name of the explanation in the report.
        n: Number of samples explained, the first ones.
        gallery: Number of examples drawn in the report.
    """

    explain: Explain
    name: str
    n: int
    gallery: int

    def __post_init__(self) -> None:
        _at_least_one("explain_n", self.n)


@dataclass(frozen=True)
class ExplanationAttack:
    """The attack on an explanation, label kept; its objective moves mass out of the LENS neighbourhood.

    Attributes:
        explain: The explanation.
        name: Name of the explanation in the report.
        n: Number of samples attacked, the first that are right when clean.
        radii: Radii, in multiples of eps.
        steps: Gradients a restart.
        restarts: Random starts.
    """

    explain: Callable[..., Tensor]
    name: str
    n: int
    radii: Sequence[float]
    steps: int
    restarts: int

    def __post_init__(self) -> None:
        for option in ("n", "steps", "restarts"):
            _at_least_one(f"reasons_{option}", getattr(self, option))
        if not (self.radii and min(self.radii) > 0):
            raise BadInput(f"the plan's reasons_radii are {self.radii}; give at least one, all above 0")


def _at_least_one(option: str, number: int) -> None:
    if number < 1:
        raise BadInput(f"the plan's {option} is {number}; it must be at least 1")


@dataclass(frozen=True)
class Plan:
    """Plan of an audit. Every field can change a figure, so every field is recorded.

    Args:
        effort: Effort of the cascade: `QUICK`, `NORMAL`, `THOROUGH` or your own.
        attack: Budget attack with its options bound, run instead of the cascade; it is not extended. None: the cascade.
        attack_name: Name of that attack in the report.
        whole: Attack on all samples at once, with stages of its own, such as `autoattack`; otherwise like `attack`.
        certify: Function that returns which samples are proven robust; they are not attacked. None: none are.
        norms: Norms in which the nearest adversarial examples are searched. None: the threat's own.
        nearest_budget: Passes a sample and norm for that search.
        nearest_n: Number of samples of that search, the first ones.
        explain_n: Number of samples explained, the first ones.
        radii: Radii of the curve, in multiples of eps.
        explain: Explanation before and after the attack; integrated gradients by default.
        explain_name: Name of that explanation in the report.
        gallery: Number of examples drawn in the report.
        floor: Passes that the checks may take, or a tenth of the attack's if that is more.
        reasons: Explanation that is attacked itself, label kept; saliency by default, as the cheapest. None: none is.
        reasons_name: Name of that explanation in the report.
        reasons_n: Samples whose explanation is attacked, the first that are right when clean.
        reasons_radii: Radii of that attack, in multiples of eps.
        reasons_steps: Gradients a restart of that attack.
        reasons_restarts: Random starts of that attack.

    Raises:
        BadInput: A number of samples, steps or restarts below 1, or radii that are not above 0.
    """

    effort: Effort = NORMAL
    attack: Attack | None = None
    attack_name: str = ""
    whole: Attack | None = None
    certify: Certify | None = None
    norms: Sequence[float] | None = None
    nearest_budget: int = 400
    nearest_n: int = 200
    explain_n: int = 100
    radii: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    explain: Explain = integrated_gradients
    explain_name: str = "integrated gradients"
    gallery: int = 12
    floor: int = FLOOR
    reasons: Callable[..., Tensor] | None = saliency
    reasons_name: str = "saliency"
    reasons_n: int = 32
    reasons_radii: Sequence[float] = (0.25, 0.5, 1.0)
    reasons_steps: int = 20
    reasons_restarts: int = 1

    def __post_init__(self) -> None:
        _ = self.nearest, self.explaining, self.explanation_attack  # the values check themselves

    @property
    def label_attack(self) -> LabelAttack:
        """The attack on the label."""
        return LabelAttack(self.effort, self.attack, self.whole, self.attack_name, self.certify, self.floor)

    @property
    def nearest(self) -> NearestPoints:
        """The search for the nearest adversarial examples."""
        return NearestPoints(self.nearest_n, self.nearest_budget, self.norms, self.radii)

    @property
    def explaining(self) -> Explaining:
        """The explanations before and after the attack."""
        return Explaining(self.explain, self.explain_name, self.explain_n, self.gallery)

    @property
    def explanation_attack(self) -> ExplanationAttack | None:
        """The attack on an explanation. None: there is none."""
        if self.reasons is None:
            return None
        return ExplanationAttack(
            self.reasons, self.reasons_name, self.reasons_n, self.reasons_radii, self.reasons_steps,
            self.reasons_restarts,
        )  # fmt: skip

    def record(self, threat: Threat) -> dict[str, Any]:
        """Return every field as JSON values, by option, for `Config.options`."""
        attacked = self.explanation_attack
        return {
            **self.label_attack.record(threat),
            **recorded("nearest", self.nearest),
            **recorded("explain", self.explaining),
            **({"reasons": "none"} if attacked is None else recorded("reasons", attacked)),
        }


def _without_batch(function: Any) -> str:
    """Return the spelling of a function, without a batch size that is bound to it."""
    if isinstance(function, partial):
        keywords = {name: value for name, value in function.keywords.items() if name != "batch"}
        return spelled(partial(function.func, *function.args, **keywords))
    return spelled(function)


def recorded(prefix: str, value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON values, by option: `nearest_n`, and `reasons` for its `explain`.

    Args:
        prefix: Prefix of the options, and the option that gives the explanation.
        value: The dataclass.
    """
    names = {f.name: prefix if f.name == "explain" else f"{prefix}_{f.name}" for f in fields(value)}
    return {name: _json(getattr(value, field)) for field, name in names.items()}


def _json(value: Any) -> Any:
    """Return a value as JSON holds it, functions and infinite numbers by their spelling."""
    if isinstance(value, (list, tuple)):
        return [_json(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) or value is None else spelled(value)
