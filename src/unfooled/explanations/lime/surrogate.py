"""Weighted linear surrogates by streaming normal equations, with sampling errors and held-out fit.

    z~ = (1, z)    G = sum_s pi_s z~_s z~_s'    C = sum_s pi_s z~_s y_s'    W = sum_s pi_s
    H = G / W + ridge diag(0, 1, .., 1)         beta = H^-1 (C / W + ridge (0, mu0))
    r = y - z~ beta    K = H^-1 / W    H_gg = Z_g K Z_g' Pi_g    e_g = (I - H_gg)^-1 r_g
    V = sum_g a_g a_g',  a_g = K Z_g' Pi_g e_g

z are the masks, y the answers, pi the weights, mu0 the mean of a prior (0 for a plain ridge), g the independent units
of the sampler: rows, or pairs. The penalty is per unit of weight, so that the target does not move with the number of
samples. e_g is the residual of a unit that was left out of the fit, without a refit; it gives the standard errors V
(clustered sandwich) and the held-out R2. Everything is float64. Features are selected from the centred normal equations
alone, R2_A = c_A' G_AA^-1 c_A / TSS, without a refit.

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938.
    Zhao et al., BayLIME, UAI 2021, arXiv:2012.03058 (the prior mean).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.blocks import blocks_of
from unfooled.explanations.lime.equations import Gram, with_intercept
from unfooled.explanations.lime.findings import few_effective
from unfooled.explanations.lime.rounding import rounding_errors


@dataclass(frozen=True, eq=False)
class Prior:
    """A prior of the weights, such as another explanation averaged over segments (BayLIME).

    Attributes:
        mean: Expected weights, (M,), (B, M) or (B, T, M).
        precision: Strength per unit of sample weight; the ridge.
    """

    mean: Tensor
    precision: float


@dataclass(frozen=True, eq=False)
class Fit:
    """Linear surrogates of B samples and T outputs.

    Attributes:
        weights: Weights of the features, (B, T, M).
        se: Their standard errors over the draws of the masks, (B, T, M); 0 where all masks were used.
        intercept: Intercepts, (B, T).
        r2: Weighted R2 of the samples used, (B, T); 1 for constant answers.
        r2_held_out: R2 of each unit predicted without it, (B, T).
        ess: Effective sample size, (sum pi)^2 / sum pi^2, (B,).
        singular: True where the masks alone do not identify the weights, (B,); a jitter, a ridge or a prior made the
            equations solvable.
        sd: Posterior standard deviations under a prior, (B, T, M). None: no prior.
    """

    weights: Tensor
    se: Tensor
    intercept: Tensor
    r2: Tensor
    r2_held_out: Tensor
    ess: Tensor
    singular: Tensor
    sd: Tensor | None = None

    def shifted(self, base: Tensor) -> Fit:
        """Return the fit of answers that are larger by `base`, (B, T)."""
        return replace(self, intercept=self.intercept + base)


def fewest_samples(features: int, unit: int = 1) -> int:
    """Return the fewest samples that identify a fit: M + 2, or 2 (M + 1) in pairs."""
    return 2 * (features + 1) if unit == 2 else features + 2


def fit(
    z: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    ridge: float = 0.0,
    prior: Tensor | None = None,
    groups: int | Tensor | None = None,
) -> Fit:
    """Fit linear surrogates to answers at masks.

    Args:
        z: Masks, (S, M) for all samples or (B, S, M).
        y: Answers, (B, S, T).
        weights: Weight of each mask, (S,) or (B, S). None: 1.
        ridge: Penalty on the squared weights, per unit of sample weight; with a prior, its precision.
        prior: Mean of the prior, (M,), (B, M) or (B, T, M). None: 0.
        groups: Independent units of the draw: number of consecutive rows (2 for pairs), 0 for a design without
            sampling error, or a label a row, (S,). None: rows.

    Returns:
        A `Fit`.

    Raises:
        BadInput: Shapes that do not agree, too few samples, or a prior without a positive ridge.

    Example:
        >>> z = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> fit(z, (3 * z[:, :1] - z[:, 1:] + 2.0)[None]).weights.round(decimals=6)
        tensor([[[ 3., -1.]]], dtype=torch.float64)
    """
    _check(z, y, weights, ridge, prior, groups)
    if z.ndim == 3:
        parts = [
            fit(
                z[i],
                y[i : i + 1],
                weights if weights is None or weights.ndim == 1 else weights[i],
                ridge=ridge,
                prior=prior if prior is None or prior.ndim == 1 else prior[i : i + 1],
                groups=groups,
            )
            for i in range(len(y))
        ]
        return joined(parts)
    count, samples, outputs = y.shape
    columns = y.to(torch.float64).permute(1, 0, 2).reshape(samples, -1)
    pi = torch.ones(samples, dtype=torch.float64) if weights is None else weights.to(torch.float64)
    mean = None if prior is None else _columns(prior, count, outputs)
    shift = columns.mean(0)
    design, centred = with_intercept(z), columns - shift
    gram = Gram(z.shape[1], columns.shape[1]).add_rows(design, centred, pi)
    return _Solved(gram, design, centred, pi, ridge, mean, groups).fit(shift, count, outputs)


def joined(parts: list[Fit]) -> Fit:
    """Join fits of the same number of features and outputs along the samples."""

    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    names = ("weights", "se", "intercept", "r2", "r2_held_out", "ess", "singular")
    return Fit(**{name: cat(name) for name in names}, sd=None if parts[0].sd is None else cat("sd"))


def _columns(mean: Tensor, count: int, outputs: int) -> Tensor:
    """Return the prior's mean by columns, (M, B T)."""
    mean = mean.to(torch.float64)
    mean = mean.expand(count, -1) if mean.ndim == 1 else mean
    mean = mean[:, None].expand(-1, outputs, -1) if mean.ndim == 2 else mean
    return mean.reshape(count * outputs, -1).T


