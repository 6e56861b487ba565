"""Pictures of the attention study: overlays with arrows, completeness against distance, networks under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.threat_text import eps_text
from unfooled.distances.maps.attention import centroid
from unfooled.drawing.figures import (
    Picture,
    add_legend,
    as_picture,
    line_heights,
    mark_interval,
    name_columns,
    name_lines,
    name_rows,
    new_figure,
    show_image,
)
from unfooled.evaluation.verify import Verdict
from unfooled.statistics.intervals import Interval
from unfooled.studies.attention.records import Analysed
from unfooled.studies.attention.samples import Samples
from unfooled.studies.common.records import array

FOOLED, NOT_FOOLED = "#b2182b", "#2166ac"
"""Colours of fooled and of other samples; markers differ, too."""
ARROW = {"arrowstyle": "->,head_length=0.25,head_width=0.18", "color": "#00e5e5", "lw": 1.8, "shrinkA": 0, "shrinkB": 0}


def in_255(eps: float) -> str:
    """Format a radius as "1.85/255"."""
    return f"{255 * eps:.3g}/255"


def first_images(
    samples: Samples, z: Tensor, maps: tuple[Tensor, Tensor], verdict: Verdict, shown: int, where: str, eps: float
) -> Picture | None:
    """Draw a few fooled and unfooled images, always the first ones in the data set.

    Args:
        samples: Samples that are classified correctly when clean.
        z: Attacked points, (n, C, H, W).
        maps: Attention before and after, (n, h, w) each.
        verdict: Verdict on the attacked points.
        shown: Number of images, two thirds of them fooled where there are enough.
        where: Data set and network.
        eps: Radius of the attack.

    Returns:
        The picture; None where there is no image to show.
    """
    fooled = verdict.success
    rows = torch.cat([fooled.nonzero()[: shown - shown // 3, 0], (~fooled).nonzero()[: shown // 3, 0]])
    if not len(rows) or samples.x.ndim != 4:
        return None
    classes, predicted = samples.classes, verdict.prediction
    texts = [
        f"{classes[int(samples.y[i])]}\n" + (f"-> {classes[int(predicted[i])]}" if fooled[i] else "holds")
        for i in rows.tolist()
    ]
    title = f"{where}: attention to the label, clean and attacked"
    caption = (
        f"The first images of the data set that PGD fools at eps = {in_255(eps)}, the median distance, and the first "
        "that it does not. Arrows lead from the centre of attention before to the one after; contours are the object's "
        "mask, where it is known. Both maps of an image are on one scale."
    )
    before, after = (p[rows] for p in maps)
    mask = None if samples.mask is None else samples.mask[rows]
    return gallery((samples.x[rows], z[rows]), (before, after), texts, mask, title=title, caption=caption)


def gallery(
    inputs: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], texts: Sequence[str], mask: Tensor | None, *,
    title: str, caption: str,
) -> Picture:  # fmt: skip
    """Draw one column per image: clean, attention, attacked, attention with an arrow from its old to its new centre.

    Args:
        inputs: Images before and under attack, (G, C, H, W) each.
        maps: Attention before and under attack, (G, h, w) each.
        texts: Text above each column.
        mask: Mask of the object, (G, H, W), drawn as a contour; None: unknown.
        title: Heading.
        caption: Caption.
    """
    n, size = len(texts), (inputs[0].shape[2], inputs[0].shape[3])
    figure, axes = new_figure(4, n, 1.35 * n + 0.7, 5.9)
    scaled = [F.interpolate(p[:, None], size, mode="bilinear", align_corners=False)[:, 0] for p in maps]
    start, end = (centroid(p) * torch.tensor(size) - 0.5 for p in maps)
    for j in range(n):
        top = float(torch.maximum(scaled[0][j], scaled[1][j]).max()) or 1.0
        for axis, images in zip(axes[::2, j], inputs, strict=True):
            show_image(axis, images[j])
        for axis, images, p in zip(axes[1::2, j], inputs, scaled, strict=True):
            show_image(axis, images[j], grey=True)
            axis.imshow(p[j].numpy(), cmap="inferno", alpha=0.6, vmin=0, vmax=top)
            # Where no box is known there is no contour; Matplotlib before 3.11 warns, and draws another level.
            if mask is not None and float(mask[j].min()) < 0.5 < float(mask[j].max()):
                axis.contour(mask[j].float().numpy(), levels=[0.5], colors="white", linewidths=0.8)
        (i0, j0), (i1, j1) = start[j].tolist(), end[j].tolist()
        axes[1, j].plot(j0, i0, "o", color="white", ms=4, mec="black")
        axes[3, j].plot(j0, i0, "o", color="white", ms=4, mec="black")
        axes[3, j].annotate("", (j1, i1), (j0, i0), arrowprops=ARROW)
    name_columns(axes, texts, 8)
    name_rows(axes, ("clean", "attention", "attacked", "attention, attacked"))
    return as_picture(figure, title, caption)


def vulnerability(rows: Sequence[Analysed], places: Mapping[str, str]) -> Picture:
    """Draw distance against completeness, deviation by outcome, and the course of attention: one row per network.

    Args:
        rows: Analysed networks.
        places: Name -> title of the measures of completeness; the first two are drawn.
    """
    names = [*places][:2]
    figure, axes = new_figure(len(rows), len(names) + 2, 3.1 * (len(names) + 2), 2.8 * len(rows) + 0.2)
    for row, line in zip(rows, axes, strict=True):
        for name, axis in zip(names, line, strict=False):
            _distance(axis, row, name, places[name])
        line[0].set_ylabel(f"{row.data}, {row.arm}\ndistance, 1/255", fontsize=8)
        _deviation(line[-2], row)
        _course(line[-1], row)
    add_legend(axes[0, 0])
    add_legend(next((line[-1] for row, line in zip(rows, axes, strict=True) if row.course), axes[0, -1]))
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    caption = (
        "Distance of the nearest adversarial example against completeness; the dotted line is the median, the radius "
        "of the deviation analysis. Boxes: how far attention to the label moves under PGD at that radius, by outcome, "
        "and under noise of that size. Right: attention along the straight way to the attacked point."
    )
    return as_picture(figure, f"{rows[0].data}: vulnerability, deviation and course", caption)


def _distance(axis: Any, row: Analysed, name: str, title: str) -> None:
    """Draw distance against one measure of completeness, one dot per sample."""
    fooled, distance, values = (
        array(row.columns["fooled"]) > 0.5,
        255 * array(row.columns["distance"]),
        array(row.columns[name]),
    )
    for group, colour, marker, label in ((fooled, FOOLED, "x", "fooled"), (~fooled, NOT_FOOLED, "o", "holds")):
        axis.plot(values[group], distance[group], marker, ms=3, mew=0.8, color=colour, alpha=0.6, label=label, ls="")
    axis.axhline(255 * row.eps, color="0.5", lw=0.8, ls=":")
    axis.set_xlabel(title, fontsize=8)
    inside = values[np.isfinite(values)]
    if len(inside) > 4:  # the middle 98 %, and a little more
        low, high = np.quantile(inside, [0.01, 0.99])
        room = 0.05 * (high - low) + 1e-3
        axis.set_xlim(float(low - room), float(high + room))


def _deviation(axis: Any, row: Analysed) -> None:
    """Draw the movement of attention, by outcome and under noise."""
    fooled = array(row.columns["fooled"]) > 0.5
    moved, noise = array(row.columns["fixed: js"]), array(row.columns["noise: js"])
    groups = {"fooled": moved[fooled], "holds": moved[~fooled], "noise": noise}
    boxes = {name: v[np.isfinite(v)] for name, v in groups.items() if np.isfinite(v).any()}
    axis.boxplot(list(boxes.values()), showfliers=False, widths=0.5, medianprops={"color": "black"})
    axis.set_xticks(range(1, len(boxes) + 1), list(boxes))
    axis.set_title(f"JS divergence at eps = {255 * row.eps:.3g}/255, fixed class", fontsize=8)


def _course(axis: Any, row: Analysed) -> None:
    """Draw attention along the straight line to the attacked point."""
    for name, style in zip(row.course, ("-", "--", ":"), strict=False):
        values = np.array(row.course[name])
        axis.plot(np.linspace(0, 1, len(values)), values, style, color="0.1", lw=1.4, label=name)
    axis.set_xlabel("share of the way to the attacked point", fontsize=8)
    axis.set_title("means over the fooled", fontsize=8)


def compare_networks(lines: Mapping[str, Mapping[str, Interval]], data: str, eps: float) -> Picture:
    """Draw clean accuracy, robust accuracy, and the movement of attention: one line per network.

    Args:
        lines: Network -> title of a figure -> figure.
        data: Name of the data set.
        eps: Radius of the attacks.
    """
    figure, axes = new_figure(1, 2, 9.0, 0.42 * len(lines) + 1.5)
    for axis, shown, title in (
        (axes[0, 0], (("clean", "0.55", "o"), ("cascade", NOT_FOOLED, "s"), ("worst case", FOOLED, "D")), "accuracy"),
        (axes[0, 1], (("noise", "0.55", "o"), ("attention attacked", FOOLED, "D")), "JS divergence, label kept"),
    ):
        for k, (name, colour, marker) in enumerate(shown):
            for y, line in zip(line_heights(len(lines)), lines.values(), strict=True):
                if np.isfinite(line[name].value):
                    label = name if y == len(lines) - 1 else None
                    mark_interval(axis, y + 0.18 * (1 - k), line[name], colour, marker, label=label)
        axis.set_xlim(0, None)
        name_lines(axis, list(lines), hidden=axis is not axes[0, 0])
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.tick_params(labelsize=8)
        add_legend(axis)
    caption = (
        f"{data}, Linf, eps = {eps_text(eps)}: means with 95 % intervals over images. Worst case: cascade, "
        "attention-guided attacks, the training objective and transfer, point by point. Right: how far an attack that "
        "keeps the label moves attention, beside noise of that size."
    )
    return as_picture(figure, f"{data}: networks of equal compute", caption)
