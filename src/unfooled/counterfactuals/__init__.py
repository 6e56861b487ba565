"""Semantic counterfactuals: which attributes would have to change for the label to change, and by how much.

head       `AffineHead`, the last affine map of a network; `Cost` says what may change, `Edit` is an answer
flips      the nearest change of label (`flip_distance`, `flip_edit`), exact in l_1, l_2, l_inf, under a covariance
targeted   the smallest change after which one class wins (`targeted_edit`), the range of one attribute
whole      the fewest attributes to turn over (`flip_attributes`)
legacy     the published pseudo-inverse metric, which is not a robustness measure
"""

from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.flips import flip_distance, flip_edit
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.legacy import PinvScore, pinv_attackability, pinv_edit
from unfooled.counterfactuals.targeted import attribute_interval, nearest_in, targeted_edit
from unfooled.counterfactuals.whole import flip_attributes

__all__ = [
    "AffineHead",
    "Cost",
    "Edit",
    "Group",
    "PinvScore",
    "attribute_interval",
    "flip_attributes",
    "flip_distance",
    "flip_edit",
    "nearest_in",
    "pinv_attackability",
    "pinv_edit",
    "targeted_edit",
]
