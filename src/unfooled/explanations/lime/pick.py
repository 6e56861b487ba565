"""Submodular pick: few explanations that together cover the features that matter.

    W_if = sum_l |w_ilf|        0 where the sum is under 2 standard errors, if these are given
    I_f  = sqrt( sum_i W_if )
    any_cover   C(V) = sum_f I_f 1[some i in V: W_if > 0]
    soft_cover  C(V) = sum_f I_f max_{i in V} W_if

    C(all)-shares of the pick, and of as many explanations at random: E max = sum_k C(n - k, V - 1) / C(n, V) W_(k)

Absolute values are taken before the sum over labels: signed weights of the two labels of a binary model cancel to
rounding noise. Both covers are monotone and submodular, so the greedy pick has at least 1 - 1/e of the best cover.

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD 2016, arXiv:1602.04938, section 4. Differs: absolute before
    the sum; features are keys such as (column, bin), so that two bins of a column are two features.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.findings import Kind
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.rounding import settled

Coverage = Callable[[Tensor, Tensor], Tensor]
"""Best W of each feature so far (F,), W of candidates (n, F) -> what each feature counts (n, F), in units of I_f."""


@dataclass(frozen=True)
class Pick:
    """Explanations picked.

    Attributes:
        index: Numbers of the explanations, in the order of the pick.
        gain: Coverage that each one added.
        importance: Importance I_f of each key.
        covered: Share of the cover of all explanations that the pick has.
        by_chance: Share that as many explanations at random have, in expectation.
    """

    index: tuple[int, ...]
    gain: tuple[float, ...]
    importance: dict[Hashable, float]
    covered: float = math.nan
    by_chance: float = math.nan


def any_cover(best: Tensor, rows: Tensor) -> Tensor:
    """Return 1 for features that some explanation has."""
    return (torch.maximum(best, rows) > 0).to(rows.dtype)


def soft_cover(best: Tensor, rows: Tensor) -> Tensor:
    """Return the largest weight of each feature."""
    return torch.maximum(best, rows)


def submodular_pick(
    weights: Tensor | Surrogates,
    *,
    keys: Sequence[Sequence[Hashable]] | None = None,
    budget: int = 5,
    noise: Tensor | None = None,
    coverage: Coverage = any_cover,
    most: int | None = None,
    generator: torch.Generator | None = None,
) -> Pick:
    """Pick explanations greedily by the importance of the features that they cover.

    Args:
        weights: `Surrogates` of texts or tables, or weights (B, T, M).
        keys: Key of each feature of each explanation, such as (column, bin) or a word. None: those of `Surrogates`.
        budget: Number of explanations.
        noise: Standard errors, (B, T, M); weights under two of them count as 0. None: every weight counts.
        coverage: `any_cover` or `soft_cover`.
        most: Explanations among which to pick, a subsample that depends on the seed. None: all.
        generator: Base seed of the subsample; not advanced.

    Returns:
        A `Pick`; ties go to the lowest number.

    Raises:
        BadInput: Shapes that do not agree, a budget below 1, or explanations of images, whose segments share no keys.

    Example:
        >>> w = torch.tensor([[[1.0, 0.0]], [[1.0, 2.0]], [[0.0, 1.0]]])
        >>> submodular_pick(w, keys=[("a", "b")] * 3, budget=1).index
        (1,)
    """
    table, keys = _table(weights, keys)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise BadInput(f"budget is {budget!r}; it is a number of explanations of at least 1")
    if most is not None and most < 1:
        raise BadInput(f"most is {most}; it is a number of explanations of at least 1, or None for all")
    if noise is not None and noise.shape != table.shape:
        raise BadInput(f"noise has shape {tuple(noise.shape)}, the weights {tuple(table.shape)}")
    w, names = by_key(table, keys, noise)
    importance = w.sum(0).sqrt()
    candidates = list(range(len(w)))
    if most is not None and most < len(w):
        draw = rng.seeds(torch.tensor([[len(w)]]), generator, stage=rng.Stream.PICK)
        candidates = sorted(rng.bits(draw, len(w))[0].argsort()[:most].tolist())
    index, gain = greedy(w, importance, candidates, budget, coverage)
    among = coverage(torch.zeros_like(w[0]), w)[candidates]
    total = float(among.amax(0) @ importance)
    own = coverage(torch.zeros_like(w[0]), w)[index].amax(0)
    shares = [float(cover @ importance) / total if total else 1.0 for cover in (own, expected_cover(among, len(index)))]
    return Pick(tuple(index), tuple(gain), dict(zip(names, importance.tolist(), strict=True)), *shares)


def expected_cover(covers: Tensor, size: int) -> Tensor:
    """Return the expected largest cover of each feature, (F,), among `size` of n explanations at random, (n, F)."""
    n = len(covers)
    left = n - 1 - torch.arange(n - size + 1, dtype=torch.float64)  # explanations behind the k-th largest

    def log_choose(a: Tensor, b: int) -> Tensor:
        return torch.lgamma(a + 1) - math.lgamma(b + 1) - torch.lgamma(a - b + 1)

    share = (log_choose(left, size - 1) - log_choose(torch.tensor(float(n), dtype=torch.float64), size)).exp()
    return share @ covers.sort(0, descending=True).values[: len(share)]


def by_key(
    weights: Tensor, keys: Sequence[Sequence[Hashable]], noise: Tensor | None = None
) -> tuple[Tensor, list[Hashable]]:
    """Return W, (B, F) float64, and the key of each of its columns, in order of appearance."""
    place: dict[Hashable, int] = {}
    at = [[place.setdefault(key, len(place)) for key in row] for row in keys]
    size = weights.to(torch.float64).abs().sum(1)
    if noise is not None:
        size = size.where(size >= 2 * (noise.to(torch.float64) ** 2).sum(1).sqrt(), 0.0)
    w = torch.zeros(len(weights), len(place), dtype=torch.float64)
    for i, row in enumerate(at):
        w[i].index_add_(0, torch.tensor(row, dtype=torch.int64), size[i, : len(row)])
    return w, list(place)


def greedy(
    w: Tensor, importance: Tensor, candidates: Sequence[int], budget: int, coverage: Coverage = any_cover
) -> tuple[list[int], list[float]]:
    """Return the pick of the lazy greedy algorithm, and the gains; equal to plain greedy.

    A gain only falls as the pick grows, so an old gain is an upper bound: only the leading candidate is computed again.
    """
    best = torch.zeros(w.shape[1], dtype=w.dtype)
    queue = [(-math.inf, i, -1) for i in candidates]  # (-gain, number, size of the pick when it was computed)
    heapq.heapify(queue)
    index: list[int] = []
    gains: list[float] = []
    while queue and len(index) < budget:
        negative, i, when = heapq.heappop(queue)
        if when != len(index):
            covered = coverage(best, w[i][None])[0] - coverage(best, torch.zeros_like(w[i])[None])[0]
            heapq.heappush(queue, (-float(covered @ importance), i, len(index)))
            continue
        index.append(i)
        gains.append(-negative)
        best = torch.maximum(best, w[i])
    return index, gains


def _table(
    weights: Tensor | Surrogates, keys: Sequence[Sequence[Hashable]] | None
) -> tuple[Tensor, Sequence[Sequence[Hashable]]]:
    """Return weights and keys, checked."""
    if isinstance(weights, Surrogates):
        if keys is None and weights.kind == Kind.IMAGE:
            raise BadInput(
                "segments of different images share nothing, so a pick by segment means nothing; give keys of concepts "
                "that they share"
            )
        keys = keys if keys is not None else weights.keys if weights.keys is not None else weights.names
        _check_lengths(keys, [len(names) for names in weights.names])
        weights = weights.settled()
    if not isinstance(weights, Tensor):
        raise BadInput(f"weights is a {type(weights).__name__}; give Surrogates, or a tensor (B, T, M) with keys")
    if weights.ndim != 3:
        raise BadInput(f"weights have shape {tuple(weights.shape)}; they are (B, T, M)")
    if keys is None:
        raise BadInput(f"keys name the features of each of {len(weights)} explanations, {weights.shape[2]} each")
    if not bool(torch.isfinite(weights).all()):
        raise BadInput("the weights hold NaN or infinite values; leave these explanations out")
    used = (weights != 0).any(1).to(torch.int64) * torch.arange(1, weights.shape[2] + 1)  # the rest is padding
    fewest = used.amax(1).tolist() if weights.shape[2] else [0] * len(weights)
    _check_lengths(keys, [weights.shape[2]] * len(weights), fewest)
    return settled(weights, torch.zeros(weights.shape[:2])), keys


def _check_lengths(keys: Any, features: Sequence[int], fewest: Sequence[int] | None = None) -> None:
    """Refuse keys of another number of explanations or features; `fewest` is the number without padding."""
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__len__") or len(keys) != len(features):
        raise BadInput(f"keys name the features of each of {len(features)} explanations; give one list for each")
    for i, (row, most, least) in enumerate(zip(keys, features, fewest or features, strict=True)):
        if not least <= len(row) <= most:
            raise BadInput(
                f"explanation {i} has {most} features and {len(row)} keys; give one a feature, at most {most}"
            )
