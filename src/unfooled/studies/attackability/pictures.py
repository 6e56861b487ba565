"""Pictures of the study of attackability: worst and random edits, class pairs, effects, radii."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from unfooled.data.made.shapes import ATTRIBUTES, FACTORS
from unfooled.drawing.figures import (
    COLOURS,
    MARKERS,
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
from unfooled.studies.attackability.figures import Results, arrays, correct, factor_mean, middle
from unfooled.studies.attackability.records import Carried, Example
from unfooled.studies.attackability.tables import CLASSES
from unfooled.studies.common.records import array

BARS = 6
"""Attributes whose bars are shown: the edited one, and those that moved most."""
WAYS = {"head": "head only (A)", "total": "total (T)", "twin": "twins"}


def pictures(results: Results) -> list[Picture]:
    """Draw all pictures of the shapes."""
    made = [gallery(one) for one in results.carried if one.examples]
    if results.geometries:
        made += [pairs(results), effects(results)]
    if results.near:
        made.append(radii(results))
    return made


def gallery(one: Carried) -> Picture:
    """Draw the worst and random edits, a column each: x, x', difference, twin, attribute bars, heat map."""
    n = len(one.examples)
    figure, axes = new_figure(6, n, 1.75 * n + 0.7, 11.5)
    for example, column in zip(one.examples, axes.T, strict=True):
        _column(column, example, one.shape)
    name_columns(axes, [f"{example.kind}\n{example.title}" for example in one.examples], 7)
    name_rows(axes[:4], ("x", "x'", "x' - x", "twin"))
    name_rows(axes[5:], ("|de_f / dx|",))
    axes[4, 0].set_ylabel("switches", fontsize=8)
    add_legend(axes[4, 0], loc="lower right")
    caption = (
        "The worst edits (those not valid first, then the least selective) and random ones, not the best. Differences "
        "are the channel of the largest change, red for more, blue for less, white for none, on a scale of their own: "
        "the maximum stands above. Twin: the scene with the attribute truly added or removed, and its label, if the "
        "scene allows it. Bars: the edited attribute and those that moved most, before, wanted and "
        "achieved."
    )
    return as_picture(figure, "Edits of one attribute carried into pixels", caption)


def _column(column: Sequence[Any], example: Example, shape: Sequence[int]) -> None:
    """Draw one example."""
    x, changed = (
        torch.tensor(v, dtype=torch.float32).reshape(*shape) / 255 for v in (example.x, example.changed)
    )  # fmt: skip
    show_image(column[0], x)
    show_image(column[1], changed)
    gap = (changed - x).numpy()
    signed = np.take_along_axis(gap, np.abs(gap).argmax(0)[None], 0)[0]
    top = float(np.abs(signed).max()) or 1.0
    column[2].imshow(signed, cmap="bwr", vmin=-top, vmax=top)
    column[2].set_title(f"max {top:.3f}", fontsize=7)
    if example.twin:
        show_image(column[3], torch.tensor(example.twin, dtype=torch.float32).reshape(*shape) / 255)
    else:
        column[3].set_box_aspect(1)
        column[3].spines[:].set_visible(False)
    column[3].set_title(example.twin_title, fontsize=7)
    before, wanted, achieved = (np.array(v) for v in (example.before, example.wanted, example.achieved))
    edited = int(np.abs(wanted - before).argmax())
    others = [k for k in np.abs(achieved - before).argsort()[::-1].tolist() if k != edited][: BARS - 1]
    shown = [edited, *others]
    for k, (values, words) in enumerate(((before, "before"), (wanted, "wanted"), (achieved, "achieved"))):
        heights = [y + 0.27 * (1 - k) for y in line_heights(len(shown))]
        column[4].barh(heights, values[shown], 0.25, color=COLOURS[k], label=words)
    name_lines(column[4], [ATTRIBUTES[k].replace("=", "\n") for k in shown])
    column[4].axvline(0, color="0.6", lw=0.8)
    column[4].tick_params(labelsize=5)
    column[5].imshow(np.array(example.saliency).reshape(shape[-2:]), cmap="cividis")


def pairs(results: Results) -> Picture:
    """Draw the heat map of class pairs for each correlation of the background."""
    n = len(results.rhos)
    figure, axes = new_figure(1, n, 3.2 * n + 0.8, 3.2)
    for rho, axis in zip(results.rhos, axes[0], strict=True):
        every = np.array([[array(row) for row in one.pairs] for one in results.at(rho)])
        seen = np.isfinite(every).any(0)
        table = np.full(every.shape[1:], np.nan)
        table[seen] = np.nanmedian(every[:, seen], axis=0)
        axis.imshow(table, cmap="cividis")
        for (i, j), value in np.ndenumerate(table):
            if np.isfinite(value):
                box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1}
                axis.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, bbox=box)
        axis.set_xticks(range(len(CLASSES)), CLASSES, rotation=45, ha="right", fontsize=7)
        axis.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
        axis.set_title(f"rho {rho:g}", fontsize=9)
    caption = (
        "Median radius, in within-class standard deviations, from the class predicted (row) to the boundary with a "
        "rival (column); the median of the networks."
    )
    return as_picture(figure, "Class pairs", caption)


def effects(results: Results) -> Picture:
    """Draw the effects of each factor through the head and in total beside its twins."""
    n, names = len(results.rhos), list(FACTORS)
    figure, axes = new_figure(1, n, 3.4 * n + 0.8, 3.6)
    for rho, axis in zip(results.rhos, axes[0], strict=True):
        for k, (what, words) in enumerate(WAYS.items()):
            for y, name in zip(line_heights(len(names)), names, strict=True):
                effect = factor_mean(results.at(rho), name, what)
                if effect.n:
                    label = words if name == names[0] else None
                    mark_interval(axis, y + 0.22 * (1 - k), effect, COLOURS[k], MARKERS[k], label=label)
        name_lines(axis, names, hidden=axis is not axes[0, 0])
        axis.set_title(f"rho {rho:g}", fontsize=9)
        axis.set_xlim(-0.02, 1.02)
        axis.tick_params(labelsize=8)
    add_legend(axes[0, 0])
    caption = (
        "Share of changes of a factor that change the prediction, with 95 % intervals over scenes and networks: one "
        "switch of an attribute's own logit, everything that moves with the attribute, and a true change of the scene."
    )
    return as_picture(figure, "Effects of the factors", caption)


def radii(results: Results) -> Picture:
    """Draw radii against pixel distances, scenes of one network and medians of all."""
    figure, axes = new_figure(1, 2, 7.4, 3.4)
    first = arrays(results.near[0].columns)
    axes[0, 0].plot(first["radius"], first["distance"], "o", ms=3, color=COLOURS[0], alpha=0.6)
    axes[0, 0].set_title("scenes of the first network", fontsize=9)
    groups = {
        "concept networks": [arrays(one.columns) for one in results.near],
        "concept trainings at equal compute": [correct(one) for one in results.trained],
    }
    for k, (words, sets) in enumerate(groups.items()):
        places = [[middle(one[name]) for one in sets] for name in ("radius", "distance")]
        axes[0, 1].plot(*places, MARKERS[k], ms=4, color=COLOURS[k], label=words)
    axes[0, 1].set_title("medians of networks", fontsize=9)
    add_legend(axes[0, 1])
    for axis in axes[0]:
        axis.set_xlabel("radius, within-class standard deviations", fontsize=8)
        axis.set_ylabel("pixel distance, l2", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    caption = "The pixel distance is that of the nearest adversarial example of DDN and FMN, judged anew."
    return as_picture(figure, "Radius against pixel distance", caption)
