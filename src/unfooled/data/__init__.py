"""Labelled data as people keep it, as tensors in the unit box."""

from unfooled.data.dataset import Dataset
from unfooled.data.load import load_data, load_dataset

__all__ = ["Dataset", "load_data", "load_dataset"]
