"""The audit: how accurate is a model, how much of that survives an adversary, and can the figure be believed?"""

from unfooled.evaluation.audit.audit import audit
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.summary import About

__all__ = ["About", "Plan", "audit"]
