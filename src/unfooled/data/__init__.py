"""Labelled data as people keep it, as tensors in the unit box."""

from unfooled.data.dataset import Dataset
from unfooled.data.load import load_data, load_dataset
from unfooled.data.store import FeatureSet, load_features, save_features

__all__ = ["Dataset", "FeatureSet", "load_data", "load_dataset", "load_features", "save_features"]
