"""Distances: pure functions `(a, b) -> (B,)`, one number a sample."""

from unfooled.distances.locality import abs_sum, as_maps, peak, signed, top_k_intersection, top_k_mask, total
from unfooled.distances.norms import l0, l1, l2, linf
from unfooled.distances.quality import psnr, ssim
from unfooled.distances.rank import either_nonzero, kendall, spearman

__all__ = [
    "abs_sum",
    "as_maps",
    "either_nonzero",
    "kendall",
    "l0",
    "l1",
    "l2",
    "linf",
    "peak",
    "psnr",
    "signed",
    "spearman",
    "ssim",
    "top_k_intersection",
    "top_k_mask",
    "total",
]
