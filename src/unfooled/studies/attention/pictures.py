"""Pictures of the attention study: overlays with arrows, completeness against distance, networks under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.threats import eps_text
from unfooled.distances.maps.attention import centroid
from unfooled.drawing.figures import Picture, figure, picture
from unfooled.studies.attention.records import Analysed
from unfooled.studies.common.records import array

FELL, HELD = "#b2182b", "#2166ac"
"""Colours of what was fooled and of what was not; markers differ, too."""


def gallery(
    x: Tensor, z: Tensor, before: Tensor, after: Tensor, says: Sequence[str], mask: Tensor | None, title: str,
    caption: str,
) -> Picture:  # fmt: skip
    """A column an image: clean, attention before, attacked, attention after with the arrow of its centre.

    Args:
        x: images, (G, C, H, W).
        z: attacked, likewise.
        before: maps, (G, h, w).
        after: likewise.
        says: above each column.
        mask: of the object, (G, H, W), drawn as a contour.
        title: of the picture.
        caption: likewise.
    """
    found, axes = figure(4, len(x), 1.35 * len(x) + 0.7, 5.9)
    size = (x.shape[2], x.shape[3])
    maps = [F.interpolate(p[:, None], size, mode="bilinear", align_corners=False)[:, 0] for p in (before, after)]
    start, end = (centroid(p) * torch.tensor(size) - 0.5 for p in (before, after))
    for j in range(len(x)):
        top = float(torch.maximum(maps[0][j], maps[1][j]).max()) or 1.0
        for axis, image in zip(axes[::2, j], (x[j], z[j]), strict=True):
            _shown(axis, image)
        for axis, image, p in zip(axes[1::2, j], (x[j], z[j]), (maps[0][j], maps[1][j]), strict=True):
            _shown(axis, image, grey=True)
            axis.imshow(p.numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=top)
            # Where no box is known there is no contour; Matplotlib before 3.11 warns, and draws another level.
            if mask is not None and float(mask[j].min()) < 0.5 < float(mask[j].max()):
                axis.contour(mask[j].float().numpy(), levels=[0.5], colors="white", linewidths=0.8)
        (i0, j0), (i1, j1) = start[j].tolist(), end[j].tolist()
        axes[1, j].plot(j0, i0, "o", color="white", ms=4, mec="black")
        arrow = {
            "arrowstyle": "->,head_length=0.25,head_width=0.18",
            "color": "#00e5e5",
            "lw": 1.8,
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes[3, j].plot(j0, i0, "o", color="white", ms=4, mec="black")
        axes[3, j].annotate("", (j1, i1), (j0, i0), arrowprops=arrow)
        axes[0, j].set_title(says[j], fontsize=8)
    for name, row in zip(("clean", "attention", "attacked", "attention, attacked"), axes, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=8)
    return picture(found, title, caption)


def _shown(axis: Any, image: Tensor, *, grey: bool = False) -> None:
    shown = image.movedim(0, -1).numpy()
    plain = shown.shape[-1] != 3 or grey
    axis.imshow(shown.mean(-1) if plain else shown, cmap="gray", vmin=0, vmax=1)


def scatter(rows: Sequence[Analysed], places: Mapping[str, str]) -> Picture:
    """Vulnerability against completeness, deviation of either group, and the course: a row a network."""
    names = [*list(places)[:2]]
    found, axes = figure(len(rows), len(names) + 2, 3.1 * (len(names) + 2), 2.8 * len(rows) + 0.2)
    for r, line in zip(rows, axes, strict=True):
        fell = array(r.columns["fooled"]) > 0.5
        distance = 255 * array(r.columns["distance"])
        for name, axis in zip(names, line, strict=False):
            values = array(r.columns[name])
            for group, colour, marker, label in ((fell, FELL, "x", "fooled"), (~fell, HELD, "o", "holds")):
                axis.plot(
                    values[group], distance[group], marker, ms=3, mew=0.8, color=colour, alpha=0.6, label=label, ls=""
                )
            axis.axhline(255 * r.eps, color="0.5", lw=0.8, ls=":")
            axis.set_xlabel(places[name], fontsize=8)
            inside = values[np.isfinite(values)]
            if len(inside) > 4:
                axis.set_xlim(*_reach(inside))
        line[0].set_ylabel(f"{r.data}, {r.arm}\ndistance, 1/255", fontsize=8)
        axis = line[-2]
        moved, noise = array(r.columns["fixed: js"]), array(r.columns["noise: js"])
        groups = [("fooled", moved[fell]), ("holds", moved[~fell]), ("noise", noise)]
        kept = [(name, v[np.isfinite(v)]) for name, v in groups if np.isfinite(v).any()]
        axis.boxplot([v for _, v in kept], showfliers=False, widths=0.5, medianprops={"color": "black"})
        axis.set_xticks(range(1, len(kept) + 1), [name for name, _ in kept])
        axis.set_title(f"JS divergence at eps = {255 * r.eps:.3g}/255, fixed class", fontsize=8)
        axis = line[-1]
        for name, style in zip(r.course, ("-", "--", ":"), strict=False):
            values = np.array(r.course[name])
            axis.plot(np.linspace(0, 1, len(values)), values, style, color="0.1", lw=1.4, label=name)
        axis.set_xlabel("share of the way to the attacked point", fontsize=8)
        axis.set_title("means over the fooled", fontsize=8)
    _legend(axes[0, 0])
    _legend(next((line[-1] for r, line in zip(rows, axes, strict=True) if r.course), axes[0, -1]))
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    caption = (
        "Distance of the nearest adversarial example against completeness; the dotted line is the median, the radius "
        "of the deviation analysis. Boxes: how far attention to the label moves under PGD at that radius, by outcome, "
        "and under noise of that size. Right: attention along the straight way to the attacked point."
    )
    return picture(found, f"{rows[0].data}: vulnerability, deviation and course", caption)


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False)


def _reach(values: np.ndarray) -> tuple[float, float]:
    """The middle 98 %, and a little more."""
    low, high = np.quantile(values, [0.01, 0.99])
    room = 0.05 * (high - low) + 1e-3
    return float(low - room), float(high + room)


def networks(lines: Sequence[dict[str, Any]], data: str, eps: float) -> Picture:
    """Clean accuracy, what attacks leave, and how far attention can be moved: a line a network.

    Args:
        lines: of each network: name, clean, robust and fragility as (value, low, high).
        data: name.
        eps: of the attacks.
    """
    found, axes = figure(1, 2, 9.0, 0.42 * len(lines) + 1.5)
    at = np.arange(len(lines))[::-1]
    for axis, shown, title in (
        (axes[0, 0], (("clean", "0.55", "o"), ("cascade", HELD, "s"), ("worst case", FELL, "D")), "accuracy"),
        (axes[0, 1], (("noise", "0.55", "o"), ("attention attacked", FELL, "D")), "JS divergence, label kept"),
    ):
        for k, (name, colour, marker) in enumerate(shown):
            for y, line in zip(at, lines, strict=True):
                value, low, high = line[name]
                if not np.isfinite(value):
                    continue
                place = y + 0.18 * (1 - k)
                axis.plot([low, high], [place, place], color=colour, lw=1.2)
                axis.plot(value, place, marker, color=colour, ms=5, label=name if y == at[0] else None)
        axis.set_xlim(0, None)
        axis.set_yticks(at, [line["name"] for line in lines] if axis is axes[0, 0] else [""] * len(at))
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        _legend(axis)
    caption = (
        f"{data}, Linf, eps = {eps_text(eps)}: means with 95 % intervals over images. Worst case: cascade, "
        "attention-guided attacks, the training objective and transfer, point by point. Right: how far an attack that "
        "keeps the label moves attention, beside noise of that size."
    )
    return picture(found, f"{data}: networks of equal compute", caption)
