"""Digits on textured canvases, among fragments of other digits; the position of a digit is independent of its class.

scikit-learn's digits, enlarged to 16x16, each on a 40x40 canvas with smooth texture and six fragments of other digits.
The digit covers the texture and fragments below it; its mask is its ink, dilated by a pixel. Position, texture and
fragments are drawn independently of the class. Train and test digits are those of `digits`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.data.dataset import Source
from unfooled.data.made.digits import digits

SIDE, DIGIT, FRAGMENT, FRAGMENTS = 40, 16, 7, 6
MIN_INK = 0.25
"""Least brightness of a pixel that counts as ink."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """Digits on canvases, with their masks and positions.

    Attributes:
        x: Images, (N, 1, 40, 40) float32 in [0, 1].
        y: Labels, (N,) int64.
        masks: Dilated ink of the digit, (N, 40, 40) bool.
        corner: Row and column of the 16x16 square that holds the digit, (N, 2) int64.
    """

    x: Tensor
    y: Tensor
    masks: Tensor
    corner: Tensor


def load_digits_canvas(n: int | None = None, *, seed: int = 0, split: str = "train") -> Canvas:
    """Place digits on canvases.

    Args:
        n: Number of canvases; if there are fewer digits, they are repeated at other positions. None: one per digit
            (1,257 in train, 540 in test).
        seed: Random seed of order, positions, textures and fragments.
        split: "train" or "test".

    Raises:
        BadInput: n is below 1, or there is no such split.
    """
    source = digits(split)
    count = len(source.y) if n is None else n
    if count < 1:
        raise BadInput(f"n is {n}; it must be at least 1, or None for one canvas per digit")
    return _draw_canvases(source, np.arange(count), seed)


def digits_canvas(split: str) -> Source:
    """Open the canvases as a data source, one per digit, drawn on demand."""
    source = digits(split)
    y = _draw_canvases(source, np.arange(len(source.y)), 0, pixels=False).y.numpy()
    return Source(
        "digits-canvas", source.split, y, source.classes, lambda rows: _draw_canvases(source, rows, 0).x.numpy()
    )


def _draw_canvases(source: Source, rows: np.ndarray, seed: int, *, pixels: bool = True) -> Canvas:
    """Draw the canvases of some rows; with `pixels` False, return only their labels."""
    number = {"train": 0, "test": 1}[source.split]
    order = np.random.default_rng([seed, number]).permutation(len(source.y))
    digit_of = order[rows % len(order)]
    y = torch.from_numpy(source.y[digit_of])
    if not pixels:
        nothing = torch.zeros(0)
        return Canvas(nothing, y, nothing, nothing)
    large = F.interpolate(torch.from_numpy(source.read(np.arange(len(source.y)))), (DIGIT, DIGIT), mode="bilinear")
    glyphs = large[:, 0].numpy()
    x = np.empty((len(rows), SIDE, SIDE), np.float32)
    ink = np.zeros((len(rows), SIDE, SIDE), np.float32)
    corner = np.empty((len(rows), 2), np.int64)
    for k, (row, digit) in enumerate(zip(rows.tolist(), digit_of.tolist(), strict=True)):
        draw = np.random.default_rng([seed, number, 1, row])  # random numbers depend on the row, not on the batch
        coarse = torch.from_numpy(draw.random((1, 1, 6, 6), np.float32))
        x[k] = 0.35 * F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=True)[0, 0].clamp(0, 1).numpy()
        for _ in range(FRAGMENTS):
            other = glyphs[draw.integers(len(glyphs))]
            (a, b), (i, j) = draw.integers(DIGIT - FRAGMENT, size=2), draw.integers(SIDE - FRAGMENT, size=2)
            place = x[k, i : i + FRAGMENT, j : j + FRAGMENT]
            np.maximum(place, 0.9 * other[a : a + FRAGMENT, b : b + FRAGMENT], out=place)
        corner[k] = i, j = draw.integers(SIDE - DIGIT + 1, size=2)
        ink[k, i : i + DIGIT, j : j + DIGIT] = glyphs[digit]
    masks = F.max_pool2d(torch.from_numpy(ink)[:, None], 3, stride=1, padding=1)[:, 0] >= MIN_INK
    # Inside the mask only the digit is drawn, so that it is legible on any texture.
    inside = torch.where(masks, torch.from_numpy(ink), torch.from_numpy(x))
    return Canvas(inside[:, None], y, masks, torch.from_numpy(corner))
