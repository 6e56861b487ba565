"""Robust features: the four sets of what networks see, and networks trained on each."""

from unfooled.studies.robust_features.scale import FeatureScale, FeatureTask
from unfooled.studies.robust_features.study import run_robust_features

__all__ = ["FeatureScale", "FeatureTask", "run_robust_features"]
