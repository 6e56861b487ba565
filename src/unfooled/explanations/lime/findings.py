"""Kinds of explanations, and findings about one."""

from __future__ import annotations

from enum import StrEnum


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
    STABLE = "stable"
    NOT_REACHED = "not stable at the largest number of samples"


def few_effective(features: int) -> int:
    """Return the smallest effective sample size for reliable standard errors, 5 (M + 1) for M features."""
    return 5 * (features + 1)
