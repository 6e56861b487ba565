"""LIME for images and other tensors: a linear surrogate of a score over hidden and shown segments.

    x(z) = z[segments] x + (1 - z[segments]) b        v = argmin sum_s pi(z_s) (s(f(x(z_s)), y) - b0 - v.z_s)^2

z_s is a mask, pi(z_s) its weight, s the score, b the baseline, b0 the intercept, v the weights of the segments.
All samples with the same number of segments share the masks, one Gram matrix and one factorisation; all classes share
the forward passes. `lime_map` spreads the weights over the pixels, in the shape of every other attribution; it is
linear in the model's outputs, so that its derivative is exact.

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938. Differs: masks in complementary
    pairs, each of weight 1, no penalty, the logit as score; LIME's own settings are on the methods page.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.checks import check_inputs
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.losses import true_logit
from unfooled.core.types import Loss, Model
from unfooled.explanations.gradients import _ANYWHERE, differentiating, entry, prepared
from unfooled.explanations.lime.answers import Masked, seed_of
from unfooled.explanations.lime.baselines import Baseline, segment_mean
from unfooled.explanations.lime.findings import Kind
from unfooled.explanations.lime.kernels import Kernel, uniform
from unfooled.explanations.lime.naming import baseline_name, setting_name
from unfooled.explanations.lime.result import Surrogates, warn_if_few
from unfooled.explanations.lime.samplers import Independent, Sampler, paired
from unfooled.explanations.lime.segments import Segmenter, counts, grid, segment
from unfooled.explanations.lime.solving import (
    Settings,
    Solution,
    Solved,
    alone,
    assembled,
    check_top,
    effect_of,
    samples_of,
    shrinking,
    solve,
    stopping,
    weights_of,
)
from unfooled.explanations.lime.surrogate import Prior, UntilStable


def lime_image(
    model: Model,
    x: Tensor,
    y: Tensor | Sequence[Any] | int | None = None,
    *,
    segments: Segmenter | Tensor = grid(7),  # noqa: B008  (a partial)
    sampler: Sampler = paired,
    samples: int = 512,
    kernel: Kernel = uniform,
    baseline: Baseline = segment_mean,
    score: Loss = true_logit,
    ridge: float = 0.0,
    prior: Tensor | Prior | None = None,
    until: UntilStable | None = None,
    independent: bool = False,
    keep_samples: bool = False,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Explain each sample by a linear surrogate over its segments, with standard errors and held-out fit.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D): images of any number of channels, rows, sequences, volumes.
        y: Classes to explain, (B,) or (B, T), or one for all. None: the predicted ones.
        segments: Segmenter such as `grid(7)` or `slic()`, or ids, (*S) or (B, *S).
        sampler: Function that draws masks.
        samples: Masks per sample; not used with `until`.
        kernel: Weight of a mask.
        baseline: Values of hidden segments.
        score: Function `(logits, y) -> (B,)` to explain.
        ridge: Penalty on the squared weights per unit of sample weight.
        prior: Expected weights, (M,), (B, M) or (B, T, M), with `ridge` as precision, or a `Prior` with both; the fit
            shrinks towards them. None: towards 0.
        until: `until_stable(...)`, a rule that decides the number of masks. None: `samples`.
        independent: True: masks are drawn for each sample separately. False: samples with as many segments share them.
        keep_samples: True: the result holds the masks and answers.
        batch: Rows a call of the model; halved where memory runs out. None: as many as fit well.
        generator: Base seed; not advanced.

    Returns:
        `Surrogates` with weights (B, T, M). Cost: `samples` + 1 forwards per sample, for all classes.

    Raises:
        BadInput: An argument or the model's output is invalid, or the samples do not identify the weights.

    Example:
        >>> from unfooled.explanations.lime import constant
        >>> linear, x = lambda x: torch.stack([3 * x[:, 0] + x[:, 1], x[:, 0]], 1), torch.tensor([[1.0, 2.0]])
        >>> lime_image(linear, x, segments=torch.arange(2), baseline=constant(0)).as_list()
        [('1', 3.0), ('2', 2.0)]
    """
    began = time.perf_counter()
    drawn = Independent(sampler) if independent else sampler
    base = rng.base_seed(generator)
    settings = Settings(drawn, stopping(samples, until), kernel, shrinking(ridge, prior), base)
    with differentiating():
        check_inputs(x, box=_ANYWHERE)
        x, labels = _labels(model, x, y)
        ids = segment(x, segments)
        with torch.no_grad():
            masked = Masked(model, x.detach(), labels, ids, baseline, score, batch)
            prediction, outputs = masked.prediction()
            parts = _solved(masked, settings, prediction)
    result = assembled(
        (parts, prediction, labels, settings),
        kind=Kind.IMAGE,
        names=tuple(tuple(str(k + 1) for k in range(n)) for n in counts(ids).tolist()),
        content=x.detach().cpu(),
        segments=ids.clone(),
        baseline=baseline_name(baseline),
        score=setting_name(score),
        outputs=outputs,
        calls=torch.tensor([part.calls * masked.draws + 1 for part in parts]),
        seconds=time.perf_counter() - began,
        **samples_of(parts, keep_samples),
    )
    return warn_if_few(result)


