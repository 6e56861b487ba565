"""Segmentation of images by scikit-image."""

from unfooled.compat.lime.wrappers.scikit_image import BaseWrapper, SegmentationAlgorithm

__all__ = ["BaseWrapper", "SegmentationAlgorithm"]
