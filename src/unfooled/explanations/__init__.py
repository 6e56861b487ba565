"""Explanations: functions that attribute a model's decision to the coordinates of its input.

Each has the signature of `core.types.Explain`, `(model, x, y, *, create_graph=False) -> (B, *D)`: one number per input
coordinate, differentiable with `create_graph=True`. All other options are keyword-only, so `functools.partial`
configures an explanation.
"""

from unfooled.explanations.attention import AttentionMap, attention, attention_image, attention_map, attention_scores
from unfooled.explanations.cams import CamMap, grad_cam, grad_cam_map
from unfooled.explanations.completeness import PathAttribution, completeness_gap
from unfooled.explanations.expected_gradients import expected_gradients, expected_gradients_with_gap
from unfooled.explanations.gradients import input_x_gradient, saliency
from unfooled.explanations.layers import find_spatial_layer
from unfooled.explanations.lime.image import lime_image, lime_map
from unfooled.explanations.lime.mixed import lime_parts
from unfooled.explanations.lime.pick import Pick, submodular_pick
from unfooled.explanations.lime.result import Surrogates
from unfooled.explanations.lime.tabular import TabularSpace, lime_tabular
from unfooled.explanations.lime.text import lime_text
from unfooled.explanations.paths import integrated_gradients, integrated_gradients_with_gap
from unfooled.explanations.shapley import Shapley, exact_shapley, kernel_shap
from unfooled.explanations.smoothing import smooth_grad
from unfooled.explanations.stability import SoftStability, soft_stability
from unfooled.explanations.surgery import Smoothed, smooth_relu

__all__ = [
    "AttentionMap",
    "CamMap",
    "PathAttribution",
    "Pick",
    "Shapley",
    "Smoothed",
    "SoftStability",
    "Surrogates",
    "TabularSpace",
    "attention",
    "attention_image",
    "attention_map",
    "attention_scores",
    "completeness_gap",
    "exact_shapley",
    "expected_gradients",
    "expected_gradients_with_gap",
    "find_spatial_layer",
    "grad_cam",
    "grad_cam_map",
    "input_x_gradient",
    "integrated_gradients",
    "integrated_gradients_with_gap",
    "kernel_shap",
    "lime_image",
    "lime_map",
    "lime_parts",
    "lime_tabular",
    "lime_text",
    "saliency",
    "smooth_grad",
    "smooth_relu",
    "soft_stability",
    "submodular_pick",
]
