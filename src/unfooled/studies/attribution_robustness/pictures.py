"""Pictures of the attribution-robustness study: scores by network, scores against the radius, and the worst cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unfooled.distances import as_maps, top_k_mask
from unfooled.drawing.figures import Picture, figure, picture
from unfooled.studies.attribution_robustness.figures import average
from unfooled.studies.attribution_robustness.networks import Task
from unfooled.studies.attribution_robustness.records import Pool, Scores

STYLES = {
    "attack": ("#b2182b", "o"),
    "best of N": ("#2166ac", "s"),
    "random": ("#7f7f7f", "^"),
    "another image": ("#1b7837", "D"),
}
"""Colour and marker of each perturbation and of the level of unrelated images; told apart without colour, too."""


def bars(pool: Pool, scores: Sequence[tuple[str, str]]) -> Picture:
    """Each network under the attack and the two baselines: means over all images, seeds as dots."""
    found, axes = figure(1, len(scores), 3.4 * len(scores) + 0.8, 0.42 * len(pool.arms) + 1.6)
    at = np.arange(len(pool.arms))[::-1]
    for (score, title), axis in zip(scores, axes[0], strict=True):
        for j, (how, (colour, marker)) in enumerate(STYLES.items()):
            for y, arm in zip(at, pool.arms, strict=True):
                value, low, high, n = average(pool.together(arm, how, score), pool.images(arm))
                if not n:
                    continue
                place = y + 0.2 * (1.5 - j)
                axis.plot([low, high], [place, place], color=colour, lw=1.2)
                axis.plot(value, place, marker, color=colour, ms=5, label=how if y == at[0] else None)
                for seed in pool.seeds(arm):
                    values = pool.together(arm, how, score, [seed])
                    if np.isfinite(values).any():
                        axis.plot(np.nanmean(values), place, ".", color="black", ms=2.5)
        axis.axvline(0, color="0.6", lw=0.8, ls=":")
        axis.set_yticks(at, pool.arms if axis is axes[0, 0] else [""] * len(at))
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set_xlim(right=1.02)
    axes[0, -1].legend(fontsize=7, loc="lower right", frameon=False)
    caption = (
        f"{pool.task.source}, {pool.look}, eps {pool.task.eps:g}: mean score with its 95 % interval over images; small "
        "dots are seeds. 1: nothing moved; dotted: what an unrelated map scores where the score is corrected."
    )
    return picture(found, f"{pool.task.source}: {pool.look} by network", caption)


def curves(task: Task, rows: Sequence[Scores], scores: Sequence[tuple[str, str]], look: str) -> Picture | None:
    """Scores against the radius, attack and baselines, a column a network; None where there is one radius alone."""
    rows = [r for r in rows if r.data == task.source and r.look == look]
    radii = sorted({r.eps for r in rows})
    arms = list(dict.fromkeys(r.arm for r in rows))
    if len(radii) < 2:
        return None
    found, axes = figure(len(scores), len(arms), 2.3 * len(arms) + 0.6, 2.0 * len(scores) + 0.5)
    for i, (score, title) in enumerate(scores):
        for j, arm in enumerate(arms):
            axis = axes[i, j]
            for how, (colour, marker) in STYLES.items():
                means, kept = [], []
                for eps in radii:
                    pool = Pool(task, look, {(r.arm, r.seed): r for r in rows if r.eps == eps})
                    *mean, n = average(pool.together(arm, how, score), pool.images(arm))
                    if n:
                        kept.append(eps)
                        means.append(mean)
                if kept:
                    middle, low, high = np.array(means, dtype=float).T
                    axis.plot(kept, middle, marker=marker, ms=3.5, lw=1.2, color=colour, label=how)
                    axis.fill_between(kept, low, high, color=colour, alpha=0.15, lw=0)
            axis.axhline(0, color="0.6", lw=0.8, ls=":")
            axis.set_ylim(min(-0.1, axis.get_ylim()[0]), 1.02)
            axis.set_xlim(0, None)
            axis.tick_params(labelsize=7)
            if i == 0:
                axis.set_title(arm, fontsize=9)
            if j == 0:
                axis.set_ylabel(title, fontsize=8)
            if i == len(scores) - 1:
                axis.set_xlabel("eps", fontsize=8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    caption = (
        f"{task.source}, {look}: mean score against the radius, bands are 95 % intervals over images. The dotted line "
        "is what an unrelated map scores where the score is corrected."
    )
    return picture(found, f"{task.source}: {look} against the radius", caption)


def gallery(
    x: Tensor, z: Tensor, before: Tensor, after: Tensor, captions: Sequence[str], k: int, title: str
) -> Picture:
    """The worst cases, a column each: input, map, map under attack, and both top-k sets.

    Args:
        x: inputs, (G, C, H, W).
        z: attacked, likewise.
        before: relevances, (G, C, H, W).
        after: likewise.
        captions: one a column.
        k: of the sets.
        title: of the picture.
    """
    found, axes = figure(5, len(x), 1.25 * len(x) + 0.7, 6.6)
    a, b = as_maps(before), as_maps(after)
    first, second = top_k_mask(a, k), top_k_mask(b, k)
    names = ("input", "attacked", "why", "why, attacked", f"top {k}")
    for j in range(len(x)):
        for axis, image in zip(axes[:2, j], (x[j], z[j]), strict=True):
            shown = image.movedim(0, -1).numpy()
            axis.imshow(shown if shown.shape[-1] == 3 else shown.mean(-1), cmap="gray", vmin=0, vmax=1)
        top = float(torch.maximum(a[j], b[j]).quantile(0.995)) or 1.0
        for axis, one in zip(axes[2:4, j], (a[j], b[j]), strict=True):
            axis.imshow(one.numpy(), cmap="cividis", vmin=0, vmax=top)
        paint = np.ones((*first.shape[1:], 3))
        paint[first[j].numpy()] = (0.13, 0.4, 0.67)
        paint[second[j].numpy()] = (0.84, 0.38, 0.3)
        paint[(first & second)[j].numpy()] = (0.2, 0.2, 0.2)
        axes[4, j].imshow(paint)
        axes[0, j].set_title(captions[j], fontsize=8)
    for name, row in zip(names, axes, strict=True):
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=8)
    caption = (
        "The images whose corrected LENS fell most. Both maps of an image are on one scale. Last row: blue, in the top "
        f"{k} before alone; red, under attack alone; black, in both."
    )
    return picture(found, title, caption)
