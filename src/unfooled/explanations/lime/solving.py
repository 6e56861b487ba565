"""Surrogate fits of samples that share their masks, with a fixed number of masks or until the result is stable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.checking import check_function, check_takes, plain
from unfooled.explanations.lime.equations import Gram, with_intercept
from unfooled.explanations.lime.findings import Flag, few_effective
from unfooled.explanations.lime.kernels import Kernel
from unfooled.explanations.lime.naming import setting_name
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.samplers import Design, Sampler
from unfooled.explanations.lime.surrogate import Fit, Prior, UntilStable, fewest_samples, fit

RIDGE = 1e-3  # about 1 / (sum of the weights) of LIME, whose penalty is 1 for all samples together


@dataclass(frozen=True, eq=False)
class Settings:
    """Settings of a surrogate's fit; see `lime_image`."""

    sampler: Sampler
    samples: int | UntilStable
    kernel: Kernel
    ridge: float | Prior | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse samplers and kernels that are no functions."""
        check_function(self.sampler, "sampler", "paired or by_size; for tables by_bins or hidden()")
        check_function(self.kernel, "kernel", "uniform or cosine_kernel(0.25)")

    @property
    def penalty(self) -> float:
        """The ridge, or the precision of the prior."""
        return self.ridge.precision if isinstance(self.ridge, Prior) else float(self.ridge or 0.0)

    def resolved(self, features: int) -> Settings:
        """Return the settings with a ridge in place of None: `RIDGE` where the samples suffice but are few.

        Samples that do not identify them are refused without a ridge of the user's, as for images and tables.
        """
        if self.ridge is not None:
            return self
        fewest = fewest_samples(features)
        count = max(self.samples.first, fewest) if isinstance(self.samples, UntilStable) else self.samples
        return replace(self, ridge=RIDGE if fewest <= count < few_effective(features) else 0.0)

    def mean(self, i: int, features: int) -> Tensor | None:
        """Return the prior's mean for sample i and this number of features, (1, M) or (1, T, M)."""
        if not isinstance(self.ridge, Prior):
            return None
        mean = self.ridge.mean[None] if self.ridge.mean.ndim == 1 else self.ridge.mean[i : i + 1]
        if mean.shape[-1] < features:
            raise BadInput(f"the prior's mean has {mean.shape[-1]} features, the sample {features}")
        return mean[..., :features]


def stopping(samples: int, until: UntilStable | None) -> int | UntilStable:
    """Return the number of samples, or the rule that decides it."""
    rule: Any = until
    if not isinstance(rule, (UntilStable, NoneType)):
        raise BadInput(f"until is {rule!r}; give a rule, such as until_stable(top=5), or a number as samples")
    number: int = plain(samples)
    return number if until is None else until


def shrinking(ridge: float | None, prior: Tensor | Prior | None) -> float | Prior | None:
    """Return the ridge, or the prior; a mean alone has the ridge as its precision.

    Raises:
        BadInput: A prior without a precision, or with two.
    """
    given: Any = ridge
    if isinstance(given, bool) or not isinstance(given, (int, float, np.number, NoneType)):
        raise BadInput(f"ridge is {ridge!r}; it is a number of at least 0")
    if prior is None:
        return ridge
    mean: Any = prior.mean if isinstance(prior, Prior) else prior
    if isinstance(mean, Tensor) and not bool(torch.isfinite(mean).all()):
        raise BadInput("the prior's mean holds NaN or infinite values; expected weights are finite")
    if isinstance(prior, Prior):
        if not isinstance(mean, Tensor) or not prior.precision > 0:
            raise BadInput(f"a prior has a mean, a tensor, and a precision above 0; this one's is {prior.precision!r}")
        if ridge:
            raise BadInput(f"the prior has the precision {prior.precision:g}, and ridge is {ridge:g}; give one of them")
        return prior
    if not isinstance(prior, Tensor) or not ridge or not ridge > 0:
        raise BadInput(
            "a prior is the expected weights, a tensor, with ridge above 0 as precision; or a Prior with both"
        )
    return Prior(prior, ridge)


@dataclass(frozen=True, eq=False)
class Solved:
    """Fit of one sample, with its masks, their weights, answers and flags."""

    fit: Fit
    masks: Tensor
    weights: Tensor
    answers: Tensor
    calls: int
    flags: tuple[Flag, ...]


@dataclass(frozen=True, eq=False)
class Solution:
    """Masks, and the linear map from answers to weights.

    Attributes:
        masks: Masks, (S, M).
        effect: The map, (M, S) float64.
        lower: Cholesky factor of the normal equations, (M + 1, M + 1).
    """

    masks: Tensor
    effect: Tensor
    lower: Tensor

    def shrunk(self, mean: Tensor, penalty: float) -> Tensor:
        """Return what the mean of a prior, (M,), with its precision adds to the weights, (M,)."""
        if len(mean) != self.masks.shape[1]:
            raise BadInput(f"the prior's mean has {len(mean)} values for {self.masks.shape[1]} segments of one class")
        target = torch.nn.functional.pad(penalty * mean.to("cpu", torch.float64), (1, 0))
        return torch.cholesky_solve(target[:, None], self.lower)[1:, 0]


