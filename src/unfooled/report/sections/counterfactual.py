"""Page of counterfactuals: the attributes that would have to change, the changed images, and the controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unfooled.counterfactuals.records import AttributeFact, AttributeRow, Counterfactual, CounterfactualRecord
from unfooled.counterfactuals.spaces import AucRows
from unfooled.drawing.pictures import Array, Encoding, Plate, css_gradient, encode, heat_map, photograph
from unfooled.report.frame import fill
from unfooled.report.sections.counterfactual_bars import Bars, bars_of
from unfooled.report.sections.gallery import MAX_PIXELATED_EDGE, Picture

LISTED = 12  # attributes shown before a fold
MAX_DRAWN = 24  # images drawn
ENLARGED = Encoding(256, False)


@dataclass(frozen=True)
class Line:
    """Attribute of one image, with the figures that hold for every image."""

    row: AttributeRow
    fact: AttributeFact
    edited: bool


@dataclass(frozen=True)
class Case:
    """One image: its record, its attributes by size of the change, its pictures, and bars of the first attributes."""

    result: Counterfactual
    lines: list[Line]
    pictures: list[Picture]
    bars: Bars | None = None


def compose_counterfactual(record: CounterfactualRecord, x: Array, x_new: Array, slope: Array) -> str:
    """Return the page as text.

    Args:
        record: The record.
        x: The images, (B, C, H, W).
        x_new: The changed ones.
        slope: Gradient of the attribute that changes most.
    """
    facts = {fact.name: fact for fact in record.attributes}
    cases = []
    for i, result in enumerate(record.results):
        lines = lines_of(result, facts)
        bars = bars_of([(line.row, line.fact) for line in lines[:LISTED] if line.fact.usable])
        pictures = _pictures(result, x[i], x_new[i], slope[i]) if i < MAX_DRAWN else []
        cases.append(Case(result, lines, pictures, bars if result.curve else None))
    return fill(
        "counterfactual.html.j2",
        record.model_dump_json(),
        title="What would have to change?",
        r=record,
        cases=cases,
        listed=LISTED,
        drawn=MAX_DRAWN,
        diverging=css_gradient("diverging"),
        sequential=css_gradient("sequential"),
        readable=sum(fact.usable for fact in record.attributes),
        must_stay=any(fact.kept for fact in record.attributes),
        auc_text=auc_text(record),
    )


def auc_text(record: CounterfactualRecord) -> str:
    """Return the sentence on the images that the AUC was computed on."""
    if record.kind == "probes":
        return "AUC is on held-out images, which the probe was not fitted on (five-fold)."
    rows = [fact.auc_rows for fact in record.attributes if fact.auc is not None]
    if AucRows.UNKNOWN in rows or None in rows:
        return "AUC is that of the images of the table, which may be training images of the network."
    trained = rows.count(AucRows.TRAINING)
    if not trained:
        return "AUC is on images of the table that the network was not trained on."
    some = f"of {trained} attributes" if trained < len(rows) else "of every attribute"
    return f"AUC {some} is on training images of the network: it may be lower on new ones."


def lines_of(result: Counterfactual, facts: dict[str, AttributeFact]) -> list[Line]:
    """Return the attributes, edited ones first, then those that must stay, then by the size of their change."""
    rows = sorted(result.rows, key=lambda row: (-abs(row.asked), not facts[row.name].kept, -abs(row.reached or 0.0)))
    return [Line(row, facts[row.name], row.asked != 0) for row in rows]


def _pictures(result: Counterfactual, x: Array, x_new: Array, slope: Array) -> list[Picture]:
    """Draw the image and, where it was changed, the changed image and the differences."""
    shown = [("before", f"The image, predicted as {result.predicted}", photograph(x))]
    if result.curve:
        difference = (x_new - x).mean(0)
        largest = float(np.abs(difference).max())
        shown += [
            ("after", "The changed image", photograph(x_new)),
            (
                f"difference, white 0, largest {largest:.2g}",
                "Signed difference of the two, averaged over channels",
                heat_map(difference, largest or 1.0, signed=True),
            ),
            ("where it changed", "Size of the change of each pixel", _sizes(x_new - x)),
            (f"where {result.slope_of} is read", f"Size of the gradient of {result.slope_of}", _sizes(slope)),
        ]
    return [_picture(*one) for one in shown]


def _sizes(value: Array) -> Plate:
    """Draw the absolute values, averaged over channels."""
    size = np.abs(value).mean(0)
    return heat_map(size, float(size.max()) or 1.0, signed=False)


def _picture(caption: str, alt: str, plate: Plate) -> Picture:
    source, width, height = encode(plate, ENLARGED)
    return Picture(caption, alt, source, width, height, max(width, height) <= MAX_PIXELATED_EDGE)
