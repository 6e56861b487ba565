"""Chance levels of locality scores: expected score of unrelated maps, corrected scores, null distribution by shifts.

    chance     c = #N_w(S_k(a)) / (H W): `lens_recall` of an unrelated, scattered b (exact for a random set of k)
    corrected  (LENS - c) / (1 - c): 0 for unrelated maps, 1 for equal ones
    shifts     the scores after a circular shift of b's set by every (dy, dx). Their mean is exactly c; their spread
               shows how unlikely a score is for a set as clustered as that of b

On 28 x 28 maps with k = 100 and w = 2, c is .95: a score of .95 has no meaning. `chance(a)` is for `lens_recall`,
`chance(b)` for `lens_precision`. A clustered unrelated map scores less than c, so raw LENS rewards scattered maps.

References:
    The published scores (Kamath et al., arXiv:2312.10534) have no correction; this one is ours, in the form of Cohen's
    kappa (A coefficient of agreement for nominal scales, 1960). Circular shifts (on a torus): Lotwick and Silverman
    (Methods for analysing spatial processes of several types of points, JRSS B 1982).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat
from unfooled.distances.maps.diverse import check_maps, diverse_top_k
from unfooled.distances.maps.locality import defined, dilate, top_k_mask


def chance(a: Tensor, *, k: int, w: int = 1, diverse: bool = False) -> Tensor:
    """Return the share of the map within w pixels of its top k: the expected `lens_recall(a, b)` of an unrelated b.

    Args:
        a: Maps whose sets are dilated, (B, H, W): the clean ones for recall, the perturbed ones for precision.
        k: Number of pixels.
        w: Reach of the window; at 0, chance is k / (H W).
        diverse: True: take the diverse top k. They spread over the map, so chance is higher.

    Returns:
        (B,) in (0, 1]; NaN where the map is constant or holds NaN.
    """
    check_maps(a, a)
    mask = diverse_top_k(a, k, w) if diverse else top_k_mask(a, k)
    covered = flat(dilate(mask, w)).sum(1, dtype=torch.int32).double() / a.shape[1:].numel()
    return covered.where(defined(a), torch.nan).to(a.dtype)


def corrected(score: Tensor, chance: Tensor) -> Tensor:
    """Return a score rescaled so that chance is 0 and 1 stays 1, (score - chance) / (1 - chance), (B,).

    Negative below chance; NaN where chance is 1, since every map then scores 1.
    """
    return (score - chance) / torch.where(chance < 1, 1 - chance, torch.nan)


def shift_null(a: Tensor, b: Tensor, *, k: int, w: int = 1, diverse: bool = False) -> Tensor:
    """Return `lens_recall` for every circular shift (dy, dx) of b's set; for precision, swap a and b.

    Args:
        a: Maps, (B, H, W).
        b: Maps to compare with, like a.
        k: Number of pixels.
        w: Reach of the window. Only b's set wraps around; a's windows end at the border.
        diverse: True: take the diverse top k of both.

    Returns:
        (B, H * W), the shift (dy, dx) at index dy * W + dx: the unshifted score is first. Its mean is `chance(a)`.
        NaN rows where a map is constant or holds NaN.

    Cost: three FFTs per map.
    """
    check_maps(a, b)
    set_a, set_b = (diverse_top_k(t, k, w) if diverse else top_k_mask(t, k) for t in (a, b))
    size = a.shape[1:]
    spectrum = torch.fft.rfft2(dilate(set_a, w).double()) * torch.fft.rfft2(set_b.double()).conj()
    hits = flat(torch.fft.irfft2(spectrum, s=size)).round()  # counts: rounding removes the error of the FFT
    null = hits / flat(set_b).sum(1, keepdim=True)
    valid = (defined(a) & defined(b))[:, None]
    return null.where(valid, torch.nan).to(a.dtype)


def shift_p(null: Tensor) -> Tensor:
    """Return the share of shifts that score at least as high as no shift, (B, H * W) -> (B,); at least 1 / (H W)."""
    share = (null >= null[:, :1]).double().mean(1)
    return share.where(~null[:, 0].isnan(), torch.nan).to(null.dtype)


def shift_quantile(null: Tensor, q: float = 0.95) -> Tensor:
    """Return the q-quantile of the scores of all shifts, (B, H * W) -> (B,).

    Raises:
        BadInput: q is not in (0, 1].
    """
    if not 0 < q <= 1:
        raise BadInput(f"q is {q}; a quantile is asked for by a share above 0, at most 1")
    return null.kthvalue(math.ceil(q * null.shape[1]), dim=1).values
