"""Part of a model that an attack can use."""

from __future__ import annotations

from enum import StrEnum


class Access(StrEnum):
    """Part of a model that an attack can use."""

    GRADIENTS = "gradients"
    SCORES = "scores"
    LABELS = "labels"
