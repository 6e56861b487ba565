"""Attention metrics by sample: completeness, overlap with the object, and movement.

    x^m = (1 - m) x + m b      m: the top quarter of the cells, enlarged; b: the image's mean colour

    complete     (z_y(x) - z_y(x^m)) / (z_y(x) - z_y(b))    share of the evidence for y in the attended quarter
    elsewhere    the same with the mask rolled by half the map: the share for another region of equal area

Measures and their levels of chance: `unfooled.distances.maps.attention`. The caller chooses the
class explained. It should be the same before and after an attack: attention to the predicted class moves whenever the
prediction changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from unfooled.core.goals import logits_at, read_logits
from unfooled.core.losses import margin
from unfooled.core.model.batching import batched
from unfooled.core.shapes import top_share
from unfooled.core.types import Model
from unfooled.distances.maps import attention as measures
from unfooled.distances.rank import spearman
from unfooled.evaluation.explanations.records import Attention, AttentionExample
from unfooled.explanations.attention import attention, probability
from unfooled.explanations.masks import fill_mean, top_mask
from unfooled.runs.chunks import Rows
from unfooled.statistics.intervals import Mean, corrected_limits

ATTENDED_SHARE = 0.25
"""Share of the cells that count as attended."""
IMAGES_AT_ONCE = 256
"""Images computed at once."""
GALLERY_SIZE = 6
"""Number of cases whose pictures an audit stores."""
Attend = Callable[..., Tensor]
"""`(model, x, y) -> (B, h, w)`, such as `attention`."""


def attend(model: Model, x: Tensor, y: Tensor, *, batch: int = 256, **options: object) -> Tensor:
    """Compute `attention` in batches, without the warning about maps of few cells.

    Args:
        model: Any callable with a spatial layer to logits.
        x: Images, (B, C, H, W).
        y: Class explained, (B,).
        batch: Samples computed at once.
        options: Options of `attention`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*attention is hardly a map.*")
        return batched(partial(attention, model, **options), batch)(x, y)  # type: ignore[arg-type]


