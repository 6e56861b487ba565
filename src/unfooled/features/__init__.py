"""Robust and non-robust features: corrupt images, invert what a network sees, rebuild data sets from it."""

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

__all__ = [
    "EXTRA",
    "FIVE",
    "brightness",
    "fog",
    "glass_blur",
    "groups",
    "half_normal_noise",
    "horizontal_lines",
    "impulse_noise",
    "motion_blur",
    "random_group",
    "rotate",
    "scale",
    "shot_noise",
    "stroke_removal",
    "translate",
    "unchanged",
    "vertical_lines",
    "zigzag",
]
