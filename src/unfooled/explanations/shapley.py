"""Shapley values over features that are shown or hidden: by enumeration, or by least squares (Kernel SHAP).

    phi_i = sum_{S without i} |S|! (M - 1 - |S|)! / M!  (v(S + i) - v(S))                       exact, 2^M answers
    A = Z'WZ,  c = Z'W(y - f_empty),  D = f_full - f_empty
    phi = A^-1 (c - 1 (1'A^-1 c - D) / (1'A^-1 1))                                              sums to D at any S

Z are the masks of a draw, W their weights; all masks give Shapley's values. No feature is set to 0 by an l1 step.

References:
    Lundberg, Lee, A unified approach to interpreting model predictions, NeurIPS 2017, arXiv:1705.07874.
    Musco, Witter, Provably accurate Shapley value estimation via leverage score sampling, ICLR 2025, arXiv:2410.01917.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.blocks import blocks_of
from unfooled.explanations.lime.equations import TINY
from unfooled.explanations.lime.samplers import Sampler, every_mask, leverage

Game = Callable[[Tensor], Tensor]
"""Masks (S, M) bool -> answers (S, T), or (S,)."""


@dataclass(frozen=True, eq=False)
class Shapley:
    """Shapley values, or estimates of them.

    Attributes:
        weights: Values, (T, M); they sum to the answer of all features less that of none.
        se: Standard errors over the draw of the masks, (T, M); 0 where all masks were used.
        empty: Answers with no feature, (T,).
        full: Answers with all features, (T,).
        calls: Number of masks that were evaluated.
    """

    weights: Tensor
    se: Tensor
    empty: Tensor
    full: Tensor
    calls: int


def kernel_shap(
    predict_masks: Game,
    n_features: int,
    *,
    empty: float | Tensor | None = None,
    full: float | Tensor | None = None,
    sampler: Sampler = leverage,
    samples: int | None = None,
    batch: int = 1024,
    generator: torch.Generator | None = None,
) -> Shapley:
    """Estimate Shapley values by constrained least squares.

    Args:
        predict_masks: Function from masks, (S, M) bool, to answers, (S, T) or (S,). For a mean over background rows,
            let it average their answers.
        n_features: Number of features, M.
        empty: Answers with no feature. None: computed by `predict_masks`.
        full: Answers with all features. None: computed by `predict_masks`.
        sampler: `leverage` or `every_mask`, the samplers with weights for Shapley values.
        samples: Number of masks. None: all for M <= 12, else 2 M + 2048.
        batch: Masks per call.
        generator: Base seed; not advanced.

    Returns:
        `Shapley`. Its sum is exact for any number of samples.

    Raises:
        BadInput: The sampler has no weights for Shapley values, or the samples do not identify the values.

    Example:
        >>> kernel_shap(lambda z: z[:, 0] * z[:, 1] * 1.0, 2).weights
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    _check(n_features)
    ends = torch.zeros(2, n_features, dtype=torch.bool)
    ends[1] = True
    given = [None if v is None else torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in (empty, full)]
    asked = _answers(predict_masks, ends, batch) if None in given or n_features == 0 else None
    none, whole = (asked[k] if v is None and asked is not None else v for k, v in enumerate(given))
    assert none is not None
    assert whole is not None
    change = whole - none
    calls = 0 if asked is None else 2
    if n_features < 2:
        weights = change[:, None].expand(-1, n_features)
        return Shapley(weights, torch.zeros_like(weights), none, whole, calls)
    count = samples or (2**n_features - 2 if n_features <= 12 else 2 * n_features + 2048)
    design = sampler(n_features, count, rng.base_seed(generator))
    if design.shapley is None:
        raise BadInput("this sampler has no weights for Shapley values; use leverage or every_mask")
    inner = design.shapley > 0
    z, w = design.masks[inner].to(torch.float64), design.shapley[inner]
    y = _answers(predict_masks, design.masks[inner], batch) - none
    share = torch.ones_like(w) if design.share is None else design.share[inner]
    weights, se = _constrained(z, w, y, change, share * (design.unit > 0))
    return Shapley(weights, se, none, whole, calls + len(z))