@torch.no_grad()
def attention_records(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    attend: Attend = attend,
    mask: Tensor | None = None,
    parts: Tensor | None = None,
    share: float = ATTENDED_SHARE,
) -> Rows:
    """Measure each sample's attention to the class y.

    Args:
        model: Any callable with a spatial layer to logits. Not modified.
        x: Images, (B, C, H, W).
        y: Class explained, (B,).
        attend: Attention, `(model, x, y) -> (B, h, w)`.
        mask: Mask of the object, (B, H, W); all zero for a sample whose object is not known. None: no object is known.
        parts: Masks of parts of the object, (B, parts, H, W); all zero where not known. None: no parts are known.
        share: Share of the cells that count as attended.

    Returns:
        p (B, h, w), and (B,) each: lead (of y over the best other class), flat, entropy, spread, components, complete,
        elsewhere; with a mask also area, coverage, recall, iou_matched and pointing, all NaN where the mask is empty;
        with parts also part_recall, NaN where all parts are empty. NaN: undefined. Cost: 5 forwards, 1 backward down to
        the layer.
    """
    size = (x.shape[2], x.shape[3])
    p = attend(model, x, y)
    cells = top_share(p, share)
    run = partial(logits_at, model, batch=IMAGES_AT_ONCE)
    z = read_logits(model, x, y, batch=IMAGES_AT_ONCE)

    def of_label(logits: Tensor) -> Tensor:
        return logits.gather(1, y[:, None])[:, 0]

    score, fill = of_label(z), fill_mean(x)
    nothing = of_label(run(fill.contiguous()))
    rows: Rows = {
        "p": p,
        "lead": -margin(z, y),
        "flat": probability(p)[1],
        "entropy": measures.entropy(p),
        "spread": measures.spread(p),
        "components": measures.components(cells).to(p.dtype),
    }
    half = (p.shape[1] // 2, p.shape[2] // 2)
    for name, region in (("complete", p), ("elsewhere", p.roll(half, (1, 2)))):
        m = top_mask(region, size, share=share)
        rows[name] = measures.completeness(score, of_label(run(x * (1 - m) + fill * m)), nothing)
    if mask is not None:
        area = mask.float().mean((1, 2))
        rows |= {
            "area": torch.where(area > 0, area, torch.nan),
            "coverage": torch.where(area > 0, measures.coverage(p, mask), torch.nan),
            "recall": measures.recall(cells, mask),
            "iou_matched": measures.iou_matched(p, mask),
            "pointing": measures.pointing(p, mask),
        }
    if parts is not None:
        rows["part_recall"] = measures.part_recall(cells, parts)
    return rows


def attention_moved(before: Tensor, after: Tensor, *, share: float = ATTENDED_SHARE) -> Rows:
    """Measure how two batches of maps differ.

    Args:
        before: Maps, (B, h, w).
        after: Other maps, (B, h, w).
        share: Share of the cells that count as attended.

    Returns:
        (B,) each: centroid_shift, js, parted (1 - IoU of the top cells), and the differences, after minus before, of
        entropy, spread and components.
    """
    a, b = top_share(before, share), top_share(after, share)
    return {
        "centroid_shift": measures.centroid_shift(before, after),
        "js": measures.js(before, after),
        "parted": 1 - measures.iou(a, b),
        "entropy": measures.entropy(after) - measures.entropy(before),
        "spread": measures.spread(after) - measures.spread(before),
        "components": (measures.components(b) - measures.components(a)).to(before.dtype),
    }


def summarise_attention(
    rows: Rows, distance: Tensor, fooled: Tensor, right: Tensor, y: Tensor, worst: Tensor, *, seed: int = 0
) -> Attention | None:
    """Summarise attention for an audit; None if no attention was computed.

    Args:
        rows: Rows of `movement.map_scores` for the first samples.
        distance: Distances of their nearest adversarial examples, inf where none was found, (N,).
        fooled: Samples fooled by the attack, (N,) bool.
        right: True for samples that are classified correctly when clean, (N,) bool.
        y: Labels, (N,).
        worst: Indices of the gallery's samples, in its order; the first `GALLERY_SIZE` are stored.
        seed: Random seed of the interval.
    """
    if "attention_before" not in rows:
        return None
    before, after, complete = rows["attention_before"], rows["attention_after"], rows["complete"]
    few = min(len(before), len(distance))
    counted = right[:few]
    both = counted & complete[:few].isfinite() & distance[:few].isfinite()
    at = both.nonzero()[:, 0]
    start, end, apart = measures.centroid(before), measures.centroid(after), measures.js(before, after)

    def number(value: Tensor) -> float | None:
        return float(value) if bool(torch.isfinite(value)) else None

    return Attention(
        n=int(counted.sum()),
        cells=(before.shape[1], before.shape[2]),
        points=[(float(complete[i]), float(distance[i]), bool(fooled[i])) for i in at.tolist()],
        undefined=int((counted & ~complete[:few].isfinite()).sum()),
        unreached=int((counted & ~distance[:few].isfinite()).sum()),
        correlation=_correlation(complete[at], distance[at], seed),
        gallery=[
            AttentionExample(
                index=i, label=int(y[i]), fooled=bool(fooled[i]), complete=number(complete[i]), js=float(apart[i]),
                start=_pair(start[i]), end=_pair(end[i]),
            )
            for i in worst[worst < len(before)][:GALLERY_SIZE].tolist()
        ],
    )  # fmt: skip


def _pair(centre: Tensor) -> tuple[float, float]:
    row, column = centre.tolist()
    return row, column


def _correlation(a: Tensor, b: Tensor, seed: int, draws: int = 1000) -> Mean:
    """Return Spearman's correlation with its bootstrap interval."""
    n = len(a)
    if n < 3:
        return Mean(value=None, low=None, high=None, n=0)
    rows = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    value = spearman(a[None].double(), b[None].double())[0]
    drawn = spearman(a[rows].double(), b[rows].double())
    drawn = drawn[drawn.isfinite()]
    if not bool(value.isfinite()) or len(drawn) < draws // 2:
        return Mean(value=None, low=None, high=None, n=0)
    rest = (~torch.eye(n, dtype=torch.bool)).nonzero()[:, 1].reshape(n, n - 1)  # leave-one-out indices
    left_out = spearman(a[rest].double(), b[rest].double())
    low, high = corrected_limits(float(value), drawn.numpy(), left_out.numpy())
    return Mean(value=float(value), low=low, high=high, n=n)