def lime_map(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    segments: Segmenter | Tensor = grid(7),  # noqa: B008  (a partial)
    sampler: Sampler = paired,
    samples: int = 512,
    kernel: Kernel = uniform,
    baseline: Baseline = segment_mean,
    score: Loss = true_logit,
    ridge: float = 0.0,
    prior: Tensor | Prior | None = None,
    until: UntilStable | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Attribute to each input value the weight of its segment in the linear surrogate.

    The masks depend on the seed and the number of segments alone, so that the maps of a clean and a changed input use
    the same ones, and the derivative is exact for fixed segments.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K). Not modified.
        x: Inputs, (B, *D).
        y: Classes to explain, (B,) int64.
        segments: Segmenter, or ids, (*S) or (B, *S); its dependence on x is not differentiated.
        sampler: Function that draws masks, the same for all samples.
        samples: Masks per sample; not used with `until`.
        kernel: Weight of a mask.
        baseline: Values of hidden segments; differentiated where it depends on x.
        score: Function `(logits, y) -> (B,)` to explain.
        ridge: Penalty on the squared weights, per unit of sample weight.
        prior: Expected weights, (M,) or (B, M), with `ridge` as precision, or a `Prior` with both. None: 0.
        until: `until_stable(...)`, a rule that decides the number of masks; it is not differentiated. None: `samples`.
        batch: Rows a call of the model; halved where memory runs out. None: as many as fit well.
        generator: Base seed; not advanced.
        create_graph: True: keep the graph; forward passes of several batches are computed again in the backward pass,
            one batch at a time. The backward pass of the first is tried once, so that memory is enough for all.

    Returns:
        Attribution in units of the score, equal inside a segment, (B, *D). Cost: `samples` forwards per sample; with
        `until` and `create_graph` twice as many.

    Raises:
        BadInput: An argument or the model's output is invalid, or the samples do not identify the weights.
    """
    if isinstance(sampler, Independent):
        raise BadInput("lime_map has one design for all samples; use lime_image for masks of each")
    with differentiating():
        x, y = prepared(model, x, y, create_graph=create_graph)
        z = entry(x, create_graph=True) if create_graph else x.detach()
        ids = segment(z, segments)
        drawn = stopping(samples, until)
        settings = Settings(sampler, drawn, kernel, shrinking(ridge, prior), rng.base_seed(generator))
        masked = Masked(model, z, y[:, None], ids, baseline, score, batch, graph=create_graph)
        designs = _designs(masked, settings)
        with torch.set_grad_enabled(create_graph):
            maps = [masked.spread(i, _weights(masked, i, designs[i], settings)) for i in range(len(z))]
            attribution = torch.stack(maps).to(x.dtype)
            if create_graph and not attribution.requires_grad:
                attribution = attribution + 0 * z  # an answer that does not depend on x can still be differentiated
        return attribution if create_graph else attribution.detach()


def _designs(masked: Masked, settings: Settings) -> list[tuple[Solution, Tensor | None]]:
    """Return the linear map of each sample, and its answers where the rule that decides the masks needed them."""
    number = counts(masked.ids).tolist()
    if isinstance(settings.samples, int):
        shared = {features: weights_of(features, settings) for features in set(number)}
        return [(shared[features], None) for features in number]
    with torch.no_grad():
        parts = _solved(masked, settings, masked.prediction()[0])
    return [(effect_of(part.masks, part.weights, settings), None if masked.graph else part.answers) for part in parts]


def _weights(masked: Masked, i: int, design: tuple[Solution, Tensor | None], settings: Settings) -> Tensor:
    """Return the weights of the segments of sample i, (1, M)."""
    solution, answers = design
    answers = (masked.answers(i, solution.masks) if answers is None else answers)[:, 0]
    weights = solution.effect @ (answers - answers.mean().detach())
    mean = settings.mean(i, solution.masks.shape[1])
    return (weights if mean is None else weights + solution.shrunk(mean.flatten(), settings.penalty))[None]


def _solved(masked: Masked, settings: Settings, prediction: Tensor) -> list[Solved]:
    """Solve each sample; those with the same masks together."""
    number, parts = counts(masked.ids), {}
    check_top(settings.samples, int(number.amax()))
    for features in number.unique().tolist():
        rows = (number == features).nonzero()[:, 0].tolist()
        if isinstance(settings.sampler, Independent):
            seeds = seed_of(masked.x, settings.seed)
            for i in rows:
                own = replace(settings, seed=int(seeds[i]) & 0x7FFFFFFFFFFFFFFF)
                parts.update(solve(masked.answers, [i], features, own, prediction))
        else:
            parts.update(solve(masked.answers, rows, features, settings, prediction))
    return [alone(parts[i]) if n == 1 else parts[i] for i, n in enumerate(number.tolist())]


def _labels(model: Model, x: Tensor, y: Any) -> tuple[Tensor, Tensor]:
    """Check the classes; return x and the classes, (B, T), the predicted ones for None."""
    if y is None:
        x, _ = prepared(model, x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        with torch.no_grad():
            return x, read_logits(model, x, batch=256).argmax(1, keepdim=True)
    try:
        y = torch.as_tensor(y, device=x.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"y is {y!r}; give numbers of classes, (B,) or (B, T), or one for all") from error
    y = y.expand(len(x)) if y.ndim == 0 else y
    y = y[:, None] if y.ndim == 1 else y
    if y.ndim != 2 or not y.shape[1]:
        raise BadInput(f"y has shape {tuple(y.shape)}; give classes to explain, (B,) or (B, T), or None")
    for column in y.T:
        x, _ = prepared(model, x, column)
    return x, y.clone() if y.is_inference() else y