def _check(
    z: Tensor, y: Tensor, weights: Tensor | None, ridge: float, prior: Tensor | None, groups: int | Tensor | None
) -> None:
    """Refuse shapes that do not agree, too few samples, and a prior without precision."""
    if z.ndim not in (2, 3) or y.ndim != 3 or z.shape[-2] != y.shape[1] or (z.ndim == 3 and len(z) != len(y)):
        raise BadInput(f"z has shape {tuple(z.shape)}, y {tuple(y.shape)}; write (S, M) or (B, S, M), and (B, S, T)")
    samples, features = z.shape[-2:]
    if weights is not None and (weights.shape not in ((samples,), (len(y), samples)) or bool((weights < 0).any())):
        raise BadInput(f"weights have shape {tuple(weights.shape)}; give {samples} numbers of at least 0")
    if weights is not None and not bool(torch.isfinite(weights).all()):
        raise BadInput("the weights hold NaN or infinite values; a kernel gives finite numbers of at least 0")
    if weights is not None and not bool((weights.sum(-1) > 0).all()):
        raise BadInput("the weights sum to 0: the kernel gives no mask any weight; choose a wider one")
    if weights is not None and weights.ndim == 2 and z.ndim == 2:
        raise BadInput("weights of each sample need masks of each sample, (B, S, M)")
    if not (math.isfinite(ridge) and ridge >= 0):
        raise BadInput(f"ridge is {ridge}; it must be at least 0")
    if prior is not None and not ridge > 0:
        raise BadInput(f"a prior needs a precision above 0, the ridge; it is {ridge}")
    if prior is not None and (prior.shape[-1] != features or prior.ndim > 3 or len(prior) not in (len(y), features)):
        raise BadInput(f"the prior's mean has shape {tuple(prior.shape)}; give (M,), (B, M) or (B, T, M), M {features}")
    exact = isinstance(groups, int) and groups == 0
    needed = features + 1 if exact else fewest_samples(features, groups if isinstance(groups, int) else 1)
    if not ridge and samples < needed:
        raise BadInput(f"{samples} samples do not identify {features} weights; draw at least {needed}, or give a ridge")
    if not torch.isfinite(y).all():
        raise BadInput("the answers hold NaN or infinite values; a linear surrogate needs finite ones")


