"""LIME under attack: how far explanations move with the label, beside LIME's own instability."""

from unfooled.studies.lime_shift.scale import ShiftScale, ShiftTask
from unfooled.studies.lime_shift.study import run_lime_shift

__all__ = ["ShiftScale", "ShiftTask", "run_lime_shift"]
