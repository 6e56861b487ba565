"""Where maps agree: the share of the most relevant coordinates that two maps have in common.

    top_k_intersection = #(S_k(a) & S_k(b)) / k,    S_k(a) = the k largest entries, ties to the lower flat index

Maps are reduced over channels first, by a reduction that is named: relevance has a sign, and channels may cancel.

    abs_sum  sum_c |a_c|, scaled to a mean of 1 over the map          total  |sum_c a_c|
    peak     max_c |a_c|                                             signed  sum_c a_c

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (top-k intersection).
    Kamath et al., LENS, 2023, arXiv:2312.10534 (locality; its published code reduces by `abs_sum`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.core.checks import BadInput
from unfooled.core.shapes import flat, per_sample
from unfooled.distances.norms import check_pair


def abs_sum(a: Tensor) -> Tensor:
    """Sum of absolute values over channels, scaled so that each map's mean is 1; (B, C, H, W) -> (B, H, W).

    A map of zeros stays one. Differentiable; the sign is lost.
    """
    mass = _channels(a).abs().sum(1)
    mean = mass.flatten(1).mean(1)
    return mass / per_sample(torch.where(mean > 0, mean, 1), mass)


def total(a: Tensor) -> Tensor:
    """Absolute value of the sum over channels, (B, C, H, W) -> (B, H, W): channels may cancel."""
    return _channels(a).sum(1).abs()


def peak(a: Tensor) -> Tensor:
    """Largest absolute value over channels, (B, C, H, W) -> (B, H, W)."""
    return _channels(a).abs().amax(1)


def signed(a: Tensor) -> Tensor:
    """Sum over channels with its sign, (B, C, H, W) -> (B, H, W): evidence against ranks last."""
    return _channels(a).sum(1)


def as_maps(attribution: Tensor) -> Tensor:
    """Reduce relevances of any input to maps, (B, *D) -> (B, H, W).

    Images by `abs_sum`; other inputs by absolute value, a single row where they have one dimension. Differentiable.
    """
    if attribution.ndim == 4:
        return abs_sum(attribution)
    return attribution.abs().reshape(len(attribution), -1, attribution.shape[-1])


def top_k_mask(a: Tensor, k: int) -> Tensor:
    """The k largest entries of each map, ties to the lower flat index.

    Args:
        a: maps, (B, *D); one that holds NaN has no order and gets an empty mask.
        k: how many, between 1 and the size of a map.

    Returns:
        (B, *D) bool, k entries True.

    Raises:
        BadInput: k does not fit the map.
    """
    rows = flat(a.detach())
    if not 1 <= k <= rows.shape[1]:
        raise BadInput(f"k is {k}; maps of shape {tuple(a.shape[1:])} have 1 to {rows.shape[1]} entries to choose")
    least = rows.topk(k, dim=1).values[:, -1:]
    above, tie = rows > least, rows == least
    room = k - above.sum(1, keepdim=True)
    mask = above | (tie & (tie.cumsum(1) <= room))
    return (mask & ~rows.isnan().any(1, keepdim=True)).reshape(a.shape)


def top_k_intersection(a: Tensor, b: Tensor, *, k: int) -> Tensor:
    """Share of the top k coordinates that two maps have in common.

    Args:
        a: maps, (B, *D), reduced over channels where they have any.
        b: likewise.
        k: how many coordinates.

    Returns:
        (B,) in [0, 1]; NaN, undefined, where a map is constant (zeros too) or holds NaN. Unrelated maps score k / size.

    Raises:
        BadInput: k does not fit, or the shapes do not agree.
    """
    check_pair(a, b)
    both = flat(top_k_mask(a, k) & top_k_mask(b, k)).sum(1) / k
    return both.to(a.dtype).where(defined(a) & defined(b), torch.nan)


def defined(a: Tensor) -> Tensor:
    """Whether each map has an order to speak of, (B,) bool: not constant, no NaN."""
    rows = flat(a.detach())
    return rows.amax(1) > rows.amin(1)


def _channels(a: Tensor) -> Tensor:
    if a.ndim != 4:
        raise BadInput(f"the map has shape {tuple(a.shape)}; a reduction over channels takes (B, C, H, W)")
    return a
