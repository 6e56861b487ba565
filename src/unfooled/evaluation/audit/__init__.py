"""Audits: clean and robust accuracy, explanations under attack, and a verdict on the figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "About": "summary",
    "Plan": "plan",
    "audit": "audit",
}

__all__ = ["About", "Plan", "audit"]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.evaluation.audit.audit import audit
    from unfooled.evaluation.audit.plan import Plan
    from unfooled.evaluation.audit.summary import About
