"""Movement of explanations when the input moves: maps before and after, and scores between them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.types import Explain, Model
from unfooled.distances.maps.attention import centroid_shift
from unfooled.distances.maps.locality import as_maps, top_k_intersection
from unfooled.distances.quality import psnr, ssim
from unfooled.distances.rank import spearman
from unfooled.evaluation.explanations.attention import attention_records
from unfooled.evaluation.explanations.records import Movement
from unfooled.explanations.attention import probability
from unfooled.explanations.cams import grad_cam_map
from unfooled.statistics import intervals

TOP_SHARE = 0.1
"""Share of the pixels that counts as the top of a map."""


def map_scores(
    model: Model, x: Tensor, y: Tensor, z: Tensor, explain: Explain, *, steady: bool = True
) -> dict[str, Tensor]:
    """Explain y at x and at z, and compare.

    Args:
        model: Any callable to logits.
        x: Clean inputs, (B, *D).
        y: Labels, (B,).
        z: Points, (B, *D).
        explain: The explanation.
        steady: True if an input has one explanation, which is computed once where z is x.

    Returns:
        before, after: Attributions, (B, *D).
        top_k, spearman: Agreement of the maps, (B,); NaN where a map is constant.
        cam_shift: Shift of Grad-CAM's centre of mass as a share of the diagonal, (B,); NaN where the model has no
            spatial layer. psnr, ssim: Similarity of the inputs, (B,); NaN for ssim where x is no image.
        Where the model has a spatial layer and x is images, also attention_before and attention_after, (B, h, w), and
        complete, (B,), of the former: see `attention_records`. Cost: twice the explanation's, twice Grad-CAM's, and
        then 4 forwards; once where z is x.
    """
    moved_rows = (z != x).flatten(1).any(1) if steady else torch.ones(len(x), dtype=torch.bool, device=x.device)
    at = moved_rows.nonzero()[:, 0]
    before = explain(model, x, y)
    after = _where_moved(before, at, lambda: explain(model, z[at], y[at]))
    a, b = as_maps(before), as_maps(after)
    k = max(1, round(TOP_SHARE * a[0].numel()))
    nothing = torch.full((len(x),), torch.nan, dtype=x.dtype, device=x.device)
    attention: dict[str, Tensor] = {}
    try:
        still = grad_cam_map(model, x, y)
        moved = _where_moved(still.map, at, lambda: grad_cam_map(model, z[at], y[at], layer=still.spatial).map)
        shift = centroid_shift(still.map, moved)
        if x.ndim == 4:
            p = probability(still.map)[0].detach()
            complete = attention_records(model, x, y, attend=lambda *_: p)["complete"]
            attention = {
                "attention_before": p,
                "attention_after": probability(moved)[0].detach(),
                "complete": complete,
            }
    except BadInput:  # no layer with a height and a width
        shift = nothing
    return {
        "before": before,
        "after": after,
        "top_k": top_k_intersection(a, b, k=k),
        "spearman": spearman(a, b),
        "cam_shift": shift,
        "psnr": psnr(z, x),
        "ssim": ssim(z, x) if x.ndim == 4 else nothing,
        **attention,
    }


def _where_moved(still: Tensor, at: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """Return the maps of samples of which those at some positions have moved, and are computed."""
    if len(at) == len(still):
        return compute()
    return still.index_copy(0, at, compute().to(still)) if len(at) else still


def movements(scores: dict[str, Tensor], fooled: Tensor, right: Tensor, explanation: str, seed: int) -> list[Movement]:
    """Average the scores over the samples that were right when clean: those that were fooled, and the others.

    Args:
        scores: Rows of `map_scores`.
        fooled: Samples that were fooled, (B,) bool.
        right: Samples that are right when clean, (B,) bool.
        explanation: Name of the explanation.
        seed: Random seed of the intervals.
    """
    rows = (
        ("top_k", f"top {TOP_SHARE:.0%} of the pixels kept (chance {TOP_SHARE:.2f})", explanation, "higher", (0, 1)),
        ("spearman", "Spearman's rank correlation", explanation, "higher", (-1, 1)),
        ("cam_shift", "shift of the centre of attention", "Grad-CAM", "lower", (0, math.inf)),
    )
    out = []
    for key, name, of, better, within in rows:
        values = scores[key]
        if key == "cam_shift" and bool(values.isnan().all()):
            continue
        out.append(
            Movement(
                name=name,
                explanation=of,
                better=better,
                fooled=intervals.mean(values[fooled & right], within=within, seed=seed),
                unfooled=intervals.mean(values[~fooled & right], within=within, seed=seed),
                undefined=int(values[right].isnan().sum()),
            )
        )
    return out
