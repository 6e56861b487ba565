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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.explanations.lime.blocks import blocks_of
from unfooled.explanations.lime.checking import at_least
from unfooled.explanations.lime.equations import TINY
from unfooled.explanations.lime.samplers import MOST_ENUMERATED, Sampler, every_mask, leverage

Game = Callable[[Tensor], Tensor]
"""Masks (S, M) bool -> answers (S, T), or (S,)."""
MOST_TRIED = 64
"""Masks per feature up to which a number is searched that identifies the values."""


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
        BadInput: The sampler has no weights for Shapley values, the samples do not identify the values (said before any
            call, with a number that is enough), or `empty` or `full` has another number of outputs.

    Example:
        >>> kernel_shap(lambda z: z[:, 0] * z[:, 1] * 1.0, 2).weights
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    n_features = at_least(n_features, 0, "n_features", "a whole number")
    given = [_given(empty, "empty"), _given(full, "full")]
    drawn = _drawn(n_features, samples, sampler, rng.base_seed(generator)) if n_features > 1 else None
    none, whole, calls = _ends(predict_masks, n_features, given, batch)
    change = whole - none
    if drawn is None:
        weights = change[:, None].expand(-1, n_features)
        return Shapley(weights, torch.zeros_like(weights), none, whole, calls)
    masks, w, share = drawn
    y = _answers(predict_masks, masks, batch, {"empty": none, "full": whole}) - none
    weights, se = _constrained(masks.to(torch.float64), w, y, change, share)
    return Shapley(weights, se, none, whole, calls + len(masks))


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
    n_features = at_least(n_features, 0, "n_features", "a whole number")
    _enumerable(n_features)
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


def _given(value: Any, name: str) -> Tensor | None:
    """Return the answers that are given for no or all features, (T,). None: they are computed."""
    if value is None:
        return None
    try:
        answers = torch.as_tensor(value).detach().to("cpu", torch.float64).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{name} is {value!r}; give a number, or one for each output") from error
    if not bool(torch.isfinite(answers).all()):
        raise BadInput(f"{name} holds NaN or infinite values; give finite answers")
    return answers


def _ends(predict_masks: Game, features: int, given: list[Tensor | None], batch: int) -> tuple[Tensor, Tensor, int]:
    """Return the answers with no and with all features, (T,), and the masks evaluated for them."""
    none, whole = given
    if none is not None and whole is not None and features:
        if len(none) != len(whole):
            raise BadInput(f"empty has {len(none)} values and full {len(whole)}; give one for each output in both")
        return none, whole, 0
    ends = torch.zeros(2, features, dtype=torch.bool)
    ends[1] = True
    known = {name: value for name, value in zip(("empty", "full"), given, strict=True) if value is not None}
    asked = _answers(predict_masks, ends, batch, known)
    return asked[0] if none is None else none, asked[1] if whole is None else whole, 2


def _drawn(features: int, samples: int | None, sampler: Sampler, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return masks that identify the values, their weights, and the share of their subsets that was not drawn."""
    count = 2**features - 2 if features <= 12 else 2 * features + 2048
    count = count if samples is None else at_least(samples, 1, "samples", "a number of masks")
    if sampler is every_mask:
        _enumerable(features)
    if sampler is not leverage or count >= 2 * (features // 2):
        masks, weights, share = _masks(features, count, sampler, seed)
        if _identified(masks, weights):
            return masks, weights, share
    enough = max(2 * (features - 1), count + 1 + count % 2)
    while not _identified(*_masks(features, enough, sampler, seed)[:2]):
        enough += 2 * (1 + enough // 20)
        if enough > MOST_TRIED * features:
            raise BadInput(f"the masks of this sampler do not identify {features} Shapley values; use leverage")
    raise BadInput(f"{count} masks do not identify {features} Shapley values; {enough} samples are enough")


def _masks(features: int, count: int, sampler: Sampler, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw masks; return those of weight above 0, their weights, and the share of their subsets that was not drawn."""
    design = sampler(features, count, seed)
    if design.shapley is None:
        raise BadInput("this sampler has no weights for Shapley values; use leverage or every_mask")
    inner = design.shapley > 0
    weights = design.shapley[inner]
    share = torch.ones_like(weights) if design.share is None else design.share[inner]
    return design.masks[inner], weights, share * (design.unit > 0)


def _identified(masks: Tensor, weights: Tensor) -> bool:
    """Return whether masks with weights identify one value a feature."""
    z = masks.to(torch.float64)
    gram = z.T @ (z * weights[:, None])
    lower, info = torch.linalg.cholesky_ex(gram)
    return not int(info) and float((lower.diagonal() ** 2).amin()) > TINY * float(gram.diagonal().amax())


def _enumerable(features: int) -> None:
    """Refuse too many features for an enumeration of all masks."""
    if features > MOST_ENUMERATED:
        raise BadInput(
            f"{features} features have 2^{features} masks, and at most {MOST_ENUMERATED} are enumerated; draw some, by "
            "kernel_shap with sampler=leverage, its default"
        )


def _constrained(z: Tensor, w: Tensor, y: Tensor, change: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values and their errors, (T, M); `share` is the part of each stratum that was not drawn."""
    gram, ones = z.T @ (z * w[:, None]), torch.ones(z.shape[1], 1, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(gram)[0])
    direction = inverse @ ones / (ones.T @ inverse @ ones)
    free = inverse @ (z.T @ (y * w[:, None]))
    phi = free - direction * (free.sum(0) - change)
    project = inverse - direction @ (ones.T @ inverse)  # effect of an answer on the values
    if not bool((share > 0).any()):
        return phi.T, torch.zeros_like(phi.T)
    blocks = blocks_of(len(z), 2)
    left_out = blocks.left_out(z, z @ project, w, y - z @ phi) * share.sqrt()[:, None]
    return phi.T, blocks.variance(z @ project * w[:, None], left_out).clamp(min=0).sqrt().T


def _answers(predict_masks: Game, masks: Tensor, batch: int, known: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return the answers at masks, (S, T) float64; refuse anything but one row per mask, and NaN.

    Args:
        predict_masks: Function from masks to answers.
        masks: The masks, (S, M) bool.
        batch: Masks per call.
        known: Answers that were given, (T,) each, by name; another number of outputs is refused after the first call.
    """
    if not callable(predict_masks):
        raise BadInput(f"predict_masks is a {type(predict_masks).__name__}; give a function from masks to answers")
    parts = []
    with torch.no_grad():
        for part in masks.split(batch):
            answers = torch.as_tensor(predict_masks(part))
            if answers.ndim not in (1, 2) or len(answers) != len(part):
                raise BadInput(
                    f"predict_masks returned shape {tuple(answers.shape)} for {len(part)} masks; return (S, T)"
                )
            if answers.is_complex():
                raise BadInput(
                    "predict_masks returned complex numbers; return real ones, such as their absolute values"
                )
            parts.append((answers[:, None] if answers.ndim == 1 else answers).to("cpu", torch.float64))
            width = parts[-1].shape[1]
            for name, value in (known or {}).items():
                if len(value) != width:
                    raise BadInput(
                        f"{name} has {len(value)} values, and predict_masks returns {width} outputs; give one for each"
                    )
    answers = torch.cat(parts)
    if not torch.isfinite(answers).all():
        raise BadInput("predict_masks returned NaN or infinite values")
    return answers
