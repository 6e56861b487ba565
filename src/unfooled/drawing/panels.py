"""Panels: a sample, its attacked version, what changed, and an attribution over the sample, as one figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.drawing.figures import name_columns, name_rows, new_figure
from unfooled.drawing.pictures import (
    Array,
    amplification,
    difference,
    displayed,
    form_of,
    heat_map,
    photograph,
    scale_limit,
    without_level,
)
from unfooled.drawing.pictures import colours as palette

MOST_ROWS = 8
"""Largest number of samples that are drawn."""
OPACITY = 0.65
"""Weight of the attribution over the sample where it is largest."""


@dataclass(frozen=True, eq=False)
class Panels:
    """A figure of panels, which a notebook shows.

    Attributes:
        figure: The figure of matplotlib.
    """

    figure: Any

    def save(self, file: str | Path) -> Panels:
        """Write the figure to a file, in the format of its suffix."""
        self.figure.savefig(file, dpi=150)
        return self

    def _repr_png_(self) -> bytes:
        """Return the figure as PNG, for a notebook."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def show(
    x: Any,
    x_adv: Any = None,
    attribution: Any = None,
    *,
    after: Any = None,
    names: Sequence[str] | None = None,
    overlay: bool = True,
    save: str | Path | None = None,
) -> Panels:
    """Draw samples, their attacked versions, the differences, and attributions over them, a row per sample.

    Args:
        x: Images in [0, 1], (B, C, H, W), or one of them, (C, H, W): tensors or arrays; at most 8 are drawn.
        x_adv: The same images, attacked. None: neither they nor the differences are drawn.
        attribution: Attributions of the images, as `explanations` return them. None: none are drawn.
        after: Attributions of the attacked images, on the scale of the others. None: none are drawn.
        names: Name of each row, such as "cat, taken for dog". None: none.
        overlay: True: attributions are drawn over their images; False: by themselves.
        save: File to write, in the format of its suffix. None: none.

    Returns:
        The `Panels`, which a notebook shows; `.figure` is that of matplotlib, `.save(file)` writes it.

    Raises:
        BadInput: Samples that are no images, or shapes that do not agree.

    Example:
        >>> import torch
        >>> x = torch.rand(2, 1, 8, 8)
        >>> len(show(x, 1 - x, x - 0.5).figure.axes)
        8
    """
    given = {"x": x, "x_adv": x_adv, "attribution": attribution, "after": after}
    arrays = {name: _images(value, name) for name, value in given.items() if value is not None}
    shape = arrays["x"].shape
    for name, value in arrays.items():
        if len(value) != shape[0] or value.shape[-2:] != shape[-2:]:
            raise BadInput(f"{name} has shape {value.shape}, x has {shape}; they must be of the same images")
    if names is not None and len(names) < min(len(arrays["x"]), MOST_ROWS):
        raise BadInput(f"there are {len(names)} names for {len(arrays['x'])} images")
    rows = min(shape[0], MOST_ROWS)
    maps = [_maps(arrays, row) for row in range(rows)]
    signed = any(float(m.min()) < 0 for row in maps for m in row.values())
    titles = _titles(arrays)
    figure, axes = new_figure(rows, len(titles), 1.9 * len(titles) + 0.4, 1.9 * rows + 0.3)
    for row in range(rows):
        pictures = _row(arrays, row, maps[row], signed=signed, overlay=overlay)
        for axis, picture in zip(axes[row], pictures, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    name_rows(axes, list(names[:rows]) if names is not None else [""] * rows)
    name_columns(axes, titles, 9)
    panels = Panels(figure)
    return panels if save is None else panels.save(save)


def _images(value: Any, name: str) -> Array:
    """Return images as an array, (B, ..., H, W)."""
    array: Array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or form_of(array.shape[1:]) != "image" or not array.size:
        raise BadInput(f"{name} has shape {array.shape}; images are (B, C, H, W), or (C, H, W) for one")
    return array.astype(np.float64)


def _titles(arrays: dict[str, Array]) -> list[str]:
    """Return the titles of the columns."""
    titles = ["sample"]
    if "x_adv" in arrays:
        factor = amplification(arrays["x"], arrays["x_adv"])
        titles += ["attacked", "difference" if factor == 1 else f"difference x {factor}"]
    shown = {"attribution": "attribution", "after": "after the attack"}
    return [*titles, *(title for name, title in shown.items() if name in arrays)]


def _maps(arrays: dict[str, Array], row: int) -> dict[str, Array]:
    """Return the attributions of a row, without those that name no place."""
    return {name: without_level(displayed(arrays[name][row])) for name in ("attribution", "after") if name in arrays}


def _row(arrays: dict[str, Array], row: int, maps: dict[str, Array], *, signed: bool, overlay: bool) -> list[Any]:
    """Return the pictures of one sample."""
    x = arrays["x"][row]
    pictures: list[Any] = [photograph(x).pixels]
    if "x_adv" in arrays:
        factor = amplification(arrays["x"], arrays["x_adv"])
        pictures += [photograph(arrays["x_adv"][row]).pixels, difference(x, arrays["x_adv"][row], factor).pixels]
    top = scale_limit(*maps.values()) if maps else 1.0
    for name, value in maps.items():
        below = arrays["x_adv"][row] if name == "after" and "x_adv" in arrays else x
        pictures.append(
            _overlaid(below, value, top, signed=signed) if overlay else _coloured(value, top, signed=signed)
        )
    return pictures


def _coloured(value: Array, top: float, *, signed: bool) -> Any:
    """Return an attribution in colours, (H, W, 3)."""
    plate = heat_map(value, top, signed=signed)
    return palette(plate.palette or "sequential")[plate.pixels]


def _overlaid(x: Array, value: Array, top: float, *, signed: bool) -> Any:
    """Return an attribution in colours over a grey image, opaque where it is large."""
    grey = photograph(x).pixels
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    weight = OPACITY * np.clip(np.abs(value) / top, 0, 1)[..., None]
    mixed = (1 - weight) * grey[..., None] + weight * _coloured(value, top, signed=signed)
    return mixed.round().astype(np.uint8)
