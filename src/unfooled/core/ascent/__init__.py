"""Ascent of a per-sample objective inside a threat: the kernel, step rules, and parts of minimal-norm attacks."""

from unfooled.core.ascent.kernel import Ascent, ascend
from unfooled.core.ascent.nearest import DUAL, NORMS, Nearest, check_minimal, clearly_fooled, unbounded
from unfooled.core.ascent.rules import Auto, Constant, Decaying, Polyak, Rule, State, inward

__all__ = [
    "DUAL",
    "NORMS",
    "Ascent",
    "Auto",
    "Constant",
    "Decaying",
    "Nearest",
    "Polyak",
    "Rule",
    "State",
    "ascend",
    "check_minimal",
    "clearly_fooled",
    "inward",
    "unbounded",
]
