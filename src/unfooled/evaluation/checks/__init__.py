"""Checks before, during and after an attack, and the verdict that they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "Finding": "table",
    "LogOfProbabilities": "subject",
    "Subject": "subject",
    "diagnose": "after",
}

__all__ = ["Finding", "LogOfProbabilities", "Subject", "diagnose"]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.evaluation.checks.after import diagnose
    from unfooled.evaluation.checks.subject import LogOfProbabilities, Subject
    from unfooled.evaluation.checks.table import Finding
