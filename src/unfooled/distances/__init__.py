"""Distances: pure functions `(a, b) -> (B,)`, one number a sample."""

from unfooled.distances.diverse import diverse_top_k
from unfooled.distances.locality import (
    abs_sum,
    as_maps,
    dilate,
    diverse_intersection,
    lens_kendall,
    lens_precision,
    lens_recall,
    lens_spearman,
    peak,
    signed,
    top_k_intersection,
    top_k_mask,
    total,
    zero_share,
)
from unfooled.distances.norms import l0, l1, l2, linf
from unfooled.distances.null import chance, corrected, shift_null, shift_p, shift_quantile
from unfooled.distances.quality import psnr, ssim
from unfooled.distances.rank import either_nonzero, kendall, spearman

__all__ = [
    "abs_sum",
    "as_maps",
    "chance",
    "corrected",
    "dilate",
    "diverse_intersection",
    "diverse_top_k",
    "either_nonzero",
    "kendall",
    "l0",
    "l1",
    "l2",
    "lens_kendall",
    "lens_precision",
    "lens_recall",
    "lens_spearman",
    "linf",
    "peak",
    "psnr",
    "shift_null",
    "shift_p",
    "shift_quantile",
    "signed",
    "spearman",
    "ssim",
    "top_k_intersection",
    "top_k_mask",
    "total",
    "zero_share",
]
