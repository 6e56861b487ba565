"""The audit: how accurate is a model, how much of that survives an adversary, and can the figure be believed?"""

from unfooled.evaluation.audit.audit import Plan, audit

__all__ = ["Plan", "audit"]