@dataclass(frozen=True, eq=False)
class _Solved:
    """Normal equations with the samples that they came from."""

    gram: Gram
    design: Tensor
    y: Tensor
    pi: Tensor
    ridge: float
    mean: Tensor | None
    groups: int | Tensor | None

    def fit(self, shift: Tensor, count: int, outputs: int) -> Fit:
        """Return the fit; `shift` was taken off the answers."""
        lower, singular = self.gram.factor(self.ridge)
        singular = singular or (self.ridge > 0 and not self.gram.identified())
        beta = torch.cholesky_solve(self.gram.target(self.ridge, self.mean), lower)
        inverse = torch.cholesky_inverse(lower) / self.gram.total
        design = self.design
        residual = self.y - design @ beta
        blocks = blocks_of(len(design), self.groups)
        effect = design @ inverse
        left_out = blocks.left_out(design, effect, self.pi, residual)
        variance = blocks.variance(effect * self.pi[:, None], left_out)
        total = self.pi @ (self.y - (self.pi @ self.y) / self.gram.total) ** 2
        flat = total <= 1e-24 * self.gram.total * (self.y + shift).abs().amax(0) ** 2

        def r2(error: Tensor) -> Tensor:
            return torch.where(flat, torch.ones_like(total), 1 - self.pi @ error**2 / total.where(~flat, 1.0))

        def shaped(t: Tensor) -> Tensor:
            return t.T.reshape(count, outputs, -1)

        noise = self.pi @ residual**2 / self.gram.total
        sd = (noise * inverse.diagonal()[1:, None]).sqrt() if self.mean is not None else None
        exact = isinstance(self.groups, int) and self.groups == 0
        return Fit(
            weights=shaped(beta[1:]),
            se=torch.zeros_like(shaped(beta[1:])) if exact else shaped(variance[1:].clamp(min=0).sqrt()),
            intercept=(beta[0] + shift).reshape(count, outputs),
            r2=r2(residual).reshape(count, outputs),
            r2_held_out=r2(left_out).reshape(count, outputs),
            ess=torch.full((count,), self.gram.ess, dtype=torch.float64),
            singular=torch.full((count,), singular),
            sd=None if sd is None else shaped(sd),
        )


def contributions(
    z: Tensor,
    y: Tensor,
    weights: Tensor | None = None,
    *,
    ridge: float = 0.0,
    groups: int | Tensor | None = None,
    prior: Tensor | None = None,
) -> Tensor:
    """Return each unit's contribution to the error of the weights, (G, M), for one column of answers, (S,).

    The variance of a contrast c'v of the weights is the sum of (c'a_g)^2 over the units. `prior` is the mean of the
    prior, (M,).
    """
    pi = torch.ones(len(z), dtype=torch.float64) if weights is None else weights.to(torch.float64)
    column = (y - y.mean()).to(torch.float64)[:, None]
    design = with_intercept(z)
    gram = Gram(z.shape[1], 1).add_rows(design, column, pi)
    lower, _ = gram.factor(ridge)
    inverse = torch.cholesky_inverse(lower) / gram.total
    mean = None if prior is None else prior.to(torch.float64)[:, None]
    residual = column - design @ torch.cholesky_solve(gram.target(ridge, mean), lower)
    blocks = blocks_of(len(z), groups)
    effect = design @ inverse
    left_out = blocks.left_out(design, effect, pi, residual)
    return blocks.sums(effect * pi[:, None] * left_out)[:, 1:]


def select_forward(gram: Gram, count: int, *, column: int = 0) -> list[int]:
    """Return the features that greedily raise the weighted R2 most, in order; ties go to the lowest index.

    Args:
        gram: Normal equations.
        count: Number of features, at most M.
        column: Column of the answers.
    """
    g, c, _ = gram.centred()
    g, c = g.clone(), c[:, column].clone()
    floor = 1e-12 * float(g.diagonal().amax()) if len(g) else 0.0
    left, selected = torch.ones(len(g), dtype=torch.bool), []
    for _ in range(min(count, len(g))):
        pivots = g.diagonal()
        gain = torch.where(pivots > floor, c**2 / pivots.clamp(min=floor or 1.0), torch.zeros_like(c))
        j = int(gain.where(left, -1.0).argmax())
        selected.append(j)
        left[j] = False
        if float(g[j, j]) > floor:
            row = g[j] / g[j, j]
            c = c - row * c[j]
            g = g - g[:, j, None] * row
    return selected


