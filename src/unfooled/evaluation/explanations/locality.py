"""Locality scores of pairs of maps with their chance levels, as records.

For every pair of maps (clean, perturbed) and every k and w: top-k intersection, LENS-recall and LENS-precision, and on
request their variants for diverse sets. Each has a raw value, a chance level, a value corrected for chance, and the
share of circular shifts of one map that score at least as high. Definitions: `distances.locality` and `distances.null`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.model.batching import batched
from unfooled.core.shapes import flat
from unfooled.distances import (
    chance,
    corrected,
    diverse_intersection,
    diverse_top_k,
    either_nonzero,
    kendall,
    lens_kendall,
    lens_spearman,
    shift_null,
    shift_p,
    spearman,
    zero_share,
)
from unfooled.distances.maps.locality import defined
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.records import Record
from unfooled.statistics.intervals import Mean, mean

MAX_CHANCE = 0.9
"""Chance level above which a raw score cannot be distinguished from that of unrelated maps."""

NAMES = {
    "top_k_intersection": "",
    "lens_recall": "clean_dilated",
    "lens_precision": "pert_dilated",
    "diverse_intersection": "",
    "diverse_lens_recall": "clean_dilated",
    "diverse_lens_precision": "pert_dilated",
}
"""Score -> neutral name, which says which of the two sets is dilated."""


class Score(Record):
    """A score over all pairs of maps.

    Attributes:
        score: Name of the score.
        neutral: Neutral name, which says which set is dilated; empty where none is.
        raw: Mean over the pairs that are defined (no map is constant or holds NaN).
        chance: Mean score of unrelated maps.
        corrected: Mean score corrected for chance.
        p: Median over the pairs of the share of circular shifts that score at least as high. None: it is not computed.
        surprising: Share of pairs with p below .05. None: it is not computed.
        values: Score of every pair. None: undefined.
        chances: Chance level of every pair. None: undefined.
    """

    score: str
    neutral: str
    raw: Mean
    chance: Mean
    corrected: Mean
    p: float | None
    surprising: float | None
    values: list[float | None]
    chances: list[float | None]

    @property
    def uninformative(self) -> bool:
        """True where unrelated maps score nearly 1."""
        return self.chance.value is not None and self.chance.value > MAX_CHANCE


class Block(Record):
    """Scores at one k and w; `zeros_*`: share of zeros in the top k; `found_*`: size of the diverse set."""

    k: int
    w: int
    scores: list[Score]
    zeros_clean: Mean
    zeros_perturbed: Mean
    found_clean: Mean | None
    found_perturbed: Mean | None


class Rank(Record):
    """Rank correlation over all pairs; `undefined` counts pairs without a value (constant or NaN)."""

    name: str
    value: Mean
    undefined: int


class Survival(Record):
    """Scores of n pairs of maps of `shape`, of which `undefined` have no score (a map is constant or holds NaN)."""

    n: int
    shape: tuple[int, int]
    undefined: int
    ranks: list[Rank]
    blocks: list[Block]


def score_maps(
    a: Tensor,
    b: Tensor,
    *,
    k: Sequence[int],
    w: Sequence[int] = (1,),
    diverse: bool = False,
    seed: int = 0,
    batch: int = 32,
    progress: Progress | None = None,
    run: Run | None = None,
) -> Survival:
    """Score pairs of maps at every k and w.

    Args:
        a: Clean maps, (N, H, W).
        b: Perturbed maps, (N, H, W).
        k: Numbers of pixels that count as the top of a map.
        w: Window radii in pixels; a window has side 2w + 1.
        diverse: Score the diverse sets too.
        seed: Random seed of the bootstrap intervals.
        batch: Pairs computed at once; results do not depend on it.
        progress: Called with ("maps", pairs done, N).
        run: Run whose chunks are blocks of pairs, with a progress of its own. None: in memory.

    Raises:
        BadInput: Shapes that do not agree, or a k or w that does not fit.
    """
    if a.shape != b.shape or a.ndim != 3:
        raise BadInput(f"clean is {tuple(a.shape)}, perturbed {tuple(b.shape)}; both must be the same (N, H, W)")

    def scores(a: Tensor, b: Tensor) -> dict[str, Tensor]:
        rows = _ranks(a, b, w)
        for size in k:
            for radius in w:
                rows |= _locality(a, b, size, radius, diverse)
        return {name: value.detach().cpu().double() for name, value in rows.items()}

    if run is None:
        report = None if progress is None else lambda done: progress("maps", done, len(a))
        values = batched(scores, batch, progress=report)(a, b)
    else:
        values = run.map("maps", lambda rows: scores(a[rows], b[rows]), len(a))
    ordered = defined(a) & defined(b)
    return Survival(
        n=len(a),
        shape=(a.shape[1], a.shape[2]),
        undefined=int((~ordered).sum()),
        ranks=[
            Rank(
                name=name,
                value=mean(values[name], within=(-1, 1), seed=seed),
                undefined=int(values[name].isnan().sum()),
            )
            for name in _ranks(a[:1], b[:1], w)  # in their order, which stored results do not keep
        ],
        blocks=[_block(values, size, radius, diverse, seed) for size in k for radius in w],
    )


def _ranks(a: Tensor, b: Tensor, w: Sequence[int]) -> dict[str, Tensor]:
    support = either_nonzero(a, b)
    scores = {
        "Spearman": spearman(a, b),
        "Spearman, where either is not zero": spearman(a, b, support=support),
        "Kendall": kendall(a, b),
        "Kendall, where either is not zero": kendall(a, b, support=support),
    }
    for radius in w:
        scores[f"LENS-Spearman, w = {radius}"] = lens_spearman(a, b, w=radius)
        scores[f"LENS-Kendall, w = {radius}"] = lens_kendall(a, b, w=radius)
    return scores


def _locality(a: Tensor, b: Tensor, k: int, w: int, diverse: bool) -> dict[str, Tensor]:
    """Return raw scores, chance levels and p values of a batch, by `_key`."""
    nulls = {
        "top_k_intersection": (shift_null(a, b, k=k, w=0), chance(a, k=k, w=0)),
        "lens_recall": (shift_null(a, b, k=k, w=w), chance(a, k=k, w=w)),
        "lens_precision": (shift_null(b, a, k=k, w=w), chance(b, k=k, w=w)),
    }
    scores: dict[str, Tensor] = {}
    if diverse:
        for name, s, t in (("diverse_lens_recall", a, b), ("diverse_lens_precision", b, a)):
            nulls[name] = shift_null(s, t, k=k, w=w, diverse=True), chance(s, k=k, w=w, diverse=True)
        counts = [flat(diverse_top_k(t, k, w)).sum(1).double() for t in (a, b)]
        raw = diverse_intersection(a, b, k=k, w=w)
        scores[_key("diverse_intersection", "raw", k, w)] = raw
        # Of two random sets of these sizes, the smaller has its share of the map in common with the larger.
        level = torch.minimum(*counts) / a.shape[1:].numel()
        scores[_key("diverse_intersection", "chance", k, w)] = level.where(~raw.isnan(), torch.nan)
        for side, count in zip(("clean", "perturbed"), counts, strict=True):
            scores[_key("found", side, k, w)] = count.where(~raw.isnan(), torch.nan)
    for name, (null, level) in nulls.items():
        scores[_key(name, "raw", k, w)] = null[:, 0]
        scores[_key(name, "chance", k, w)] = level.where(~null[:, 0].isnan(), torch.nan)
        scores[_key(name, "p", k, w)] = shift_p(null)
    ordered = defined(a) & defined(b)
    for side, t in (("clean", a), ("perturbed", b)):
        scores[_key("zeros", side, k, w)] = zero_share(t, k=k).where(ordered, torch.nan)
    return scores


def _block(values: dict[str, Tensor], k: int, w: int, diverse: bool, seed: int) -> Block:
    def average(name: str, what: str) -> Mean:
        return mean(values[_key(name, what, k, w)], within=(0, math.inf), seed=seed)

    scores = []
    for name, neutral in NAMES.items():
        raw, level = (values.get(_key(name, what, k, w)) for what in ("raw", "chance"))
        if raw is None or level is None:
            continue
        p = values.get(_key(name, "p", k, w))
        p = p[~p.isnan()] if p is not None else torch.empty(0)
        scores.append(
            Score(
                score=name,
                neutral=neutral,
                raw=mean(raw, within=(0, 1), seed=seed),
                chance=mean(level, within=(0, 1), seed=seed),
                corrected=mean(corrected(raw, level), within=(-math.inf, 1), seed=seed),
                p=float(p.quantile(0.5)) if len(p) else None,
                surprising=float((p < 0.05).double().mean()) if len(p) else None,
                values=_listed(raw),
                chances=_listed(level),
            )
        )
    return Block(
        k=k,
        w=w,
        scores=scores,
        zeros_clean=average("zeros", "clean"),
        zeros_perturbed=average("zeros", "perturbed"),
        found_clean=average("found", "clean") if diverse else None,
        found_perturbed=average("found", "perturbed") if diverse else None,
    )


def _key(name: str, what: str, k: int, w: int) -> str:
    return f"{name}|{what}|{k}|{w}"


def _listed(values: Tensor) -> list[float | None]:
    return [None if v != v else round(v, 6) for v in values.tolist()]
