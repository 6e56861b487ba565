"""Page of explanations: each sample, what the model says with which probability, and where the reasons lie."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unfooled.drawing.pictures import ENCODINGS, Array, Encoding, Plate, css_gradient
from unfooled.drawing.plates import draw_plates
from unfooled.report.frame import fill
from unfooled.report.sections.confusion import class_name
from unfooled.report.sections.gallery import Picture, encoded

MAX_DRAWN = 48
"""Number of samples on a page."""
LISTED = 3
"""Number of classes listed for a sample, the likeliest first."""
BUDGET = 2_500_000
"""Characters of all pictures of a page."""


@dataclass(frozen=True)
class Explained:
    """Samples with the model's answers and their maps.

    Attributes:
        x: Inputs, (B, *D).
        label: Labels, (B,). None: there are none.
        probability: Probabilities of the classes, (B, K); NaN for a sample without an answer.
        target: Classes that were explained, (B,).
        maps: Attributions, (B, *D).
        attacked: Points and maps under attack, (B, *D) each, and one text per sample. None: there was no attack.
    """

    x: Array
    label: Array | None
    probability: Array
    target: Array
    maps: Array
    attacked: tuple[Array, Array, Sequence[str]] | None = None


@dataclass(frozen=True)
class Sample:
    """One sample: its answers as (class, share), the likeliest first, its pictures, and what the attack did.

    Without an answer of the model, `answers` and `target` are empty.
    """

    index: int
    answers: list[tuple[str, float]]
    label: str
    right: bool
    target: str
    pictures: list[Picture]
    status: str


def samples(found: Explained, classes: Sequence[str]) -> tuple[list[Sample], str]:
    """Return the samples of the page and the colour scale of the maps, "diverging" or "sequential"."""
    k = min(len(found.x), MAX_DRAWN)
    z, moved, says = found.attacked or (found.x, found.maps, [""] * len(found.x))
    drawn = draw_plates({"x": found.x[:k], "x_adv": z[:k], "before": found.maps[:k], "after": moved[:k]})
    plates = drawn.rows or [[] for _ in range(k)]
    for how in ENCODINGS:
        pictures = [_pictures(one, i, found.attacked is not None, how) for i, one in enumerate(plates)]
        if sum(len(p.src) for row in pictures for p in row) <= BUDGET:
            break
    rows = []
    for i in range(k):
        known = not np.isnan(found.probability[i]).any()
        order = np.argsort(-found.probability[i], kind="stable")[:LISTED].tolist() if known else []
        answers = [(class_name(classes, c), float(found.probability[i, c])) for c in order]
        label = "" if found.label is None else class_name(classes, int(found.label[i]))
        right = found.label is None or (known and order[0] == int(found.label[i]))
        target = class_name(classes, int(found.target[i])) if known else ""
        rows.append(Sample(i, answers, label, right, target, pictures[i], says[i]))
    return rows, "diverging" if drawn.signed else "sequential"


def _pictures(plates: Sequence[Plate], i: int, attacked: bool, how: Encoding) -> list[Picture]:
    """Encode input and map of a sample; where it was attacked, also the attacked input and its map."""
    if not plates:
        return []
    texts = {0: ("Input", f"Input of sample {i}"), 3: ("Why", f"Explanation of sample {i}")}
    if attacked:
        texts |= {
            1: ("Attacked", f"Attacked input of sample {i}"),
            4: ("Why, attacked", f"Explanation of sample {i} under attack, on the same colour scale"),
        }
    return [encoded(plates[k], *texts[k], how) for k in sorted(texts)]


def compose_explained(record: Mapping[str, Any], found: Explained, classes: Sequence[str]) -> str:
    """Return the page as text.

    Args:
        record: The record of the explanation as plain values: model, data, n, method, of.
        found: The samples.
        classes: Class names, in the order of the logits.
    """
    rows, scale = samples(found, classes)
    return fill(
        "explained.html.j2",
        json.dumps(record),
        title="What does it look at?",
        r=record,
        samples=rows,
        scale=scale,
        gradient=css_gradient(scale),
        right=sum(sample.right for sample in rows),
        labelled=found.label is not None,
    )
