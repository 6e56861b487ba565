"""Checks before, during and after an attack, and the verdict that they lead to."""

from unfooled.evaluation.checks.after import diagnose
from unfooled.evaluation.checks.subject import LogOfProbabilities, Subject
from unfooled.evaluation.checks.table import Finding

__all__ = ["Finding", "LogOfProbabilities", "Subject", "diagnose"]
