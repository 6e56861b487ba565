"""Attacks propose inputs that change the label; `evaluation.verify` grades them.

Budget attacks: `fgsm`, `step_ll`, `pgd`, `apgd`, `square`; of the attention map: `attention_pgd`, `attention_only`,
`attention_hold`. Minimal-norm attacks: `alma`, `bisect`, `ddn`, `fab`, `fmn`, `pdpgd`, `sigma_zero`.
Without gradients: `rays`, `hop_skip_jump`, `labels_only` (labels alone); wrappers `Averaged`, `StraightThrough`,
`bpda`, `Jittered`, `Estimated` that give a model another gradient; `distil` and `transfer` borrow one from a twin.

Attacks on the reason instead of the label: `attack_explanation` with its objectives (`out_of_lens`, `cosine`, ...), the
search `square_explain`, and the baselines `random_point`, `best_of_random`, `random_walk`.
"""

from unfooled.attacks.alma import alma
from unfooled.attacks.apgd import apgd
from unfooled.attacks.bisect import bisect
from unfooled.attacks.ddn import ddn
from unfooled.attacks.explanations.attack import Differences, attack_explanation
from unfooled.attacks.explanations.attention import attention_hold, attention_only, attention_pgd, iou_below
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
from unfooled.attacks.gradients.adaptive import Averaged, Estimated, Jittered, StraightThrough, bpda
from unfooled.attacks.gradients.twins import distil, transfer
from unfooled.attacks.hop_skip_jump import hop_skip_jump
from unfooled.attacks.labels_only import labels_only
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
    "StraightThrough",
    "alma",
    "apgd",
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
    "mass_center",
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
