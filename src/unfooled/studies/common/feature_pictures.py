"""Pictures of the studies of features: rebuilt images, accuracies by corruption, under attack, and by set size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from unfooled.drawing.figures import (
    COLOURS,
    MARKERS,
    Picture,
    add_legend,
    as_picture,
    line_heights,
    mark_band,
    mark_interval,
    name_columns,
    name_lines,
    name_rows,
    new_figure,
    show_image,
)
from unfooled.statistics.intervals import Interval


def image_rows(rows: Mapping[str, Tensor], names: Sequence[str], *, title: str, caption: str) -> Picture:
    """Draw a few images, as they are and as they were rebuilt: one row per set, one column per image."""
    figure, axes = new_figure(len(rows), len(names), 0.9 * len(names) + 1.2, 0.9 * len(rows) + 0.4)
    for images, line in zip(rows.values(), axes, strict=True):
        for image, axis in zip(images, line, strict=True):
            show_image(axis, image)
    name_rows(axes, list(rows), rotation=0, ha="right", va="center")
    name_columns(axes, names, 9)
    return as_picture(figure, title, caption)


def accuracy_by_column(
    rows: Mapping[str, Sequence[Interval]], published: Mapping[str, Sequence[float]], groups: Sequence[str], title: str
) -> Picture:
    """Draw accuracies by network, one panel per corruption, with published figures as open marks.

    Args:
        rows: Network -> accuracy in each panel.
        published: Network -> published accuracy in each panel.
        groups: Names of the panels.
        title: Heading.
    """
    figure, axes = new_figure(1, len(groups), 2.0 * len(groups) + 2.2, 0.3 * len(rows) + 1.1)
    for k, (group, axis) in enumerate(zip(groups, axes[0], strict=True)):
        for y, (name, intervals) in zip(line_heights(len(rows)), rows.items(), strict=True):
            if intervals[k].n:
                mark_interval(axis, y, intervals[k], COLOURS[0], line=1.5, size=4.5)
            if name in published:
                axis.plot(published[name][k], y, "D", mfc="none", mec=COLOURS[1], ms=7)
        axis.set_title(group, fontsize=9)
        name_lines(axis, list(rows), hidden=k > 0)
        axis.tick_params(labelsize=8)
        axis.grid(axis="x", lw=0.4, alpha=0.5)
        axis.set_xlim(right=1.01)
    caption = "Accuracy with its 95 % interval (filled) and the published figure (open). Panels have their own scales."
    return as_picture(figure, title, caption)


def under_attack(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], title: str = "Under attack"
) -> Picture:
    """Draw the accuracy left at each radius: a panel per norm, a line per network; see `AttackedAccuracies.curves`."""
    figure, axes = new_figure(1, len(curves), 4.4 * len(curves) + 2.6, 3.6)
    for (norm, lines), axis in zip(curves.items(), axes[0], strict=True):
        for k, (name, (radii, left)) in enumerate(lines.items()):
            style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            axis.plot([0, *radii], left, label=name, ms=4, lw=1.2, ls="-" if k < len(COLOURS) else ":", **style)
        axis.set_xlabel(f"radius, {norm}", fontsize=9)
        axis.set_ylim(-0.02, 1.02)
        axis.tick_params(labelsize=8)
    axes[0, 0].set_ylabel("accuracy left", fontsize=9)
    add_legend(axes[0, -1], loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return as_picture(figure, title, "Accuracy that the cascade leaves, over the seeds; at 0, of the clean images.")


def accuracy_by_size(lines: Mapping[str, Mapping[int, Sequence[Interval]]], groups: Sequence[str]) -> Picture:
    """Draw accuracy against the number of images in a set, at equal numbers of updates.

    Args:
        lines: Set -> number of images -> accuracy in each panel.
        groups: Names of the panels.
    """
    figure, axes = new_figure(1, len(groups), 2.3 * len(groups) + 0.8, 2.7)
    for k, (group, axis) in enumerate(zip(groups, axes[0], strict=True)):
        for j, (name, points) in enumerate(lines.items()):
            sizes = sorted(points)
            mark_band(axis, sizes, [points[n][k] for n in sizes], COLOURS[j], MARKERS[j], label=name, size=4)
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axis.minorticks_off()
        axis.set_title(group, fontsize=9)
        axis.tick_params(labelsize=7, which="both")
        axis.set_xlabel("images", fontsize=8)
    add_legend(axes[0, 0])
    return as_picture(
        figure, "By the size of the set", "Accuracy of networks trained on parts of the sets, equally long."
    )
