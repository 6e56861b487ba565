"""Attacks on explanations, and random baselines of equal cost."""

from unfooled.attacks.explanations.attack import Differences, Search, attack_explanation
from unfooled.attacks.explanations.attention_shift import (
    Unscaled,
    attention_hold,
    attention_only,
    attention_pgd,
    iou_below,
)
from unfooled.attacks.explanations.candidates import Candidates
from unfooled.attacks.explanations.noise import best_of_random, random_point, random_walk, square_explain
from unfooled.attacks.explanations.objectives import (
    cosine,
    into,
    kendall_surrogate,
    mass_center,
    out_of_lens,
    out_of_top_k,
)

__all__ = [
    "Candidates",
    "Differences",
    "Search",
    "Unscaled",
    "attack_explanation",
    "attention_hold",
    "attention_only",
    "attention_pgd",
    "best_of_random",
    "cosine",
    "into",
    "iou_below",
    "kendall_surrogate",
    "mass_center",
    "out_of_lens",
    "out_of_top_k",
    "random_point",
    "random_walk",
    "square_explain",
]
