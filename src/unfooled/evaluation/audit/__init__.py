"""Audits: clean and robust accuracy, explanations under attack, and a verdict on the figures."""

from unfooled.evaluation.audit.audit import audit
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.summary import About

__all__ = ["About", "Plan", "audit"]
