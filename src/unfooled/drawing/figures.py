"""Figures as records: drawn without a display, kept as PNG."""

from __future__ import annotations

import base64
import io
from typing import Any

from pydantic import BaseModel, ConfigDict


class Picture(BaseModel):
    """A picture for the page: a PNG in base64, and a caption that says what is to be seen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    caption: str
    png: str


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, (rows, columns), without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(found)
    return found, found.subplots(rows, columns, squeeze=False)


def picture(found: Any, title: str, caption: str) -> Picture:
    """The figure as a record."""
    buffer = io.BytesIO()
    found.savefig(buffer, format="png", dpi=110)
    return Picture(title=title, caption=caption, png=base64.b64encode(buffer.getvalue()).decode())
