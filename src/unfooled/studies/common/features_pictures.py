"""Pictures of the studies of features: rebuilt images, accuracies by corruption, under attack, and by set size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from unfooled.drawing.figures import Picture, figure, picture
from unfooled.studies.common.figures import Figures

COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#7f7f7f", "#35978f", "#8c510a", "#c51b7d", "#4d4d4d")
MARKERS = "os^Dv*PXph"


def digits(rows: Mapping[str, Tensor], names: Sequence[str], *, title: str, caption: str) -> Picture:
    """Ten images, as they are and as they were rebuilt: a row a set, a column an image."""
    found, axes = figure(len(rows), len(names), 0.9 * len(names) + 1.2, 0.9 * len(rows) + 0.4)
    for (label, images), line in zip(rows.items(), axes, strict=True):
        for image, axis in zip(images, line, strict=True):
            shown = image.permute(1, 2, 0) if len(image) == 3 else image.amax(0)
            axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center")
    for name, axis in zip(names, axes[0], strict=True):
        axis.set_title(name, fontsize=9)
    return picture(found, title, caption)


def levels(
    rows: Mapping[str, Sequence[Figures]], published: Mapping[str, Sequence[float]], groups: Sequence[str], title: str
) -> Picture:
    """Accuracy under each corruption: a row a network, a panel a corruption; the published figure as an open mark."""
    found, axes = figure(1, len(groups), 2.0 * len(groups) + 2.2, 0.3 * len(rows) + 1.1)
    at = np.arange(len(rows))[::-1]
    for k, (group, axis) in enumerate(zip(groups, axes[0], strict=True)):
        for y, (name, figures) in zip(at, rows.items(), strict=True):
            value, low, high, n = figures[k]
            if n:
                axis.plot([low, high], [y, y], color=COLOURS[0], lw=1.5)
                axis.plot(value, y, "o", color=COLOURS[0], ms=4.5)
            if name in published:
                axis.plot(published[name][k], y, "D", mfc="none", mec=COLOURS[1], ms=7)
        axis.set_title(group, fontsize=9)
        axis.set_yticks(at, list(rows) if k == 0 else [""] * len(at))
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", lw=0.4, alpha=0.5)
        axis.set_xlim(right=1.01)
    caption = "Accuracy with its 95 % interval (filled) and the published figure (open). Panels have their own scales."
    return picture(found, title, caption)


def under_attack(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], title: str = "Under attack"
) -> Picture:
    """Accuracy left at each radius: a panel a norm, a line a network."""
    found, axes = figure(1, len(curves), 4.4 * len(curves) + 2.6, 3.6)
    for (norm, lines), axis in zip(curves.items(), axes[0], strict=True):
        for k, (name, (radii, left)) in enumerate(lines.items()):
            style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            axis.plot([0, *radii], left, label=name, ms=4, lw=1.2, ls="-" if k < len(COLOURS) else ":", **style)
        axis.set_xlabel(f"radius, {norm}", fontsize=9)
        axis.set_ylim(-0.02, 1.02)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("accuracy left", fontsize=9)
    axes[0, -1].legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return picture(found, title, "Accuracy that the cascade leaves, over the seeds; at 0, of the clean images.")


def by_size(lines: Mapping[str, Mapping[int, Sequence[Figures]]], groups: Sequence[str]) -> Picture:
    """Accuracy against the number of images that a set holds, at equal updates."""
    found, axes = figure(1, len(groups), 2.3 * len(groups) + 0.8, 2.7)
    for k, (group, axis) in enumerate(zip(groups, axes[0], strict=True)):
        for j, (name, points) in enumerate(lines.items()):
            sizes = sorted(points)
            value, low, high = np.array([points[n][k][:3] for n in sizes]).T
            axis.plot(sizes, value, marker=MARKERS[j], color=COLOURS[j], ms=4, lw=1.2, label=name)
            axis.fill_between(sizes, low, high, color=COLOURS[j], alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
        axis.set_title(group, fontsize=9)
        axis.tick_params(labelsize=7, which="both")
        axis.set_xlabel("images", fontsize=8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    return picture(found, "By the size of the set", "Accuracy of networks trained on parts of the sets, equally long.")
