"""Pictures of a run's gallery, as arrays of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unfooled.drawing.pictures import (
    Array,
    Plate,
    amplification,
    bar_strip,
    difference,
    displayed,
    form_of,
    heat_map,
    photograph,
    scale_limit,
    without_level,
)


@dataclass(frozen=True)
class Plates:
    """Pictures of a gallery, not yet encoded.

    Attributes:
        form: "image" or "bars". None: samples of this shape cannot be drawn.
        rows: Five pictures for each example: x, x_adv, their difference, and the attributions before and after.
        factor: Amplification of the differences.
        signed: True if any attribution has negative values.
    """

    form: str | None
    rows: list[list[Plate]]
    factor: int
    signed: bool


def draw_plates(pictures: Mapping[str, Array]) -> Plates:
    """Draw x, x_adv, their difference, and the attributions before and after, for each example of a gallery.

    All rows share the kind of colour scale (diverging or sequential) and the amplification of differences; the limit of
    the colour scale is that of a row.

    Args:
        pictures: Arrays "x", "x_adv", "before" and "after", (G, *D) each; empty for no gallery.
    """
    if not pictures:
        return Plates(None, [], 1, False)
    x, x_adv = (np.nan_to_num(pictures[name], nan=0.5, posinf=1, neginf=0) for name in ("x", "x_adv"))
    before, after = pictures["before"], pictures["after"]
    form = form_of(x.shape[1:])
    if form is None or form_of(before.shape[1:]) != form:
        return Plates(None, [], 1, False)
    maps = [tuple(without_level(displayed(m)) for m in pair) for pair in zip(before, after, strict=True)]
    signed = any(float(m.min()) < 0 for pair in maps for m in pair)
    factor = amplification(x, x_adv)
    paint = _strips if form == "bars" else _images
    rows = [paint(one, adv, b, a, factor, signed) for one, adv, (b, a) in zip(x, x_adv, maps, strict=True)]
    return Plates(form, rows, factor, signed)


def _images(x: Array, x_adv: Array, b: Array, a: Array, factor: int, signed: bool) -> list[Plate]:
    """Draw the five pictures of an image."""
    top = scale_limit(b, a)
    return [
        photograph(x),
        photograph(x_adv),
        difference(x, x_adv, factor),
        *(heat_map(m, top, signed=signed) for m in (b, a)),
    ]


def _strips(x: Array, x_adv: Array, b: Array, a: Array, factor: int, signed: bool) -> list[Plate]:
    """Draw the five pictures of a 1-D sample."""
    top = scale_limit(b, a)
    inputs = [bar_strip(v, 1.0, signed=False, coloured=False) for v in (x, x_adv)]
    delta = bar_strip(x_adv - x, 0.5 / factor, signed=True, coloured=False)
    return [*inputs, delta, *(bar_strip(m, top, signed=signed, coloured=True) for m in (b, a))]
