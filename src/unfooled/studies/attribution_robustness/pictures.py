"""Pictures of the attribution-robustness study: scores by network, scores against the radius, and the worst cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.core.threat_text import eps_text
from unfooled.distances import as_maps, top_k_mask
from unfooled.drawing.figures import (
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
from unfooled.studies.attribution_robustness.records import Pool, Scores
from unfooled.studies.attribution_robustness.scale import MapTask

STYLES = {
    "attack": ("#b2182b", "o"),
    "best of N": ("#2166ac", "s"),
    "random": ("#7f7f7f", "^"),
    "another image": ("#1b7837", "D"),
}
"""Colour and marker of each perturbation and of the level of unrelated images; told apart without colour, too."""
TITLES = {"tau": "Kendall's tau"}
"""Titles of scores whose name in pictures differs from that in tables."""


def bars(pool: Pool, scores: Sequence[str]) -> Picture:
    """Draw each network under the attack and the baselines: means over all images, seeds as dots."""
    arms = pool.arms
    figure, axes = new_figure(1, len(scores), 3.4 * len(scores) + 0.8, 0.42 * len(arms) + 1.6)
    for score, axis in zip(scores, axes[0], strict=True):
        for j, (how, (colour, marker)) in enumerate(STYLES.items()):
            for y, arm in zip(line_heights(len(arms)), arms, strict=True):
                interval = pool.mean(arm, how, score)
                if not interval.n:
                    continue
                place = y + 0.2 * (1.5 - j)
                label = how if y == len(arms) - 1 else None
                mark_interval(axis, place, interval, colour, marker, label=label)
                for seed in pool.seeds(arm):
                    values = pool.columns(arm, {"score": (how, score)}, [seed])["score"]
                    if np.isfinite(values).any():
                        axis.plot(np.nanmean(values), place, ".", color="black", ms=2.5)
        axis.axvline(0, color="0.6", lw=0.8, ls=":")
        name_lines(axis, arms, hidden=axis is not axes[0, 0])
        axis.set_title(TITLES.get(score, score), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_xlim(right=1.02)
    add_legend(axes[0, -1], loc="lower right")
    caption = (
        f"{pool.where}, eps {eps_text(pool.task.eps)}: mean score with its 95 % interval over images; small "
        "dots are seeds. 1: nothing moved; dotted: what an unrelated map scores where the score is corrected."
    )
    return as_picture(figure, f"{pool.task.source}: {pool.look} by network", caption)


def curves(task: MapTask, rows: Sequence[Scores], scores: Sequence[str], look: str) -> Picture | None:
    """Draw scores against the radius, attack and baselines, a column per network; None for one radius."""
    rows = [r for r in rows if r.data == task.source and r.look == look]
    radii = sorted({r.eps for r in rows})
    arms = list(dict.fromkeys(r.arm for r in rows))
    if len(radii) < 2:
        return None
    pools = {eps: Pool(task, look, {(r.arm, r.seed): r for r in rows if r.eps == eps}) for eps in radii}
    figure, axes = new_figure(len(scores), len(arms), 2.3 * len(arms) + 0.6, 2.0 * len(scores) + 0.5)
    for score, line in zip(scores, axes, strict=True):
        for arm, axis in zip(arms, line, strict=True):
            _curve(axis, pools, arm, score)
        line[0].set_ylabel(TITLES.get(score, score), fontsize=8)
    name_columns(axes, arms, 9)
    for axis in axes[-1]:
        axis.set_xlabel("eps", fontsize=8)
    add_legend(axes[0, 0])
    caption = (
        f"{task.source}, {look}: mean score against the radius, bands are 95 % intervals over images. The dotted line "
        "is what an unrelated map scores where the score is corrected."
    )
    return as_picture(figure, f"{task.source}: {look} against the radius", caption)


def _curve(axis: Any, pools: dict[float, Pool], arm: str, score: str) -> None:
    """Draw one network's score against the radius, one curve per perturbation."""
    for how, (colour, marker) in STYLES.items():
        means = {eps: pool.mean(arm, how, score) for eps, pool in pools.items()}
        means = {eps: mean for eps, mean in means.items() if mean.n}
        if means:
            mark_band(axis, list(means), list(means.values()), colour, marker, label=how, size=3.5)
    axis.axhline(0, color="0.6", lw=0.8, ls=":")
    axis.set_ylim(min(-0.1, axis.get_ylim()[0]), 1.02)
    axis.set_xlim(0, None)
    axis.tick_params(labelsize=7)


def gallery(
    inputs: tuple[Tensor, Tensor], maps: tuple[Tensor, Tensor], captions: Sequence[str], k: int, title: str
) -> Picture:
    """Draw the worst cases, a column each: input, map, map under attack, and both top-k sets.

    Args:
        inputs: Images before and under attack, (G, C, H, W) each.
        maps: Attributions before and under attack, (G, C, H, W) each.
        captions: Text above each column.
        k: Size of the top sets.
        title: Heading.
    """
    n = len(captions)
    figure, axes = new_figure(5, n, 1.25 * n + 0.7, 6.6)
    a, b = (as_maps(one) for one in maps)
    first, second = top_k_mask(a, k), top_k_mask(b, k)
    for j in range(n):
        for axis, images in zip(axes[:2, j], inputs, strict=True):
            show_image(axis, images[j])
        top = float(torch.maximum(a[j], b[j]).quantile(0.995)) or 1.0
        for axis, one in zip(axes[2:4, j], (a[j], b[j]), strict=True):
            axis.imshow(one.numpy(), cmap="cividis", vmin=0, vmax=top)
        paint = np.ones((*first.shape[1:], 3))
        paint[first[j].numpy()] = (0.13, 0.4, 0.67)
        paint[second[j].numpy()] = (0.84, 0.38, 0.3)
        paint[(first & second)[j].numpy()] = (0.2, 0.2, 0.2)
        axes[4, j].imshow(paint)
    name_columns(axes, captions, 8)
    name_rows(axes, ("input", "attacked", "why", "why, attacked", f"top {k}"))
    caption = (
        "The images whose corrected LENS fell most. Both maps of an image are on one scale. Last row: blue, in the top "
        f"{k} only before; red, only under attack; black, in both."
    )
    return as_picture(figure, title, caption)