def select_largest(weights: Tensor, count: int) -> list[int]:
    """Return the features of the largest |weight|, (M,), in order; ties go to the lowest index."""
    return weights.abs().argsort(descending=True, stable=True)[:count].tolist()


@dataclass(frozen=True)
class UntilStable:
    """A number of samples that is doubled until the answer is stable; made by `until_stable`.

    Attributes:
        top: Features whose set must be separated from the others.
        tolerance: Half-width of every weight's interval that ends the doubling. None: separation is asked for.
        level: Confidence level, split over the looks (Bonferroni). A look is a fit after each doubling.
        first: Samples at the first look.
        at_most: Most samples.
    """

    top: int = 5
    tolerance: float | None = None
    level: float = 0.95
    first: int = 256
    at_most: int = 8192

    @property
    def looks(self) -> int:
        """Number of looks."""
        return max(1, 1 + int(math.log2(self.at_most / self.first)))

    def reached(
        self,
        z: Tensor,
        y: Tensor,
        weights: Tensor,
        fit: Fit,
        *,
        ridge: float,
        groups: int,
        prior: Tensor | None = None,
    ) -> bool:
        """Return whether the answer for one sample is stable in all of its outputs.

        A fit is never stable where the masks do not identify every weight, or with too few effective samples; without
        sampling error it always is otherwise.

        Args:
            z: Masks, (S, M).
            y: Answers, (S, T).
            weights: Weights of the masks, (S,).
            fit: Fit of this sample, B = 1.
            ridge: Penalty of the fit.
            groups: Rows of an independent unit, as for `fit`.
            prior: Mean of the prior, (1, M) or (1, T, M). None: 0.
        """
        if bool(fit.singular.any()) or (groups and float(fit.ess[0]) < few_effective(z.shape[1])):
            return False
        if not groups:
            return True
        means = prior if prior is None or prior.ndim == 2 else prior[0]
        factor = NormalDist().inv_cdf(1 - (1 - self.level) / self.looks / 2)
        if self.tolerance is not None:
            return bool((factor * fit.se <= self.tolerance).all())
        for t in range(y.shape[1]):
            mean = None if means is None else means[t % len(means)]
            units = contributions(z, y[:, t], weights, ridge=ridge, groups=groups, prior=mean)
            least = float(rounding_errors(fit.weights[0, t], y[:, t].abs().amax()))
            if not self._separated(fit.weights[0, t], units, factor, least):
                return False
        return True

    def _separated(self, weights: Tensor, units: Tensor, factor: float, least: float) -> bool:
        """Return whether the k-th and the next largest |weight| differ beyond joint error and rounding."""
        if len(weights) <= self.top:
            return True
        order = select_largest(weights, self.top + 1)
        last, after = order[-2], order[-1]
        gap = weights[last].sign() * units[:, last] - weights[after].sign() * units[:, after]
        apart = float(weights[last].abs() - weights[after].abs())
        return apart > max(least, factor * float((gap * gap).sum().sqrt()))


def until_stable(
    top: int = 5, tolerance: float | None = None, level: float = 0.95, at_most: int = 8192, *, first: int = 256
) -> UntilStable:
    """Return a rule for `samples`: double them until the top features are separated from the others.

    Args:
        top: Number of features.
        tolerance: Largest half-width of an interval, in place of separation. None: separation.
        level: Confidence level, split over the looks, one after each doubling.
        at_most: Most samples; where the rule is not met by then, the result says so.
        first: Samples at the first look.
    """
    given: dict[str, Any] = {"top": top, "first": first, "at_most": at_most}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise BadInput(f"{name} is {value!r}; it is a whole number")
    if top < 1 or not 0 < level < 1 or not 2 <= first <= at_most or (tolerance is not None and not tolerance > 0):
        raise BadInput(
            f"top {top}, tolerance {tolerance}, level {level}, first {first}, at_most {at_most}: top is at least 1, "
            "tolerance above 0, level in (0, 1), and first at most at_most"
        )
    return UntilStable(top, tolerance, level, first, at_most)
