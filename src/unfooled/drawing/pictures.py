"""Conversion of arrays to pictures: inputs, amplified differences and attributions to pixels, pixels to data URIs.

Attributions of a row share one colour scale, so that "before" and "after" can be compared: the limit is the 99.5th
percentile of |attribution| over both, and larger values are clipped to it. Attributions with negative values use a
diverging scale around 0, others a sequential one; both are safe for colour-blind readers.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from unfooled.drawing.colour_scales import DIVERGING, SEQUENTIAL

Array = npt.NDArray[np.floating]
Bytes = npt.NDArray[np.uint8]

AMPLIFICATIONS = (1000, 500, 200, 100, 50, 20, 10, 5, 2)  # factors by which differences may be amplified
SCALE_PERCENTILE = 99.5  # percentile of |attribution| at the end of the colour scale
CONSTANT = 1e-6  # range of a map, as a share of its largest entry, up to which it is constant but for rounding
MAX_BARS = 128  # bars of a 1-D input; longer ones are pooled
BAR_HEIGHT = 64
INK, PALE = (70, 78, 89), (255, 255, 255)


@dataclass(frozen=True)
class Plate:
    """A picture: (H, W) grey or indices into `palette`, or (H, W, 3) colour."""

    pixels: Bytes
    palette: str | None = None


@dataclass(frozen=True)
class Encoding:
    """Size and format of pictures: longer side at most `edge` pixels; photographs are JPEG if `lossy`, else PNG."""

    edge: int
    lossy: bool


# Tried in this order until the page is small enough.
ENCODINGS = (Encoding(256, False), Encoding(256, True), Encoding(128, True), Encoding(64, True), Encoding(32, True))


@cache
def colours(name: str) -> Bytes:
    """Return the 256 colours of "diverging" or "sequential", (256, 3)."""
    stored = base64.b64decode(DIVERGING if name == "diverging" else SEQUENTIAL)
    return np.frombuffer(stored, np.uint8).reshape(256, 3)


def css_gradient(name: str, stops: int = 9) -> str:
    """Return a colour scale as a CSS gradient, left to right."""
    selected = colours(name)[np.linspace(0, 255, stops).round().astype(int)]
    return "linear-gradient(90deg, " + ", ".join(f"rgb({r} {g} {b})" for r, g, b in selected.tolist()) + ")"


def form_of(shape: tuple[int, ...]) -> str | None:
    """Return how a sample of a shape is drawn: "image" for (H, W) and (C, H, W), "bars" for (D,), else None."""
    return {1: "bars", 2: "image", 3: "image"}.get(len(shape))


def _to_byte(value: Array) -> Bytes:
    """Convert values in [0, 1] to bytes; others are clipped."""
    return np.asarray(np.clip(value, 0, 1) * 255).round().astype(np.uint8)


def _planes(value: Array) -> Array:
    """Turn (H, W) or (C, H, W) into (H, W) or (H, W, 3); other channel counts are averaged."""
    if value.ndim == 2:
        return value
    return value.transpose(1, 2, 0) if len(value) == 3 else value.mean(0)


def photograph(value: Array) -> Plate:
    """Draw an input in [0, 1]: (H, W), (1, H, W) and (3, H, W) unchanged, other channel counts averaged."""
    return Plate(_to_byte(_planes(value)))


def amplification(x: Array, x_adv: Array) -> int:
    """Return the largest of `AMPLIFICATIONS` that keeps 99.9 % of the changed entries within +-0.5; else 1."""
    size = np.abs(x_adv - x)
    changed = size[size > 0]
    largest = float(np.quantile(changed, 0.999)) if changed.size else 1.0
    return next((k for k in AMPLIFICATIONS if k * largest <= 0.5), 1)


def difference(x: Array, x_adv: Array, factor: int) -> Plate:
    """Draw the difference around mid-grey: 0.5 + factor * (x_adv - x)."""
    return Plate(_to_byte(0.5 + factor * _planes(x_adv - x)))


def displayed(attribution: Array) -> Array:
    """Prepare an attribution for drawing: (C, H, W) summed over channels, NaN and infinite entries as 0."""
    value = np.nan_to_num(attribution.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return value.sum(0) if value.ndim == 3 else value


def without_level(value: Array) -> Array:
    """Return zeros for a constant map, which names no place; any other map as it is."""
    constant = value.size > 1 and float(np.ptp(value)) <= CONSTANT * float(np.abs(value).max())
    return np.zeros_like(value) if constant else value


def scale_limit(*maps: Array) -> float:
    """Return the attribution value at the end of the colour scale; never 0."""
    size = np.abs(np.concatenate([m.ravel() for m in maps]))
    return float(np.percentile(size, SCALE_PERCENTILE)) or float(size.max()) or 1.0


def heat_map(value: Array, largest: float, *, signed: bool) -> Plate:
    """Draw an attribution (H, W) on the diverging (signed) or sequential colour scale."""
    share = value / largest
    return Plate(_to_byte(share / 2 + 0.5 if signed else share), "diverging" if signed else "sequential")


def _pool(value: Array) -> Array:
    """Return at most `MAX_BARS` values, from each bin the value furthest from 0."""
    if len(value) <= MAX_BARS:
        return value
    bins = np.array_split(value, MAX_BARS)
    return np.array([part[np.abs(part).argmax()] for part in bins])


def bar_strip(value: Array, largest: float, *, signed: bool, coloured: bool) -> Plate:
    """Draw a 1-D input or attribution (D,) as a strip of bars, from the bottom or, if signed, from the middle."""
    share = np.clip(_pool(value) / largest, -1, 1)
    width = max(3, 256 // len(share))
    level = np.linspace(1, -1, BAR_HEIGHT)[:, None] if signed else np.linspace(1, 0, BAR_HEIGHT)[:, None]
    filled = np.where(share >= 0, (level >= 0) & (level <= share), (level <= 0) & (level >= share))
    filled &= share != 0
    tone = np.broadcast_to(np.array(INK, np.uint8), (len(share), 3))
    if coloured:
        at = _to_byte(share / 2 + 0.5 if signed else share)
        tone = colours("diverging" if signed else "sequential")[at]
    cells = np.where(filled[..., None], tone[None], np.array(PALE, np.uint8))
    strip = np.repeat(cells, width, axis=1)
    strip[:, width - 1 :: width] = PALE  # a gap between bars
    if signed:
        strip[BAR_HEIGHT // 2] = np.minimum(strip[BAR_HEIGHT // 2], 200)
    return Plate(strip.astype(np.uint8))


def encode(plate: Plate, how: Encoding) -> tuple[str, int, int]:
    """Return a picture as a data URI, with its width and height."""
    from PIL import Image

    image = Image.fromarray(plate.pixels)
    if max(image.size) > how.edge:
        scale = how.edge / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.BOX)
    buffer = io.BytesIO()
    lossy = how.lossy and plate.palette is None
    if lossy:
        image.save(buffer, "JPEG", quality=85, subsampling=0)
    else:
        if plate.palette is not None:
            image.putpalette(colours(plate.palette).tobytes())
        image.save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'jpeg' if lossy else 'png'};base64,{text}", image.width, image.height
