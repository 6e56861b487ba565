"""Soft stability of the features with the largest weights for the class, for the page beside the fit.

Of one output, such as a regression's, the leading features are those of the largest |weight|, and the answer stays
where it is on the same side of the answer with every feature hidden.

Features are hidden as in the explanation: segments are replaced by the baseline, pieces of a text deleted, columns of a
row taken from training rows, over which the outputs are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.types import Model
from unfooled.explanations.lime.attention import AttentionMask, of_tokens
from unfooled.explanations.lime.baselines import Baseline, segment_mean
from unfooled.explanations.lime.checking import at_least
from unfooled.explanations.lime.findings import Flag, Kind
from unfooled.explanations.lime.mixed import Part, outputs_of_parts
from unfooled.explanations.lime.pages import ADDED, TOP
from unfooled.explanations.lime.predicting import outputs_of
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.segments import pixel_masks
from unfooled.explanations.lime.tables import filled
from unfooled.explanations.lime.tabular import TabularSpace
from unfooled.explanations.lime.text import Hide, Pieces, delete
from unfooled.explanations.stability import soft_stability

BATCH = 256
DONORS = 20
"""Training rows over which the outputs of a masked row are averaged."""


@dataclass(frozen=True)
class Stability:
    """Settings of soft stability.

    Attributes:
        top: Features selected: those of the largest weights, of one output those of the largest |weight|.
        r: Largest number of features that are added.
        draws: Supersets per sample.
        tolerance: For one output, largest change of the answer that counts as none, in its unit. None: the answer stays
            where it is on the same side of the answer with every feature hidden.
    """

    top: int = TOP
    r: int = ADDED
    draws: int = 150
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that are none."""
        for name, least in (("top", 1), ("r", 0), ("draws", 1)):
            at_least(getattr(self, name), least, name, "a whole number")


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
        r: Largest number of segments that are added.
        baseline: Values of hidden segments.
        draws: Supersets a sample.
        generator: Base seed; not advanced.

    Returns:
        The explanations with `stability`. Cost: `draws` + 1 forwards a sample.
    """
    ids, x = result.segments, result.content
    if ids is None or not isinstance(x, Tensor):
        raise BadInput(f"this explains a {result.kind}; for others call soft_stability with a function of masks")
    place = next((p.device for p in getattr(model, "parameters", list)()), x.device)
    inputs = x.to(place)
    hidden = baseline(inputs, ids)

    def answers(i: int, z: Tensor) -> Tensor:
        shown = pixel_masks(z.to(place), ids[i].to(place), inputs)
        with torch.no_grad():
            return read_logits(model, torch.where(shown, inputs[i], hidden[i])).cpu()

    return _with(result, answers, Stability(top, r, draws), generator)


def with_text_stability(
    result: Surrogates,
    predict: Callable[[list[str]], Any],
    *,
    hide: Hide = delete,
    settings: Stability = Stability(),
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Return explanations of texts with the soft stability of the pieces that speak most for the class.

    Args:
        result: Explanations of texts; the first class of each is looked at.
        predict: Function that was explained.
        hide: Function that hides pieces.
        settings: Features selected and added, and draws.
        generator: Base seed; not advanced.

    Returns:
        The explanations with `stability`; for one output, see `Stability.tolerance`.
    """
    if result.kind != Kind.TEXT or result.spans is None:
        raise BadInput(f"this explains a {result.kind}, not a text")
    pieces = [
        Pieces(text, tuple((a, b) for a, b, _ in marks), tuple(j for *_, j in marks), hide)
        for text, marks in zip(result.content, result.spans, strict=True)
    ]

    ask = of_tokens(predict) if isinstance(hide, AttentionMask) else predict

    def answers(i: int, z: Tensor) -> Tensor:
        return outputs_of(ask, pieces[i].copies(z > 0), BATCH)

    return _with(result, answers, settings, generator)


def with_row_stability(
    result: Surrogates,
    predict: Callable[[Any], Any],
    rows: Any,
    *,
    space: TabularSpace,
    settings: Stability = Stability(),
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Return explanations of table rows with the soft stability of the columns that speak most for the class.

    Args:
        result: Explanations of rows; the first class of each is looked at.
        predict: Function that was explained.
        rows: The rows.
        space: Bins, categories and features of the training table.
        settings: Features selected and added, and draws.
        generator: Base seed; not advanced.

    Returns:
        The explanations with `stability`; for one output, see `Stability.tolerance`.
    """
    values = space.read(rows)
    if result.kind != Kind.TABLE or len(values) != len(result):
        raise BadInput(f"this explains {len(result)} inputs of kind {result.kind}; there are {len(values)} rows")

    def answers(i: int, z: Tensor) -> Tensor:
        table = space.table(filled(space.columns, space.features, values[i], z, DONORS, result.seed))
        return outputs_of(predict, table, BATCH * DONORS).reshape(len(z), DONORS, -1).mean(1)

    return _with(result, answers, settings, generator)


def with_part_stability(
    result: Surrogates,
    predict: Callable[..., Any],
    parts: Sequence[Part],
    *,
    settings: Stability = Stability(),
    generator: torch.Generator | None = None,
) -> Surrogates:
    """Return the explanation of an input of several parts with the soft stability of its leading features.

    Args:
        result: Explanation by `lime_parts`; its first class is looked at.
        predict: Function that was explained.
        parts: The parts.
        settings: Features selected and added, and draws.
        generator: Base seed; not advanced.

    Returns:
        The explanation with `stability`; for one output, see `Stability.tolerance`.
    """
    if result.kind != Kind.PARTS or sum(len(part.names) for part in parts) != len(result.names[0]):
        raise BadInput(f"this explains {len(result.names[0])} features of kind {result.kind}; give the parts explained")
    return _with(result, lambda i, z: outputs_of_parts(predict, parts, z, 0), settings, generator)


def _with(
    result: Surrogates,
    answers: Callable[[int, Tensor], Tensor],
    settings: Stability,
    generator: torch.Generator | None,
) -> Surrogates:
    """Return explanations with the stability of the leading features under a function of (sample, masks)."""
    intervals = []
    for i in range(len(result)):
        if Flag.ONE in result.flags[i]:
            intervals.append((math.nan, math.nan, math.nan))
            continue
        selected = result.leading(i, settings.top)

        def of(z: Tensor, i: int = i) -> Tensor:
            return answers(i, z)

        stable = soft_stability(
            of, selected, settings.r, draws=settings.draws, tolerance=settings.tolerance, generator=generator
        )
        intervals.append((stable.value, stable.low, stable.high))
    return replace(result, stability=tuple(intervals))
