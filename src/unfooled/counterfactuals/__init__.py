"""Semantic counterfactuals: which attributes would have to change for the label to change, and by how much.

head, cost      `AffineHead`, the last affine map of a network; `Cost`: what may change; `fit_head`, `bayes_head`
flips           the nearest change of label (`flip_distance`, `flip_edit`), exact in l_1, l_2, l_inf, under a covariance
targeted        the smallest change after which one class wins (`targeted_edit`), the range of one attribute
binary          the fewest binary attributes to flip (`flip_attributes`)
score           attackability of samples, class pairs and models by `radius`; `agreement` with distances in pixels
attributes      attackability of an attribute, through the head (`head_effect`) and in total (`total_effect`)
spaces          attributes as coordinates of a concept network (`concept_space`) or of any frozen one (`probe_space`)
probes          attribute directions of any layer (`fit_probe`); neighbours: `tcav`, `concept_counterfactual`
pixels          edits carried to inputs (`realize_edit`); `measure`, and the controls beside every figure
pseudo_inverse  the published metric, which is not a robustness measure
"""

from unfooled.counterfactuals.attributes import (
    Effects,
    constant_attributes,
    fit_effects,
    head_effect,
    head_table,
    switches,
    total_effect,
    total_table,
)
from unfooled.counterfactuals.binary import flip_attributes
from unfooled.counterfactuals.concepts import ConceptEdit, Tcav, concept_counterfactual, tcav
from unfooled.counterfactuals.cost import Cost, Group
from unfooled.counterfactuals.edits import Edit
from unfooled.counterfactuals.fitting import bayes_head, fit_head
from unfooled.counterfactuals.flips import flip_distance, flip_edit
from unfooled.counterfactuals.head import AffineHead
from unfooled.counterfactuals.measures import (
    AttackSuccess,
    Measures,
    attack_success,
    measure,
    random_attributes,
    targeted_pgd,
)
from unfooled.counterfactuals.pixels import Carried, Realized, match_edit, realize_edit
from unfooled.counterfactuals.probes import Probe, fit_probe
from unfooled.counterfactuals.pseudo_inverse import PinvScore, pinv_attackability, pinv_edit
from unfooled.counterfactuals.score import (
    Agreement,
    Radii,
    agreement,
    attackability,
    group_means,
    pair_radii,
    radii,
    radius,
    within_covariance,
)
from unfooled.counterfactuals.spaces import AttributeSpace, concept_space, probe_space
from unfooled.counterfactuals.targeted import attribute_interval, nearest_in, targeted_edit

__all__ = [
    "AffineHead",
    "Agreement",
    "AttackSuccess",
    "AttributeSpace",
    "Carried",
    "ConceptEdit",
    "Cost",
    "Edit",
    "Effects",
    "Group",
    "Measures",
    "PinvScore",
    "Probe",
    "Radii",
    "Realized",
    "Tcav",
    "agreement",
    "attack_success",
    "attackability",
    "attribute_interval",
    "bayes_head",
    "concept_counterfactual",
    "concept_space",
    "constant_attributes",
    "fit_effects",
    "fit_head",
    "fit_probe",
    "flip_attributes",
    "flip_distance",
    "flip_edit",
    "group_means",
    "head_effect",
    "head_table",
    "match_edit",
    "measure",
    "nearest_in",
    "pair_radii",
    "pinv_attackability",
    "pinv_edit",
    "probe_space",
    "radii",
    "radius",
    "random_attributes",
    "realize_edit",
    "switches",
    "targeted_edit",
    "targeted_pgd",
    "tcav",
    "total_effect",
    "total_table",
    "within_covariance",
]
