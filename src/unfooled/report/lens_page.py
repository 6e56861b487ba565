"""One self-contained page about explanations before and after a perturbation: scores, chance levels, a few pairs drawn.

An explanation is a map of pixel attributions. The page is a pure function of its record, whose text is untrusted.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unfooled.distances import corrected, dilate, top_k_mask
from unfooled.evaluation.explanations.locality import MAX_CHANCE, Score, Survival
from unfooled.report import words
from unfooled.report.frame import fill, png_element

# Colours of the top k pixels: in both; only perturbed, near a clean one; only perturbed, far; only clean.
IN_BOTH, PERTURBED_NEAR, PERTURBED_FAR, CLEAN_ONLY = "#1c2126", "#007a5a", "#c45500", "#8cc4e8"
MAX_PAIRS = 4  # pairs drawn at most
PAIR_SCORE = "lens_recall"  # the score by which pairs are selected


def reading_warnings(scores: Survival) -> list[str]:
    """Return the cautions to read before quoting a score."""
    warnings = []
    for block in scores.blocks:
        uninformative = [s for s in block.scores if s.uninformative]
        if uninformative:
            highest = max(s.chance.value or 0 for s in uninformative)
            verb = "is" if len(uninformative) == 1 else "are"
            warnings.append(
                f"k = {block.k}, w = {block.w}: unrelated maps would score up to {highest:.2f} here, so the raw "
                f"{', '.join(s.score for s in uninformative)} {verb} uninformative; lower w or k."
            )
    for k in dict.fromkeys(block.k for block in scores.blocks):
        block = next(b for b in scores.blocks if b.k == k)
        zeros = max(block.zeros_clean.value or 0, block.zeros_perturbed.value or 0)
        if zeros > 0.1:
            warnings.append(
                f"k = {k}: {100 * zeros:.0f} % of the top k are zeros, which are selected only by their position; "
                "take a smaller k."
            )
    if scores.undefined:
        warnings.append(
            f"{words.plural(scores.undefined, 'pair')} of {scores.n:,} hold{'s' if scores.undefined == 1 else ''} a "
            "constant map, which has no order: no score, neither 0 nor 1."
        )
    return warnings


def _drawn_score(scores: Survival) -> Score:
    return next(s for s in scores.blocks[0].scores if s.score == PAIR_SCORE)


def pairs_to_draw(scores: Survival) -> list[int]:
    """Return the two worst pairs, the median and the best by corrected LENS-recall at the first k and w."""
    score = _drawn_score(scores)
    raw, level = (
        torch.tensor([float("nan") if v is None else v for v in row]) for row in (score.values, score.chances)
    )
    value = corrected(raw, level)
    value = value.where(~value.isnan(), raw)
    order = [int(i) for i in value.argsort(stable=True) if not value[i].isnan()]
    if len(order) <= MAX_PAIRS:
        return order
    return [order[0], order[1], order[len(order) // 2], order[-1]]


def draw_pairs(a: Tensor, b: Tensor, scores: Survival) -> list[dict[str, str]]:
    """Draw the pairs of `pairs_to_draw` as one picture: clean, perturbed, and where the two top k agree.

    Args:
        a: Clean maps, (N, H, W).
        b: Perturbed maps, (N, H, W).
        scores: Scores of the pairs.

    Returns:
        One record of title, caption and PNG in base64; none where no pair has a score.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    drawn = pairs_to_draw(scores)
    if not drawn:
        return []
    k, w, score = scores.blocks[0].k, scores.blocks[0].w, _drawn_score(scores)
    height, width = scores.shape
    tall = min(max(2.6 * height / width, 0.6), 5.2)
    figure = Figure(figsize=(8.4, (tall + 0.35) * len(drawn) + 0.7), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    for row, i in zip(figure.subplots(len(drawn), 3, squeeze=False), drawn, strict=True):
        recall = f"recall {score.values[i]:.2f}, chance {score.chances[i]:.2f}"
        _draw_row(row, torch.stack([a[i], b[i]]).cpu(), k, w, (f"map {i}, clean", "perturbed", recall))
    labels = {
        "in both": IN_BOTH,
        f"perturbed, within {w} of a clean one": PERTURBED_NEAR,
        "perturbed, farther": PERTURBED_FAR,
        "clean": CLEAN_ONLY,
    }
    handles = [Patch(color=colour, label=text) for text, colour in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    caption = (
        f"The two worst pairs, the median and the best by corrected LENS-recall at k = {k}, w = {w}, or all where "
        "there are few. Left and middle: the maps, each on its own scale. Right: their top k pixels; black were kept, "
        "green moved into the window of a clean one, orange moved farther, light blue were lost."
    )
    png = base64.b64encode(buffer.getvalue()).decode()
    return [{"title": "Where the top pixels went", "caption": caption, "png": png}]


def _draw_row(row: Any, pair: Tensor, k: int, w: int, titles: tuple[str, str, str]) -> None:
    """Draw a pair of maps, (2, H, W), on three axes."""
    signed = bool((pair < 0).any())
    for axis, value in zip(row, pair.double().numpy(), strict=False):
        top = float(np.abs(value).max()) or 1.0
        axis.imshow(value, cmap="RdBu_r" if signed else "cividis", vmin=-top if signed else 0, vmax=top)
    row[2].imshow(_agreement(pair, k, w), interpolation="nearest")
    for axis, title in zip(row, titles, strict=True):
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.set_xticks([])
        axis.set_yticks([])


def _agreement(pair: Tensor, k: int, w: int) -> Any:
    """Return an image of where the top k of two maps agree, (H, W, 3)."""
    from matplotlib.colors import to_rgb

    masks = top_k_mask(pair, k)
    near = dilate(masks, w)[0]
    clean, moved = masks
    image = np.ones((*pair.shape[1:], 3))
    for mask, colour in (
        (clean & ~moved, CLEAN_ONLY),
        (moved & ~clean & near, PERTURBED_NEAR),
        (moved & ~clean & ~near, PERTURBED_FAR),
        (clean & moved, IN_BOTH),
    ):
        image[mask.numpy()] = to_rgb(colour)
    return image


def compose_lens(record: dict[str, Any]) -> str:
    """Return the page as text.

    Args:
        record: `found` (a `Survival` as plain values), and clean, perturbed, reduce, warnings, pictures, environment,
            command, created, seconds.
    """
    slim = {name: value for name, value in record.items() if name != "pictures"}
    return fill(
        "lens.html.j2",
        json.dumps(slim),
        title="Did the reasons survive?",
        r=record,
        scores=Survival.model_validate(record["found"]),
        limit=MAX_CHANCE,
        pictures=[png_element(one) for one in record["pictures"]],
    )
