"""Attacks: search for inputs that change the label or the explanation; success is evaluated by `evaluation.verify`.

Budget attacks: `fgsm`, `step_ll`, `r_step_ll`, `pgd`, `apgd`, `memetic`, `square`, `labels_only`; any of them with
`restarted`.
Minimal-norm attacks: `alma`, `bisect`, `ddn`, `fab`, `fmn`, `pdpgd`, `sigma_zero`; from labels only `rays`,
`hop_skip_jump`. Against purifiers: `low_frequency`, `assignment`. Wrappers that give a model another gradient:
`Averaged`, `StraightThrough`, `bpda`, `Jittered`, `Estimated`; `distil` and `transfer` borrow one from a twin.

Attacks on the attention map: `attention_pgd`, `attention_only`, `attention_hold`. Attacks on any explanation:
`attack_explanation` with its objectives (`out_of_lens`, `cosine`, ...), the search `square_explain`, and the baselines
`random_point`, `best_of_random`, `random_walk`.
"""

from unfooled.attacks.alma import alma
from unfooled.attacks.apgd import apgd
from unfooled.attacks.assignment import assignment
from unfooled.attacks.bisect import bisect
from unfooled.attacks.ddn import ddn
from unfooled.attacks.explanations.attack import Differences, Search, attack_explanation
from unfooled.attacks.explanations.attention_shift import (
    Unscaled,
    attention_hold,
    attention_only,
    attention_pgd,
    iou_below,
)
from unfooled.attacks.explanations.noise import best_of_random, random_point, random_walk, square_explain
from unfooled.attacks.explanations.objectives import (
    cosine,
    into,
    kendall_surrogate,
    mass_center,
    out_of_lens,
    out_of_top_k,
)
from unfooled.attacks.fab import fab
from unfooled.attacks.fgsm import fgsm
from unfooled.attacks.fmn import fmn
from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.estimated import Estimated
from unfooled.attacks.gradients.jittered import Jittered
from unfooled.attacks.gradients.straight_through import StraightThrough, bpda
from unfooled.attacks.gradients.twins import distil, transfer
from unfooled.attacks.hop_skip_jump import hop_skip_jump
from unfooled.attacks.labels_only import labels_only
from unfooled.attacks.low_frequency import low_frequency
from unfooled.attacks.memetic import memetic
from unfooled.attacks.pdpgd import pdpgd
from unfooled.attacks.pgd import pgd
from unfooled.attacks.rays import rays
from unfooled.attacks.restarts import restarted
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.attacks.square import square
from unfooled.attacks.step_ll import r_step_ll, step_ll

__all__ = [
    "Averaged",
    "Differences",
    "Estimated",
    "Jittered",
    "Search",
    "StraightThrough",
    "Unscaled",
    "alma",
    "apgd",
    "assignment",
    "attack_explanation",
    "attention_hold",
    "attention_only",
    "attention_pgd",
    "best_of_random",
    "bisect",
    "bpda",
    "cosine",
    "ddn",
    "distil",
    "fab",
    "fgsm",
    "fmn",
    "hop_skip_jump",
    "into",
    "iou_below",
    "kendall_surrogate",
    "labels_only",
    "low_frequency",
    "mass_center",
    "memetic",
    "out_of_lens",
    "out_of_top_k",
    "pdpgd",
    "pgd",
    "r_step_ll",
    "random_point",
    "random_walk",
    "rays",
    "restarted",
    "sigma_zero",
    "square",
    "square_explain",
    "step_ll",
    "transfer",
]
