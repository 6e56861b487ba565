"""Locality scores: the share of the top coordinates that two maps have in common, up to a few pixels.

    top_k_intersection    #(S_k(a) & S_k(b)) / k         S_k(a) = the k largest entries, ties to the lower flat index
    lens_recall           #(N_w(S_k(a)) & S_k(b)) / k    N_w(S) = pixels within w of S, windows cut at the border
    lens_precision        #(S_k(a) & N_w(S_k(b))) / k
    diverse_intersection  #(D_k(a) & D_k(b)) / max k'    D_k(a) = the k' <= k best, no two within w; max of both k'
    lens_spearman, lens_kendall                          rank correlations of means over windows of 2w + 1 pixels

a is the clean map and b the perturbed one. Recall and precision are swapped with respect to their usual meaning:
`lens_recall` dilates the clean set and measures how much of the perturbed set lies in it, so reports print
`clean_dilated` and `pert_dilated` beside the paper's names. A dilated set covers much of a small map, so that unrelated
maps score high: compare scores with `distances.chance`.

Maps are reduced over channels first. The reduction is part of the score: attributions have a sign, and may cancel.

    abs_sum  sum_c |a_c|, scaled to a mean of 1 over the map          total  |sum_c a_c|
    peak     max_c |a_c|                                             signed  sum_c a_c

A map that is constant (zeros too) or holds NaN has no order: its scores are NaN (undefined), neither 0 nor 1.

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (top-k intersection).
    Kamath et al., LENS, 2023, arXiv:2312.10534 (locality and diversity; its published code reduces by `abs_sum`).
    Differs from the published code: windows end at the border, pixel 0 and the second diverse pixel are not dropped.
    It has no code for LENS-Spearman and LENS-Kendall: those are our interpretation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat, per_sample
from unfooled.distances.maps.diverse import check_k, check_maps, diverse_top_k
from unfooled.distances.maps.selection import count, count_both, k_largest
from unfooled.distances.maps.windows import check_window, whole_number, window_max
from unfooled.distances.norms import check_pair
from unfooled.distances.rank import kendall, spearman


def abs_sum(a: Tensor) -> Tensor:
    """Sum absolute values over channels and scale each map to a mean of 1, (B, C, H, W) -> (B, H, W).

    A map of zeros is returned unchanged. Differentiable; the sign is lost.
    """
    mass = _channels(a).abs().sum(1)
    mean = mass.flatten(1).mean(1)
    return mass / per_sample(torch.where(mean > 0, mean, 1), mass)


def total(a: Tensor) -> Tensor:
    """Return the absolute value of the sum over channels, (B, C, H, W) -> (B, H, W): channels may cancel."""
    return _channels(a).sum(1).abs()


def peak(a: Tensor) -> Tensor:
    """Return the largest absolute value over channels, (B, C, H, W) -> (B, H, W)."""
    return _channels(a).abs().amax(1)


def signed(a: Tensor) -> Tensor:
    """Sum over channels and keep the sign, (B, C, H, W) -> (B, H, W): evidence against the class ranks last."""
    return _channels(a).sum(1)


def as_maps(attribution: Tensor) -> Tensor:
    """Reduce attributions of any input to maps, (B, *D) -> (B, H, W).

    Images are reduced by `abs_sum`, other inputs by absolute value; those of one dimension become a single row.
    Differentiable.
    """
    if attribution.ndim == 4:
        return abs_sum(attribution)
    return attribution.abs().reshape(len(attribution), -1, attribution.shape[-1])


def top_k_mask(a: Tensor, k: int) -> Tensor:
    """Mark the k largest entries of each map, ties to the lower flat index.

    Args:
        a: Maps, (B, *D); one that holds NaN has no order and gets an empty mask.
        k: Number of entries, between 1 and the size of a map.

    Returns:
        (B, *D) bool, k entries True.

    Raises:
        BadInput: k does not fit the map.
    """
    k = check_k(k, a)
    return k_largest(flat(a.detach()), k)[0].reshape(a.shape)


def dilate(mask: Tensor, w: int) -> Tensor:
    """Mark every pixel within w rows and w columns of a True one, windows cut at the border, (B, H, W) bool.

    Raises:
        BadInput: w is not a whole number of at least 0, or the mask is not (B, H, W) bool.
    """
    if mask.dtype != torch.bool:
        raise BadInput(f"the mask is {mask.dtype}; dilate takes bool, (B, H, W)")
    return window_max(mask, w)


@dataclass(frozen=True, eq=False)
class TopSets:
    """Top k of some maps, selected once for several scores and windows.

    Attributes:
        mask: The k largest entries of each map, (B, *D) bool.
        valid: Maps that have an order, (B,) bool.
        windows: Dilated masks by their reach, computed at the first use.
        k: Number of entries of each set. None: it depends on the map.
    """

    mask: Tensor
    valid: Tensor
    windows: dict[int, Tensor] = field(default_factory=dict)
    k: int | None = None

    @classmethod
    def of(cls, maps: Tensor, k: int, *, w: int = 0, diverse: bool = False) -> Self:
        """Select the (diverse) top k of maps, (B, *D); `w` is the distance between the diverse ones."""
        if diverse:
            return cls(diverse_top_k(maps, k, w), defined(maps))
        k = check_k(k, maps)
        mask, valid = k_largest(flat(maps.detach()), k)
        return cls(mask.reshape(maps.shape), valid, k=k)

    def take(self, rows: Tensor) -> TopSets:
        """Return the sets of some maps."""
        return TopSets(self.mask[rows], self.valid[rows], {w: near[rows] for w, near in self.windows.items()}, self.k)

    def within(self, w: int) -> Tensor:
        """Return the pixels within w of the sets, (B, H, W) bool."""
        if w not in self.windows:
            self.windows[w] = dilate(self.mask, w)
        return self.windows[w]

    def intersection(self, other: TopSets) -> Tensor:
        """Return the share of the sets that another one has in common, (B,) float64; NaN where undefined."""
        return self._share(other.mask, other)

    def recall(self, other: TopSets, w: int = 1) -> Tensor:
        """Return the share of another set within w of these, (B,) float64; NaN where undefined."""
        return other._share(self.within(w), self)

    @cached_property
    def _counts(self) -> Tensor:
        """Return the sizes of the sets, (B,) float64, whatever they are where a map is undefined."""
        return (
            count(self.mask) if self.k is None else torch.full((len(self.mask),), self.k).to(self.mask.device).double()
        )

    def _share(self, near: Tensor, other: TopSets) -> Tensor:
        """Return the share of these sets that lies in a mask, (B,); NaN where these or the others are undefined."""
        return (count_both(self.mask, near) / self._counts).where(self.valid & other.valid, torch.nan)


@dataclass(frozen=True)
class SetScore:
    """Score of two maps that depends on their top k alone, so that the sets of the clean maps are selected once.

    Attributes:
        compare: Function of the sets of the clean and of the perturbed maps, `(TopSets, TopSets) -> (B,)`.
        k: Number of pixels.
    """

    compare: Callable[[TopSets, TopSets], Tensor]
    k: int

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the score of clean maps a and perturbed maps b, (B, *D) each, (B,)."""
        check_pair(a, b)
        return self.compare(TopSets.of(a, self.k), TopSets.of(b, self.k)).to(a.dtype)


