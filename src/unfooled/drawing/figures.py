"""Matplotlib figures stored as PNG records, and drawing helpers that several figures share."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#7f7f7f", "#35978f", "#8c510a", "#c51b7d", "#4d4d4d")
MARKERS = "os^Dv*PXph"
"""One marker per colour, so that lines also differ without colour."""


class Picture(BaseModel):
    """A picture on the report page.

    Attributes:
        title: Heading.
        caption: Caption, in full sentences.
        png: PNG file in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    caption: str
    png: str


def new_figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Make a figure and its axes, (rows, columns), without a display; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def as_picture(figure: Any, title: str, caption: str) -> Picture:
    """Store a figure as a record."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Picture(title=title, caption=caption, png=base64.b64encode(buffer.getvalue()).decode())


def show_image(axis: Any, image: Tensor, *, grey: bool = False) -> None:
    """Draw an image, (C, H, W) in [0, 1]; channel counts other than 3 are averaged, with `grey` also 3."""
    shown = image.movedim(0, -1).numpy()
    axis.imshow(shown.mean(-1) if shown.shape[-1] != 3 or grey else shown, cmap="gray", vmin=0, vmax=1)


def name_rows(axes: Any, names: Sequence[str], **style: Any) -> None:
    """Label the rows of a grid of images, and hide all ticks."""
    for name, row in zip(names, axes, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=8, **style)


def name_columns(axes: Any, names: Iterable[str], size: int) -> None:
    """Write a name above each column of a grid."""
    for name, axis in zip(names, axes[0], strict=True):
        axis.set_title(name, fontsize=size, parse_math=False)


def line_heights(n: int) -> list[int]:
    """Return the heights of n lines, the first on top."""
    return list(range(n))[::-1]


def name_lines(axis: Any, names: Sequence[str], *, hidden: bool = False) -> None:
    """Label the lines of an axis, the first on top; with `hidden`, add ticks without labels."""
    axis.set_yticks(line_heights(len(names)), [""] * len(names) if hidden else list(names))


def mark_interval(
    axis: Any, y: float, interval: Sequence[float], colour: str, marker: str = "o", *, label: str | None = None,
    line: float = 1.2, size: float = 5,
) -> None:  # fmt: skip
    """Draw a value and its interval at a height.

    Args:
        axis: Axis to draw on.
        y: Height.
        interval: Value, low and high; further entries are ignored.
        colour: Colour of line and marker.
        marker: Marker of the value.
        label: Text of the legend. None: none.
        line: Width of the line in points.
        size: Size of the marker in points.
    """
    value, low, high = interval[:3]
    axis.plot([low, high], [y, y], color=colour, lw=line)
    axis.plot(value, y, marker, color=colour, ms=size, label=label)


def mark_band(
    axis: Any, x: Sequence[float], intervals: Sequence[Sequence[float]], colour: str, marker: str, *, label: str,
    size: float,
) -> None:  # fmt: skip
    """Draw a curve of values with their intervals as a band; see `mark_interval`."""
    value, low, high = np.array([interval[:3] for interval in intervals], dtype=float).T
    axis.plot(x, value, marker=marker, ms=size, lw=1.2, color=colour, label=label)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def add_legend(axis: Any, **place: Any) -> None:
    """Add a small legend without a frame, if the axis has labelled artists."""
    if axis.get_legend_handles_labels()[0]:
        legend = axis.legend(fontsize=7, frameon=False, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
