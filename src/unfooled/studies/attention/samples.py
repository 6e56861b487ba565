"""Samples of the attention study, with masks of the object where these are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unfooled.data.boxes import load_cub
from unfooled.data.load import load_dataset
from unfooled.data.made.canvas import load_digits_canvas
from unfooled.data.made.shapes import load_shapes
from unfooled.distances.maps.attention import on_grid


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled images, with masks of the object.

    Attributes:
        x: Images, (N, C, H, W).
        y: Labels, (N,).
        classes: Names of the classes.
        mask: Mask of the object, (N, H, W); None: unknown.
        parts: Masks of its parts, (N, parts, H, W); None: unknown.
    """

    x: Tensor
    y: Tensor
    classes: Sequence[str]
    mask: Tensor | None = None
    parts: Tensor | None = None

    def take(self, rows: Tensor) -> Samples:
        """Return the samples of the given rows."""
        mask, parts = (None if m is None else m[rows] for m in (self.mask, self.parts))
        return Samples(self.x[rows], self.y[rows], self.classes, mask, parts)


def known_samples(
    source: str,
    n: int | None = None,
    *,
    split: str = "test",
    size: int | tuple[int, int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    channels: int | None = None,
) -> Samples:
    """Load the samples of a source, with masks of the object where these are known.

    "shapes" has masks of the object and of its parts, "digits-canvas" masks, "cub" boxes; other sources have none.

    Args:
        source: Data set; this and the other arguments as for `load_dataset`.
        n: Samples; None: all.
        split: Part of the source.
        size: Side, or (H, W), that images are resized to; masks and parts are averaged to it. None: not resized.
        labels: Class order; None: the source's own.
        channels: Channels that images are converted to; None: unchanged.
    """
    if source == "cub":
        boxed = load_cub(split, n, size=size, labels=labels)
        return Samples(boxed.data.x, boxed.data.y, boxed.data.classes, boxed.masks)
    data = load_dataset(source, split, n, size=size, labels=labels, channels=channels)
    classes = data.classes or [str(k) for k in range(int(data.y.max()) + 1)]
    kind, _, rho = source.partition(":")  # as `open_source` reads it: a folder may have any name
    mask = parts = None
    drawn = int(data.index.max()) + 1  # the first samples are the same however many are drawn
    if kind == "shapes":
        shapes = load_shapes(drawn, split=data.split, rho=float(rho or 0.25))
        mask, parts = shapes.masks["object"][data.index].float(), shapes.parts[data.index].float()
    elif kind == "digits-canvas":
        mask = load_digits_canvas(drawn, split=data.split).masks[data.index].float()
    if mask is not None:
        sides = (data.x.shape[2], data.x.shape[3])
        mask = on_grid(mask, sides)
        parts = None if parts is None else on_grid(parts.flatten(0, 1), sides).unflatten(0, parts.shape[:2])
    return Samples(data.x, data.y, classes, mask, parts)