def lens_scores(
    a: Tensor, b: Tensor, *, k: int, w: int | Sequence[int] = 1, diverse: bool = False
) -> dict[tuple[str, int], Tensor]:
    """Return recall and precision for several windows, and the intersection, from sets that are selected once.

    Args:
        a: Clean maps, (B, H, W).
        b: Perturbed maps, like a.
        k: Number of pixels.
        w: Reach of the window in pixels, one or several; `diverse` takes one.
        diverse: True: take the diverse top k of both maps.

    Returns:
        ("recall", w) and ("precision", w) for each w, and ("intersection", 0), (B,) each: the values of `lens_recall`,
        `lens_precision` and `top_k_intersection`.

    Raises:
        BadInput: k or w does not fit, the shapes do not agree, or several windows are given with `diverse`.
    """
    check_maps(a, b)
    several = isinstance(w, Iterable) and whole_number(w) is None and not isinstance(w, str)
    reaches = tuple(check_window(reach) for reach in (w if several else (w,)))  # type: ignore[union-attr, arg-type]
    if diverse and len(reaches) != 1:
        raise BadInput(f"w is {w}; the diverse top k depends on it, give one number")
    sets_a, sets_b = (TopSets.of(t, k, w=reaches[0] if reaches else 0, diverse=diverse) for t in (a, b))
    scores = {("recall", reach): sets_a.recall(sets_b, reach).to(a.dtype) for reach in reaches}
    scores |= {("precision", reach): sets_b.recall(sets_a, reach).to(a.dtype) for reach in reaches}
    return scores | {("intersection", 0): sets_a.intersection(sets_b).to(a.dtype)}