def exact_shapley(predict_masks: Game, n_features: int, *, batch: int = 1024) -> Shapley:
    """Return Shapley values by enumeration of all 2^M subsets; M at most 20.

    Args:
        predict_masks: Function from masks, (S, M) bool, to answers, (S, T) or (S,).
        n_features: Number of features, M.
        batch: Masks per call.

    Example:
        >>> exact_shapley(lambda z: z.sum(1) * 2.0, 3).weights
        tensor([[2., 2., 2.]], dtype=torch.float64)
    """
    _check(n_features)
    masks = every_mask(n_features).masks
    number = (masks.to(torch.int64) << torch.arange(n_features)).sum(1)
    answers = _answers(predict_masks, masks, batch)
    value = torch.empty_like(answers)
    value[number] = answers
    subsets = torch.arange(2**n_features)
    size = ((subsets[:, None] >> torch.arange(n_features)) & 1).sum(1)
    table = [1 / (n_features * math.comb(n_features - 1, k)) for k in range(n_features)]
    weights = torch.tensor([*table, 0.0], dtype=torch.float64)[size]
    rows = []
    for i in range(n_features):
        without = subsets[(subsets >> i) & 1 == 0]
        gain = value[without | (1 << i)] - value[without]
        rows.append(weights[without] @ gain)
    phi = torch.stack(rows, 1) if rows else torch.zeros(value.shape[1], 0, dtype=torch.float64)
    return Shapley(phi, torch.zeros_like(phi), value[0], value[-1], len(masks))


def _constrained(z: Tensor, w: Tensor, y: Tensor, change: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and their errors, (T, M); `share` is the part of each stratum that was not drawn."""
    gram, ones = z.T @ (z * w[:, None]), torch.ones(z.shape[1], 1, dtype=torch.float64)
    lower, info = torch.linalg.cholesky_ex(gram)
    if int(info) or float((lower.diagonal() ** 2).amin()) <= TINY * float(gram.diagonal().amax()):
        raise BadInput(f"{len(z)} masks do not identify {z.shape[1]} Shapley values; draw more samples")
    inverse = torch.cholesky_inverse(lower)
    direction = inverse @ ones / (ones.T @ inverse @ ones)
    free = inverse @ (z.T @ (y * w[:, None]))
    phi = free - direction * (free.sum(0) - change)
    project = inverse - direction @ (ones.T @ inverse)  # effect of an answer on the values
    if not bool((share > 0).any()):
        return phi.T, torch.zeros_like(phi.T)
    blocks = blocks_of(len(z), 2)
    left_out = blocks.left_out(z, z @ project, w, y - z @ phi) * share.sqrt()[:, None]
    return phi.T, blocks.variance(z @ project * w[:, None], left_out).clamp(min=0).sqrt().T


def _answers(predict_masks: Game, masks: Tensor, batch: int) -> Tensor:
    """Return the answers at masks, (S, T) float64; refuse anything but one row per mask, and NaN."""
    if not callable(predict_masks):
        raise BadInput(f"predict_masks is a {type(predict_masks).__name__}; give a function from masks to answers")
    with torch.no_grad():
        parts = [torch.as_tensor(predict_masks(part)) for part in masks.split(batch)]
    answers = torch.cat(parts).to("cpu", torch.float64)
    if answers.ndim not in (1, 2) or len(answers) != len(masks):
        raise BadInput(f"predict_masks returned shape {tuple(answers.shape)} for {len(masks)} masks; return (S, T)")
    if not torch.isfinite(answers).all():
        raise BadInput("predict_masks returned NaN or infinite values")
    return answers[:, None] if answers.ndim == 1 else answers


def _check(features: int) -> None:
    """Refuse a number of features that is no whole number."""
    if isinstance(features, bool) or not isinstance(features, int) or features < 0:
        raise BadInput(f"n_features is {features!r}; it is a whole number of at least 0")