def check_top(samples: Any, features: int) -> None:
    """Refuse a rule that separates more features than there are; the default number is cut to those there are."""
    if not isinstance(samples, UntilStable) or samples.tolerance is not None:
        return
    if max(1, features, UntilStable.top) < samples.top and features > 1:
        raise BadInput(
            f"until separates the top {samples.top} features from the others, and there are {features} features; give "
            f"a smaller top, below {features}, or a tolerance"
        )


def drawn(features: int, count: int, settings: Settings, start: int = 0) -> Design:
    """Draw `count` masks, the first with index `start`; refuse a count that is not a positive integer."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadInput(f"samples is {count!r}; it is a whole number of at least 1, or until_stable(...)")
    name, takes = "sampler", "(features, samples, seed, *, start)"
    check_takes(settings.sampler, name, takes, "paired or by_size", features, count, settings.seed, start=start)
    design: Any = settings.sampler(features, count, settings.seed, start=start)
    if not isinstance(design, Design):
        raise BadInput(f"sampler returned a {type(design).__name__}; return a Design(masks), as paired does")
    return design


def weights_of(features: int, settings: Settings) -> Solution:
    """Return the weights as a linear map of the answers, for designs of a fixed number of samples."""
    count = settings.samples
    assert isinstance(count, int)
    settings = settings.resolved(features)
    design = drawn(features, count, settings)
    _enough(features, design, settings)
    return effect_of(design.masks, design.weighed(settings.kernel), settings)


def effect_of(masks: Tensor, pi: Tensor, settings: Settings) -> Solution:
    """Return the weights as a linear map of the answers at masks, (S, M), which have the weights pi, (S,)."""
    features = masks.shape[1]
    gram = Gram(features, 0).add(masks, torch.zeros(len(masks), 0), pi)
    lower, _ = gram.factor(settings.penalty)
    scaled = with_intercept(masks).T * pi / gram.total
    return Solution(masks, torch.cholesky_solve(scaled, lower)[1:], lower)


def solve(
    answers: Callable[[int, Tensor], Tensor], rows: list[int], features: int, settings: Settings, prediction: Tensor
) -> dict[int, Solved]:
    """Fit the samples `rows`, which share their masks.

    Args:
        answers: Function from a sample's index and masks to model outputs, (S, T).
        rows: Indices of the samples.
        features: Their number of features.
        settings: Sampler, samples, kernel and penalty.
        prediction: Answers at the full input, (B, T), subtracted before the fit.
    """
    settings = settings.resolved(features)
    rule = settings.samples if isinstance(settings.samples, UntilStable) else None
    count: Any = settings.samples if rule is None else max(rule.first, fewest_samples(features, 2))
    design = drawn(features, count, settings)
    _enough(features, design, settings)
    answers_of = {i: answers(i, design.masks) for i in rows}
    if rule is None:
        return _fitted(answers_of, design, settings, prediction, {})
    done: dict[int, Solved] = {}
    while True:
        fitted = _fitted(answers_of, design, settings, prediction, {})
        pi = design.weighed(settings.kernel)
        stable = {
            i
            for i in answers_of
            if rule.reached(
                design.masks,
                answers_of[i],
                pi,
                fitted[i].fit,
                ridge=settings.penalty,
                groups=design.unit,
                prior=settings.mean(i, features),
            )
        }
        full = design.complete or 2 * len(design.masks) > rule.at_most
        for i in [i for i in answers_of if i in stable or full]:
            flag = Flag.STABLE if i in stable else Flag.NOT_REACHED
            done[i] = flagged(fitted[i], flag)
            del answers_of[i]
        if not answers_of:
            return done
        more = drawn(features, len(design.masks), settings, start=len(design.masks))
        answers_of = {i: torch.cat([y, answers(i, more.masks)]) for i, y in answers_of.items()}
        design = design.joined(more)


def flagged(part: Solved, flag: Flag, *, calls: int | None = None) -> Solved:
    """Return a fit with one more flag, and the number of calls it took where others than the last ones were needed."""
    return replace(part, flags=(*part.flags, flag), calls=part.calls if calls is None else calls)


def alone(part: Solved) -> Solved:
    """Return the fit of a single segment: nothing is compared, so that there is no R2, and nothing is stable."""
    none = torch.full_like(part.fit.r2, torch.nan)
    flags = tuple(flag for flag in part.flags if flag not in (Flag.STABLE, Flag.NOT_REACHED))
    return replace(part, fit=replace(part.fit, r2=none, r2_held_out=none), flags=(Flag.ONE, *flags))


def _enough(features: int, design: Design, settings: Settings) -> None:
    """Refuse draws that do not identify the weights."""
    needed = fewest_samples(features, design.unit) if design.unit else 0
    if not settings.penalty and len(design.masks) < needed:
        raise BadInput(
            f"{len(design.masks)} samples do not identify the weights of {features} features; "
            f"draw at least {needed}, or give a ridge"
        )


def _fitted(
    answers_of: dict[int, Tensor], design: Design, settings: Settings, prediction: Tensor, into: dict[int, Solved]
) -> dict[int, Solved]:
    """Fit all samples in `answers_of` at once, with one design; add the results to `into`."""
    rows, features = list(answers_of), design.masks.shape[1]
    means = [settings.mean(i, features) for i in rows]
    prior = torch.cat([mean for mean in means if mean is not None]) if isinstance(settings.ridge, Prior) else None
    base = prediction[rows].to(torch.float64)[:, None]
    pi = design.weighed(settings.kernel)
    joint = fit(
        design.masks,
        torch.stack([answers_of[i] for i in rows]) - base,
        pi,
        ridge=settings.penalty,
        prior=prior,
        groups=design.unit,
    )
    for k, i in enumerate(rows):
        own = {f.name: getattr(joint, f.name) for f in fields(joint)}
        own = {name: None if value is None else value[k : k + 1] for name, value in own.items()}
        own["intercept"] = own["intercept"] + base[k]
        flags = [Flag.SINGULAR] if bool(joint.singular[k]) else []
        flags += [Flag.FEW] if design.unit and float(joint.ess[k]) < few_effective(features) else []
        flags += [Flag.EVERY_MASK] if not design.unit else []
        into[i] = Solved(Fit(**own), design.masks, pi, answers_of[i], len(design.masks), tuple(flags))
    return into


def padded(fits: list[Fit]) -> tuple[Fit, list[int]]:
    """Join fits of different numbers of features, padded with zeros; also return the numbers of features."""
    numbers = [part.weights.shape[2] for part in fits]
    if len(fits) == 1:
        return fits[0], numbers
    most = max(numbers, default=0)

    def cat(name: str, wide: bool) -> Tensor:
        values = [getattr(part, name) for part in fits]
        if wide:
            values = [torch.nn.functional.pad(v, (0, most - v.shape[2])) for v in values]
        return torch.cat(values)

    names = {"weights": True, "se": True, "intercept": False, "r2": False, "r2_held_out": False}
    names |= {"ess": False, "singular": False}
    sd = None if not fits or fits[0].sd is None else cat("sd", True)
    return Fit(**{name: cat(name, wide) for name, wide in names.items()}, sd=sd), numbers


def solve_each(
    answers: Callable[[int, Tensor], Tensor], features: list[int], settings: Settings, prediction: Tensor
) -> list[Solved]:
    """Fit inputs that are evaluated one by one; those with the same number of features share their masks."""
    check_top(settings.samples, max(features, default=0))
    solved: dict[int, Solved] = {}
    for number in sorted(set(features)):
        solved |= solve(answers, [i for i, own in enumerate(features) if own == number], number, settings, prediction)
    return [solved[i] for i in range(len(features))]


def samples_of(parts: list[Solved], keep: bool) -> dict[str, Any]:
    """Return the masks and answers of each input for the result; nothing if they are not asked for."""
    if not keep:
        return {}
    return {"masks": tuple(part.masks for part in parts), "answers": tuple(part.answers for part in parts)}


def assembled(
    fits: tuple[list[Solved], Tensor, Tensor, Settings], local: Tensor | None = None, **fields_of_result: Any
) -> Surrogates:
    """Return the result of fits; the other fields of `Surrogates` are given by name.

    Args:
        fits: Fits, answers at the inputs (B, T), outputs explained (B, T), and the settings of the fits.
        local: Outputs of the surrogate at the inputs, (B, T). None: intercept plus the sum of the weights.
        fields_of_result: Other fields.
    """
    parts, prediction, labels, settings = fits
    joined, _ = padded([part.fit for part in parts])
    return Surrogates(
        weights=joined.weights,
        se=joined.se,
        intercept=joined.intercept,
        r2=joined.r2,
        r2_held_out=joined.r2_held_out,
        ess=joined.ess,
        prediction=prediction,
        local_prediction=joined.intercept + joined.weights.sum(2) if local is None else local,
        y=labels,
        sampler=setting_name(settings.sampler),
        kernel=setting_name(settings.kernel),
        seed=settings.seed,
        flags=tuple(part.flags for part in parts),
        sd=joined.sd,
        **fields_of_result,
    )
