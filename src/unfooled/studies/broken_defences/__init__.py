"""Broken defences: does an audit notice hidden gradients?"""

from unfooled.studies.broken_defences.judging import Judge, Judgement
from unfooled.studies.broken_defences.scale import DefenceScale
from unfooled.studies.broken_defences.study import run_broken_defences

__all__ = ["DefenceScale", "Judge", "Judgement", "run_broken_defences"]
