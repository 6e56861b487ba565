"""Studies: published experiments, reproduced, and which of their claims hold.

A study is a function `run_NAME(scale, *, out, seeds, ...) -> StudySummary`, in a folder of its own; `common/` holds
what studies share. No study imports another one.
"""

from unfooled.studies.attackability import run_attackability
from unfooled.studies.attention import run_attention
from unfooled.studies.attribution_robustness import run_attribution_robustness
from unfooled.studies.broken_defences import run_broken_defences
from unfooled.studies.certification import run_certification
from unfooled.studies.common.records import Claim, StudySummary
from unfooled.studies.lime_shift import run_lime_shift
from unfooled.studies.mnist_features import run_mnist_features
from unfooled.studies.purification import run_purification
from unfooled.studies.robust_features import run_robust_features

__all__ = [
    "Claim",
    "StudySummary",
    "run_attackability",
    "run_attention",
    "run_attribution_robustness",
    "run_broken_defences",
    "run_certification",
    "run_lime_shift",
    "run_mnist_features",
    "run_purification",
    "run_robust_features",
]
