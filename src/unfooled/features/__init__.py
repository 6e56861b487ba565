"""Robust and non-robust features: corrupt images, invert the features of a network, rebuild data sets from them."""

from unfooled.core.model.encoder import Encoder
from unfooled.features.cleaning import open_mask
from unfooled.features.corruptions import (
    FIVE,
    groups,
    half_normal_noise,
    horizontal_lines,
    random_group,
    stroke_removal,
    unchanged,
    vertical_lines,
)
from unfooled.features.datasets import d_det, d_rand, non_robust_set, robust_set, smallest_threat
from unfooled.features.extra_corruptions import (
    EXTRA,
    brightness,
    fog,
    glass_blur,
    impulse_noise,
    motion_blur,
    rotate,
    scale,
    shot_noise,
    translate,
    zigzag,
)
from unfooled.features.inversion import Inversion, invert_features, last_features
from unfooled.features.making import Search, Storage

__all__ = [
    "EXTRA",
    "FIVE",
    "Encoder",
    "Inversion",
    "Search",
    "Storage",
    "brightness",
    "d_det",
    "d_rand",
    "fog",
    "glass_blur",
    "groups",
    "half_normal_noise",
    "horizontal_lines",
    "impulse_noise",
    "invert_features",
    "last_features",
    "motion_blur",
    "non_robust_set",
    "open_mask",
    "random_group",
    "robust_set",
    "rotate",
    "scale",
    "shot_noise",
    "smallest_threat",
    "stroke_removal",
    "translate",
    "unchanged",
    "vertical_lines",
    "zigzag",
]
