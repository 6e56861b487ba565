"""Matplotlib figures of explanations."""

from __future__ import annotations

from typing import Any

import numpy as np

from unfooled.drawing import TOKENS, displayed, form_of
from unfooled.explanations.lime.render import FACTOR, shortened
from unfooled.explanations.lime.view import Chart, Picture


def figure(chart: Chart, picture: Picture | None) -> Any:
    """Return a matplotlib figure of one class: bars with error bars, and an image's signed map."""
    from matplotlib.figure import Figure

    drawn = picture if picture is not None and form_of(tuple(picture.x.shape)) == "image" else None
    bars = chart.bars
    fig = Figure(figsize=(9 if drawn else 6, 0.6 + 0.35 * max(3, len(bars))), layout="constrained")
    axes = fig.subplots(1, 2 if drawn else 1, squeeze=False)[0]
    places = range(len(bars))[::-1]
    axes[0].barh(
        places,
        [bar.weight for bar in bars],
        xerr=[FACTOR * bar.se for bar in bars],
        color=[TOKENS["fooled"][0] if bar.weight > 0 else TOKENS["held"][0] for bar in bars],
        capsize=2,
    )
    reach = max((abs(bar.weight) + FACTOR * bar.se for bar in bars), default=0.0) or 1.0
    axes[0].set(yticks=places, xlim=(-reach, reach))
    axes[0].set_yticklabels([shortened(bar.name, 24) for bar in bars], parse_math=False)
    axes[0].axvline(0, color=TOKENS["strong"][0], linewidth=0.8)
    axes[0].set_title(chart.title, parse_math=False)
    if drawn is not None:
        value = displayed(drawn.weights.numpy())
        limit = float(np.abs(value).max()) or 1.0
        image = axes[1].imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit)
        fig.colorbar(image, ax=axes[1])
        axes[1].set_axis_off()
    return fig
