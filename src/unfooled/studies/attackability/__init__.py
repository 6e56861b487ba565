"""Attackability: which attributes flip a decision, whether pixels can, and the published claims about it."""

from unfooled.studies.attackability.scale import Alarm, AttackabilityScale, Editing, Recipe, Semantic
from unfooled.studies.attackability.study import run_attackability

__all__ = ["Alarm", "AttackabilityScale", "Editing", "Recipe", "Semantic", "run_attackability"]
