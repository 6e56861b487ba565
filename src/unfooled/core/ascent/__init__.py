"""Ascent of a per-sample objective inside a threat: kernel, step rules, what nearest-point attacks share."""

from unfooled.core.ascent.kernel import Ascent, ascend
from unfooled.core.ascent.rules import Auto, Constant, Decaying, Polyak, Rule, State, inward

__all__ = ["Ascent", "Auto", "Constant", "Decaying", "Polyak", "Rule", "State", "ascend", "inward"]
