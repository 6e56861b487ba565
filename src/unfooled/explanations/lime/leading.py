"""Soft stability of the leading segments of images, for the page beside the fit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.types import Model
from unfooled.explanations.lime.baselines import Baseline, segment_mean
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.segments import pixel_masks
from unfooled.explanations.stability import soft_stability


def with_stability(
    result: Surrogates,
    model: Model,
    *,
    top: int = 5,
    r: int = 5,
    baseline: Baseline = segment_mean,
    draws: int = 150,
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Return explanations of images with the soft stability of the segments that speak most for the class.

    Args:
        result: Explanations of images; the first class of each is looked at.
        model: The model explained.
        top: Segments selected: those of the largest weights.
        r: Most segments that are added.
        baseline: Values of hidden segments.
        draws: Supersets a sample.
        generator: Base seed; not advanced.

    Returns:
        The explanations with `stability`. Cost: `draws` + 1 forwards a sample.
    """
    ids, x = result.segments, result.content
    if ids is None or not isinstance(x, Tensor):
        raise BadInput(f"this explains a {result.kind}; for others call soft_stability with a function of masks")
    hidden, found = baseline(x, ids), []
    for i in range(len(x)):
        w = result.weights[i, 0, : len(result.names[i])]
        selected = torch.zeros(len(w), dtype=torch.bool)
        selected[w.argsort(descending=True, stable=True)[:top]] = True

        def answers(z: Tensor, i: int = i) -> Tensor:
            shown = pixel_masks(z, ids[i], x)
            return read_logits(model, torch.where(shown, x[i], hidden[i]))

        with torch.no_grad():
            stable = soft_stability(answers, selected, r, draws=draws, generator=generator)
        found.append((stable.value, stable.low, stable.high))
    return replace(result, stability=tuple(found))
