"""Loaders and generators of labelled data: tensors in the unit box [0, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "AttributeTable": "formats.attributes",
    "BirdAttributes": "formats.birds",
    "Boxed": "boxes",
    "Canvas": "made.canvas",
    "ClassTable": "formats.birds",
    "Dataset": "dataset",
    "FeatureSet": "formats.feature_sets",
    "Shapes": "made.shapes",
    "Twin": "made.shapes",
    "box_masks": "boxes",
    "load_birds": "formats.birds",
    "load_boxed": "boxes",
    "load_class_table": "formats.birds",
    "load_cub": "boxes",
    "load_data": "load",
    "load_dataset": "load",
    "load_digits_canvas": "made.canvas",
    "load_features": "formats.feature_sets",
    "load_shapes": "made.shapes",
    "read_attributes": "formats.attributes",
    "save_features": "formats.feature_sets",
    "simulate_birds": "made.simulated_birds",
}

__all__ = [
    "AttributeTable",
    "BirdAttributes",
    "Boxed",
    "Canvas",
    "ClassTable",
    "Dataset",
    "FeatureSet",
    "Shapes",
    "Twin",
    "box_masks",
    "load_birds",
    "load_boxed",
    "load_class_table",
    "load_cub",
    "load_data",
    "load_dataset",
    "load_digits_canvas",
    "load_features",
    "load_shapes",
    "read_attributes",
    "save_features",
    "simulate_birds",
]


__getattr__ = importer(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.data.boxes import Boxed, box_masks, load_boxed, load_cub
    from unfooled.data.dataset import Dataset
    from unfooled.data.formats.attributes import AttributeTable, read_attributes
    from unfooled.data.formats.birds import BirdAttributes, ClassTable, load_birds, load_class_table
    from unfooled.data.formats.feature_sets import FeatureSet, load_features, save_features
    from unfooled.data.load import load_data, load_dataset
    from unfooled.data.made.canvas import Canvas, load_digits_canvas
    from unfooled.data.made.shapes import Shapes, Twin, load_shapes
    from unfooled.data.made.simulated_birds import simulate_birds