def top_k_intersection(a: Tensor, b: Tensor, *, k: int) -> Tensor:
    """Return the share of the top k coordinates that two maps have in common.

    Args:
        a: Maps, (B, *D), reduced over channels where they have any.
        b: Maps to compare with, like a.
        k: Number of coordinates.

    Returns:
        (B,) in [0, 1]; NaN, undefined, where a map is constant (zeros too) or holds NaN. Unrelated maps score k / size.

    Raises:
        BadInput: k does not fit, or the shapes do not agree.
    """
    check_pair(a, b)
    return TopSets.of(a, k).intersection(TopSets.of(b, k)).to(a.dtype)


def lens_recall(a: Tensor, b: Tensor, *, k: int, w: int = 1, diverse: bool = False) -> Tensor:
    """Return the share of b's top k within w pixels of a's: w-LENS-recall@k of the paper, `clean_dilated`.

    Args:
        a: Clean maps, (B, H, W).
        b: Perturbed maps, like a.
        k: Number of pixels.
        w: Reach of the window in pixels; its side is 2w + 1, and 0 is `top_k_intersection`.
        diverse: True: take the diverse top k of both maps (with the same w) and divide by their number.

    Returns:
        (B,) in [0, 1]; NaN, undefined, where a map is constant or holds NaN. Unrelated maps score `chance(a, k=, w=)`.

    Raises:
        BadInput: k or w does not fit, or the shapes do not agree.
    """
    check_maps(a, b)
    sets_a, sets_b = (TopSets.of(t, k, w=w, diverse=diverse) for t in (a, b))
    return sets_a.recall(sets_b, w).to(a.dtype)


def lens_precision(a: Tensor, b: Tensor, *, k: int, w: int = 1, diverse: bool = False) -> Tensor:
    """Return the share of a's top k within w pixels of b's: w-LENS-prec@k of the paper, `pert_dilated`.

    The same as `lens_recall(b, a, ...)`, with the same arguments. Unrelated maps score `chance(b, k=, w=)`.
    """
    return lens_recall(b, a, k=k, w=w, diverse=diverse)


def diverse_intersection(a: Tensor, b: Tensor, *, k: int, w: int = 1) -> Tensor:
    """Return the share of the diverse top k, no two within w pixels, that two maps have in common: top-k-div.

    Where the maps have fewer than k such pixels, the larger of the two counts is the divisor. (B,) in [0, 1], NaN where
    a map is constant or holds NaN; arguments and errors as for `lens_recall`.
    """
    check_maps(a, b)
    set_a, set_b = (diverse_top_k(t, k, w) for t in (a, b))
    larger = torch.maximum(count(set_a), count(set_b))
    return (count(set_a & set_b) / larger).where(defined(a) & defined(b), torch.nan).to(a.dtype)


def zero_share(a: Tensor, *, k: int) -> Tensor:
    """Return the share of zeros (ranked only by index) in the top k, (B, *D) -> (B,); NaN for a map with NaN."""
    mask = top_k_mask(a, k)
    return (count(mask & (a == 0)) / count(mask)).to(a.dtype)


def lens_spearman(a: Tensor, b: Tensor, *, w: int = 1) -> Tensor:
    """Return Spearman's rho of the local means of two maps, (B, H, W) -> (B,): ranks that may move by w pixels.

    The mean is over the part of the window of 2w + 1 pixels that lies inside the map. NaN where a map is constant.
    """
    check_maps(a, b)
    rho = spearman(_local_mean(a, w), _local_mean(b, w))
    return rho.where(defined(a) & defined(b), torch.nan).to(a.dtype)


def lens_kendall(a: Tensor, b: Tensor, *, w: int = 1) -> Tensor:
    """Return Kendall's tau-b of the local means of two maps, (B, H, W) -> (B,). See `lens_spearman`."""
    check_maps(a, b)
    tau = kendall(_local_mean(a, w), _local_mean(b, w))
    return tau.where(defined(a) & defined(b), torch.nan).to(a.dtype)


def defined(a: Tensor) -> Tensor:
    """Mark the maps that have an order, (B,) bool: not constant, no NaN."""
    rows = flat(a.detach())
    return rows.amax(1) > rows.amin(1)


def _local_mean(a: Tensor, w: int) -> Tensor:
    """Average over the window around each pixel, in float64, so that equal sums of float32 values stay equal."""
    w = check_window(w)
    return F.avg_pool2d(a.detach().double()[:, None], 2 * w + 1, 1, w, count_include_pad=False)[:, 0]


def _channels(a: Tensor) -> Tensor:
    """Return a; refuse maps without channels."""
    if a.ndim != 4:
        raise BadInput(f"the map has shape {tuple(a.shape)}; a reduction over channels takes (B, C, H, W)")
    return a
