"""What a page draws of explanations: values of `view.py` from a result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unfooled.explanations.lime import render
from unfooled.explanations.lime.findings import Flag, Kind
from unfooled.explanations.lime.segments import pixel_masks
from unfooled.explanations.lime.view import Bar, Chart, Content, MarkedText, Page, Picture, Row, Sample
from unfooled.explanations.stability import stability_of_samples

if TYPE_CHECKING:
    from unfooled.explanations.lime.result import Surrogates

TOP, ADDED = 5, 5
"""Leading features whose soft stability is measured, and the most that are added to them."""
ORDERED = ("identity", "log_odds", "output", "true_logit", "log_probability", "lead")
"""Links and scores whose largest value is that of the predicted class."""
MEASURED_BY = {
    Kind.IMAGE: "with_stability(result, model)",
    Kind.TEXT: "with_text_stability(result, predict)",
    Kind.TABLE: "with_row_stability(result, predict, rows, space=space)",
    Kind.PARTS: "with_part_stability(result, predict, parts)",
}
"""Call that measures the soft stability."""


def page_of(result: Surrogates, top: int, names: Sequence[str] = ()) -> Page:
    """Return what a page draws."""
    shown = range(min(len(result), render.DRAWN))
    link = "" if result.link == "identity" else f" after {result.link}"
    word = {Kind.IMAGE: "sample", Kind.TEXT: "text", Kind.TABLE: "row"}.get(result.kind, "input")
    drawn = f"Hidden features: {in_words(result.baseline)}. Masks: {in_words(result.sampler)}, weights: "
    drawn += f"{in_words(result.kernel)}, seed {result.seed}."
    if result.unit:
        drawn = f"{unit_sentence(result)} Rows: {result.baseline}; seed {result.seed}."
    method = f"A linear surrogate of {in_words(result.score)}{link}. {drawn}"
    return Page(word, tuple(sample_of(result[i], top, *names[i : i + 1]) for i in shown), len(result), method)


def unit_sentence(result: Surrogates) -> str:
    """Return the unit of the weights as a sentence; empty where a weight is the effect of a feature that is shown."""
    if not result.unit:
        return ""
    categories = any(len(key) > 1 for own in result.keys or () for key in own)
    kept = "; that of a category is the effect of keeping it" if categories else ""
    return f"Weights are {result.unit} of the column{kept}."


def in_words(setting: str) -> str:
    """Return a setting as it was given: without options that are None, and without the function that repeats masks."""
    setting = re.sub(r"^repeating\(sampler=(.*)\)$", r"\1", setting)
    setting = re.sub(r"\w+=None(, )?", "", setting)
    return re.sub(r", \)", ")", setting).replace("()", "")


def sample_of(result: Surrogates, top: int, name: str = "") -> Sample:
    """Return what a page draws of the first sample."""
    outputs, between = None, None
    if result.seen is not None:
        between = (float(result.seen[0, 0]), float(result.prediction[0, 0]), float(result.seen[0, 1]))
    elif result.outputs is not None:
        outputs = tuple((result.class_name(k), float(v)) for k, v in enumerate(result.outputs[0]))
    answer = f"answer {float(result.prediction[0, 0]):.4g}"
    if outputs is not None and len(outputs) > 1:
        answer = f"predicted {max(outputs, key=lambda pair: pair[1])[0]}"
    return Sample(
        heading=": ".join(filter(None, (name, answer))),
        charts=tuple(chart_of(result, t, top) for t in range(result.y.shape[1])),
        contents=contents_of(result),
        features=len(result.names[0]),
        ess=float(result.ess[0]),
        flags=result.flags[0],
        outputs=outputs,
        between=between,
        stability=stability_of(result),
        measured_by=MEASURED_BY[result.kind],
    )


def stability_of(result: Surrogates) -> tuple[float, float, float] | None:
    """Return the first sample's soft stability; of stored samples where they answer it. None: not known."""
    if Flag.ONE in result.flags[0]:
        return None
    if result.stability is not None or result.masks is None or result.answers is None or result.outputs is None:
        return None if result.stability is None else result.stability[0]
    if result.kind not in (Kind.IMAGE, Kind.TEXT):  # a mask of a row has as many answers as there are training rows
        return None
    every = set(result.y[0].tolist()) == set(range(result.outputs.shape[1]))
    if not every or result.link not in ORDERED or result.score not in ORDERED:
        return None
    known = stability_of_samples(result.masks[0], result.answers[0], result.leading(0, TOP), ADDED)
    return None if known is None else (known.value, known.low, known.high)


def chart_of(result: Surrogates, t: int, top: int | None) -> Chart:
    """Return the leading weights of a class of the first sample."""
    word = "output" if result.outputs is not None and result.outputs.shape[1] < 2 else "class"
    figures = (result.r2, result.r2_held_out, result.local_prediction, result.prediction)
    ordered, sure = result.ordered(t, top), result.settled()[0, t].tolist()
    return Chart(
        f"{word} {result.class_name(int(result.y[0, t]))}",
        tuple(Bar(result.names[0][j], sure[j], float(result.se[0, t, j])) for j, _ in ordered),
        *(float(value[0, t]) for value in figures),
    )


def contents_of(result: Surrogates) -> tuple[Content, ...]:
    """Return what was explained of the first sample, with the weights of the first class."""
    weights = tuple(result.settled()[0, 0].tolist()) if result.weights.shape[2] else ()
    if result.kind == Kind.PARTS:
        return _parts(result.content[0], weights)
    if result.segments is not None and isinstance(result.content, Tensor):
        return (picture_of(result),)
    if result.spans is not None:
        return (MarkedText(str(result.content[0]), result.spans[0], weights),)
    return (Row(result.cells[0], weights),) if result.cells is not None else ()


def picture_of(result: Surrogates, label: int | None = None) -> Picture:
    """Return the image of the first sample with its weights."""
    assert result.segments is not None
    return Picture(result.content[0], replace(result, weights=result.settled()).heatmap(label)[0], result.segments[0])


def _parts(parts: tuple[Any, ...], weights: tuple[float, ...]) -> tuple[Content, ...]:
    """Return the parts of an input: (number of features, kind, ...), as `lime_parts` stores them."""
    contents: list[Content] = []
    at = 0
    for count, kind, *values in parts:
        own, at = weights[at : at + count], at + count
        if kind == "text":
            contents.append(MarkedText(values[0], values[1], own))
        elif kind == "row":
            contents.append(Row(values[0], own))
        elif kind == "image":
            x, ids = values
            heat = pixel_masks(torch.tensor([own], dtype=torch.float64), ids, x[None]).expand(1, *x.shape)[0]
            contents.append(Picture(x, heat, ids))
    return tuple(contents)
