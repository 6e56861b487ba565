"""Kinds of explanations, and findings about one."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

LOW_R2 = 0.5
"""Held-out R2 below which no linear surrogate fits well."""


class Kind(StrEnum):
    """Kinds of explained inputs."""

    IMAGE = "image"
    TEXT = "text"
    TABLE = "table"
    PARTS = "parts"


class Flag(StrEnum):
    """Findings about one explanation."""

    SINGULAR = "the masks do not identify every weight"
    FEW = "few effective samples"
    EVERY_MASK = "every mask was used: no sampling error"
    STABLE = "stable"  # never beside SINGULAR
    ONE = "one segment: nothing to compare"
    NOT_REACHED = "not stable at the largest number of samples"


def few_effective(features: int) -> int:
    """Return the smallest effective sample size for reliable standard errors, 5 (M + 1) for M features."""
    return 5 * (features + 1)


def notes(flags: Sequence[Flag], ess: float, features: int) -> list[str]:
    """Return findings as sentences."""
    sentences = {
        Flag.FEW: f"More samples needed: {ess:.0f} effective ones for {features} features; {few_effective(features)} "
        "are asked for.",
        Flag.NOT_REACHED: "Not stable: some weights are not identified."
        if Flag.SINGULAR in flags
        else "More samples needed: the leading features are not separated yet.",
        Flag.SINGULAR: "Some weights are not identified, and their errors mean nothing: a feature that was never "
        "hidden or never shown has weight 0 (with a prior the prior's), and features that were always hidden together "
        "share their common weight.",
        Flag.ONE: "One segment: nothing to compare. Its weight is the effect of hiding the whole input; choose a finer "
        "segmenter.",
        Flag.EVERY_MASK: "Every mask was used: there is no sampling error.",
    }
    return [sentence for flag, sentence in sentences.items() if flag in flags]
