"""Study of purification by semantic dictionaries: what a purifier adds, static and adaptive."""

from unfooled.studies.purification.scale import PurificationScale, PurifierTask
from unfooled.studies.purification.study import run_purification

__all__ = ["PurificationScale", "PurifierTask", "run_purification"]
