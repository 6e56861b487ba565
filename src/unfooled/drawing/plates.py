"""A run's gallery as arrays of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unfooled.drawing.pictures import (
    Array,
    Plate,
    amplification,
    bars,
    change,
    heat,
    kind,
    limit,
    photograph,
    relevance,
)


@dataclass(frozen=True)
class Plates:
    """A run's pictures before they are encoded: five a row; `form` is None where samples cannot be drawn."""

    form: str | None
    rows: list[list[Plate]]
    factor: int
    signed: bool


def draw(pictures: Mapping[str, Array]) -> Plates:
    """Draw x, x_adv, their difference, before and after for each example of a run's gallery.

    Whether maps are signed, and how much differences are amplified, is decided once a run; the limit of the colour
    scale once a row.
    """
    if not pictures:
        return Plates(None, [], 1, False)
    x, x_adv = (np.nan_to_num(pictures[name], nan=0.5, posinf=1, neginf=0) for name in ("x", "x_adv"))
    before, after = pictures["before"], pictures["after"]
    form = kind(x.shape[1:])
    if form is None or kind(before.shape[1:]) != form:
        return Plates(None, [], 1, False)
    maps = [(relevance(b), relevance(a)) for b, a in zip(before, after, strict=True)]
    signed = any(float(m.min()) < 0 for pair in maps for m in pair)
    factor = amplification(x, x_adv)
    paint = _strips if form == "bars" else _images
    rows = [paint(one, adv, b, a, factor, signed) for one, adv, (b, a) in zip(x, x_adv, maps, strict=True)]
    return Plates(form, rows, factor, signed)


def _images(x: Array, x_adv: Array, b: Array, a: Array, factor: int, signed: bool) -> list[Plate]:
    """The five pictures of an image."""
    top = limit(b, a)
    return [photograph(x), photograph(x_adv), change(x, x_adv, factor), *(heat(m, top, signed=signed) for m in (b, a))]


def _strips(x: Array, x_adv: Array, b: Array, a: Array, factor: int, signed: bool) -> list[Plate]:
    """The five pictures of a 1-D sample."""
    top = limit(b, a)
    inputs = [bars(v, 1.0, signed=False, coloured=False) for v in (x, x_adv)]
    delta = bars(x_adv - x, 0.5 / factor, signed=True, coloured=False)
    return [*inputs, delta, *(bars(m, top, signed=signed, coloured=True) for m in (b, a))]
