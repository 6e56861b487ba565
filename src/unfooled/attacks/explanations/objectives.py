"""Objectives of attacks on explanations: measures of the change of a map from the clean one.

    out_of_top_k(k)      - sum_{i in S_k(A0)} A_i                       mass leaves the k most relevant pixels
    out_of_lens(k, w)    - sum_{i in N_w(S_k(A0))} A_i                  mass leaves their neighbourhood too; `diverse`:
                                                                        that of the diverse top k, D_k(A0)
    mass_center()        |C(A) - C(A0)|^2,  C the centre of mass, in units of the map's size
    into(mask)           sum_i mask_i A_i                               mass moves into the mask
    cosine()             1 - cos(A, A0)
    kendall_surrogate()  - mean over fixed pairs of sign(A0_i - A0_j) tanh((A_i - A_j) / T),  T = median |A0_i - A0_j|

A0 is the clean map and A the current one, scaled so that absolute values sum to 1; S_k, N_w and D_k are the top k, the
pixels within w, and the diverse top k, as in `distances.maps.locality`. An objective is a function of the clean maps
that returns a function of later maps. Example of a custom objective:

    def blackout(clean):                                    # (B, H, W)
        return lambda maps, at: -maps[:, 0].sum(1)          # (b, H, W), (b,) positions in clean -> (b,)

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (top k, centre of
    mass, target region).
    Kamath et al., LENS, 2023, arXiv:2312.10534 (the neighbourhood).
    Dombrowski et al., Explanations can be manipulated and geometry is to blame, NeurIPS 2019, arXiv:1906.07983 (maps
    driven towards a given one).
    Differs: masses are those of the normalised map; the centre is not rounded to whole pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core import rng
from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat, per_sample
from unfooled.distances.maps.attention import centroid
from unfooled.distances.maps.diverse import diverse_top_k
from unfooled.distances.maps.locality import dilate, top_k_mask

MapValue = Callable[[Tensor, Tensor], Tensor]
"""(maps (b, H, W), at (b,) int64 positions in the clean maps) -> (b,); larger is a stronger attack."""


class MapObjective(Protocol):
    """An objective, constructed from the clean maps; see the module's docstring."""

    def __call__(self, clean: Tensor) -> MapValue:
        """Return the function to maximise, from the normalised clean maps, (B, H, W). Samples must be independent."""
        ...


def normalised(maps: Tensor) -> Tensor:
    """Scale each map so that its absolute values sum to 1; a map of zeros is not changed. Differentiable."""
    mass = flat(maps).abs().sum(1)
    return maps / per_sample(torch.where(mass > 0, mass, 1), maps)


@dataclass(frozen=True)
class _Outside:
    """Minus the mass in the neighbourhood of the clean top k."""

    k: int
    w: int
    diverse: bool = False

    def __call__(self, clean: Tensor) -> MapValue:
        best = diverse_top_k(clean, self.k, self.w) if self.diverse else top_k_mask(clean, self.k)
        mask = dilate(best, self.w).to(clean.dtype)
        return lambda maps, at: -(mask[at] * maps).sum((1, 2))


def out_of_top_k(k: int) -> MapObjective:
    """Push mass out of the k most relevant pixels of the clean map."""
    return _Outside(k, 0)


def out_of_lens(k: int, w: int = 1, *, diverse: bool = False) -> MapObjective:
    """Push mass out of the pixels within w of the (diverse) top k of the clean map."""
    if w < 0:
        raise BadInput(f"w is {w}; a neighbourhood has width 0 or more")
    return _Outside(k, w, diverse)


@dataclass(frozen=True)
class _MassCenter:
    """Squared shift of the centre of mass."""

    def __call__(self, clean: Tensor) -> MapValue:
        before = centroid(clean.abs())
        return lambda maps, at: (centroid(maps.abs()) - before[at]).square().sum(1)


def mass_center() -> MapObjective:
    """Move the centre of mass away, in any direction."""
    return _MassCenter()


@dataclass(frozen=True, eq=False)
class _Into:
    """Mass on a mask."""

    mask: Tensor

    def __call__(self, clean: Tensor) -> MapValue:
        mask = self.mask.to(clean)
        if mask.shape not in (clean.shape, clean.shape[1:]):
            raise BadInput(
                f"mask has shape {tuple(mask.shape)}; it must be {tuple(clean.shape[1:])}, one map, or one per sample, "
                f"{tuple(clean.shape)}"
            )
        mask = mask.expand_as(clean)
        return lambda maps, at: (mask[at] * maps).sum((1, 2))


def into(mask: Tensor) -> MapObjective:
    """Move mass into a region: weights (H, W) for all samples, or (B, H, W), bool or real."""
    if not isinstance(mask, Tensor):
        raise BadInput(f"mask is a {type(mask).__name__}; give a tensor, torch.as_tensor(mask)")
    return _Into(mask)


@dataclass(frozen=True)
class _Cosine:
    """One minus the cosine with the clean map."""

    def __call__(self, clean: Tensor) -> MapValue:
        rows = flat(clean)
        return lambda maps, at: 1 - F.cosine_similarity(flat(maps), rows[at], dim=1)


def cosine() -> MapObjective:
    """Turn the map away from the clean one; rank correlation usually falls with the cosine."""
    return _Cosine()


@dataclass(frozen=True)
class _KendallSurrogate:
    """Minus the smoothed share of pairs that keep their order."""

    pairs: int

    def __call__(self, clean: Tensor) -> MapValue:
        rows = flat(clean)
        u = rng.uniform(rng.seeds(clean, stage=rng.Stream.PAIRS), (2, self.pairs), dtype=torch.float64)
        first, second = (u * rows.shape[1]).long().unbind(1)
        gap = rows.gather(1, first) - rows.gather(1, second)
        order, size = gap.sign(), gap.abs()
        middle = size.median(1).values
        scale = torch.where(middle > 0, middle, size.mean(1))
        scale = torch.where(scale > 0, scale, 1)[:, None]

        def value(maps: Tensor, at: Tensor) -> Tensor:
            pixels = flat(maps)
            gaps = pixels.gather(1, first[at]) - pixels.gather(1, second[at])
            return -(order[at] * torch.tanh(gaps / scale[at])).mean(1)

        return value


def kendall_surrogate(pairs: int = 2048) -> MapObjective:
    """Reverse the order of pairs of pixels, drawn once for each sample from its clean map."""
    if pairs < 1:
        raise BadInput(f"pairs is {pairs}; it must be at least 1")
    return _KendallSurrogate(pairs)
