"""Drawing of what was explained: an image with its map, a marked text, a row as a table."""

from __future__ import annotations

import math
from html import escape

import numpy as np
import torch

from unfooled.drawing import Encoding, displayed, encode, form_of, heat_map, photograph
from unfooled.explanations.lime.view import Content, MarkedText, Picture, Row, weight_text

PICTURE = Encoding(224, False)
LEAST = 0.1  # smallest share of the largest weight that is marked
LONG, AROUND = 3000, 60  # letters of a text that is shown whole; letters around a mark of a longer one
CELLS = 24  # columns of a row


def content(value: Content) -> str:
    """Draw what was explained."""
    if isinstance(value, Picture):
        return _picture(value) if form_of(tuple(value.x.shape)) == "image" else ""
    if isinstance(value, MarkedText):
        return f"<div class=text>{_marked(value)}</div>"
    return _row(value)


def _picture(value: Picture) -> str:
    """Draw an image, its segments' weights, and the borders of the segments."""
    x = value.x.to(torch.float64).numpy()
    weights = displayed(value.weights.numpy()) / (len(x) if x.ndim == 3 else 1)
    limit = float(np.abs(weights).max()) or 1.0
    plates = [(photograph(x), "input"), (heat_map(weights, limit, signed=True), f"weights, \u00b1{limit:.3g}")]
    figures = []
    for plate, caption in plates:
        uri, _, _ = encode(plate, PICTURE)
        figures.append(f'<figure><img src="{uri}" alt="{caption}"><figcaption>{caption}</figcaption></figure>')
    count = int(value.segments.max()) + 1
    note = f"<figcaption>{count} segments; red speaks for the class, blue against it</figcaption>"
    return f"<div><div class=row>{''.join(figures)}</div>{note}</div>"


def _marked(value: MarkedText) -> str:
    """Return a text with its features marked, stronger for larger weights; of a long text, only parts around marks."""
    text, at, room = value.text, 0, LONG
    parts: list[str] = []
    long = len(text) > LONG
    limit = max(map(abs, value.weights), default=0.0)
    for start, end, feature in value.marks:
        weight = value.weights[feature] if feature < len(value.weights) else 0.0
        share = abs(weight) / limit if limit else 0.0
        if share < LEAST or start < at:
            continue
        before = _gap(text[at:start], first=not parts) if long else text[at:start]
        room -= len(before) + end - start
        if long and room < 0:
            return "".join(parts) + " \u2026"
        kind = f"{'p' if weight > 0 else 'n'}{math.ceil(6 * share)}"
        parts.append(f"{escape(before)}<mark class={kind}>{escape(text[start:end])}</mark>")
        at = end
    rest = text[at:]
    return "".join(parts) + escape(rest[:AROUND] + " \u2026" if long and len(rest) > AROUND else rest)


def _gap(text: str, *, first: bool) -> str:
    """Shorten the text between two marks."""
    if len(text) <= 2 * AROUND:
        return text
    return f"{'' if first else text[:AROUND]} \u2026 {text[-AROUND:]}"


def _row(value: Row) -> str:
    """Draw a row: each column's value, bin and weight; of many columns, those of the largest weights."""

    def size(k: int) -> float:
        feature = value.cells[k][3]
        return abs(value.weights[feature]) if 0 <= feature < len(value.weights) else -1.0

    shown = range(len(value.cells))
    leading = sorted(sorted(shown, key=size, reverse=True)[:CELLS])
    lines, largest = [], max(map(abs, value.weights), default=0.0)
    for name, text, bin_, feature in (value.cells[k] for k in leading):
        known = 0 <= feature < len(value.weights)
        weight = weight_text(value.weights[feature], largest) if known else "constant"
        cells = (escape(name), escape(_short(text)), escape(bin_), weight)
        lines.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
    left = f"<p class=note>{CELLS} of {len(shown)} columns, by weight</p>" if len(shown) > CELLS else ""
    head = "<tr><th>column</th><th>value</th><th>bin</th><th>weight</th></tr>"
    return f"<div><table>{head}{''.join(lines)}</table>{left}</div>"


def _short(text: str, most: int = 60) -> str:
    """Shorten a value."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"
