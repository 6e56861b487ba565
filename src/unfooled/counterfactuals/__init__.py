"""Semantic counterfactuals: which attributes would have to change for the label to change, and by how much.

head       `AffineHead`, the last affine map of a network; `Cost` says what may change, `Edit` is an answer
flips      the nearest change of label (`flip_distance`, `flip_edit`), exact in l_1, l_2, l_inf, under a covariance
targeted   the smallest change after which one class wins (`targeted_edit`), the range of one attribute
whole      the fewest attributes to turn over (`flip_attributes`)
pixels     edits carried to inputs (`realize_edit`); `measure`, and the controls beside every figure
legacy     the published pseudo-inverse metric, which is not a robustness measure
"""

from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.flips import flip_distance, flip_edit
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.legacy import PinvScore, pinv_attackability, pinv_edit
from unfooled.counterfactuals.measures import (
    AttackSuccess,
    Measures,
    attack_success,
    measure,
    random_attributes,
    targeted_pgd,
)
from unfooled.counterfactuals.pixels import Carried, Realized, match_edit, realize_edit
from unfooled.counterfactuals.targeted import attribute_interval, nearest_in, targeted_edit
from unfooled.counterfactuals.whole import flip_attributes

__all__ = [
    "AffineHead",
    "AttackSuccess",
    "Carried",
    "Cost",
    "Edit",
    "Group",
    "Measures",
    "PinvScore",
    "Realized",
    "attack_success",
    "attribute_interval",
    "flip_attributes",
    "flip_distance",
    "flip_edit",
    "match_edit",
    "measure",
    "nearest_in",
    "pinv_attackability",
    "pinv_edit",
    "random_attributes",
    "realize_edit",
    "targeted_edit",
    "targeted_pgd",
]
