"""unfooled: find out what fools your classifier, see why, and train it until it no longer is.

    import unfooled as uf

    model, (x, y) = uf.load_model("net.pt"), uf.load_data("digits", n=200)
    summary = uf.audit(model, x, y, uf.Linf(8 / 255), out="runs/mine")

A model is any callable from inputs in [0, 1], (B, *D), to logits, (B, K).

Load      load_model, load_data, load_features, load_shapes, Classifier (a module with its normalisation), Limits, bind,
          BlackBox (a function of arrays), two_class, multi_label (one output, several labels)
Threats   Linf, L2, L1, L0: a norm and a radius, a fraction of the input range; Box, Threat
Audit     audit -> Summary; Plan (what it does); Effort, QUICK, NORMAL, THOROUGH; diagnose (its checks alone)
Attack    cascade, autoattack, envelope (the nearest points), attack_explanation (keeps the label), ascend (the kernel)
Judge     robust_accuracy (by one attack), assert_robust (in tests); verify -> Verdict; counted, frozen, faster;
          predicted, least_likely (classes); show (a picture); BadInput (what is wrong and what to do)
Train     train: from names and files, resumable; memory_limit: what the samples of an audit may take

Families are packages that list their names, such as help(uf.attacks); dir(uf) lists all names, imported at first use:
attacks, explanations, distances, training, features, purification: methods, as functions over tensors
counterfactuals, certification                         the smallest change that flips a decision; proofs that none does
models, data                                           readers of models and data; small networks and data sets
evaluation, studies, report, workflows                 the judge, the audit; experiments; pages; a function per command
testing, compat, core, runs, statistics, drawing       contracts; lime, torchmetrics; what the others are built on
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled._version import __version__
from unfooled.core.lazy import importer

# No `__all__`: with one, help(unfooled) would print the documentation of every name, thousands of lines.
_NAMES = {
    "BlackBox": "models.black_boxes",
    "Box": "core.threats",
    "memory_limit": "core.memory",
    "Linf": "core.threats",
    "L2": "core.threats",
    "least_likely": "core.goals",
    "predicted": "core.goals",
    "show": "drawing.panels",
    "L1": "core.threats",
    "L0": "core.threats",
    "Threat": "core.threats",
    "BadInput": "core.errors",
    "Limits": "core.limits",
    "Classifier": "core.model.classifier",
    "ascend": "core.ascent",
    "bind": "core.model.binding",
    "counted": "core.model.wrappers",
    "faster": "core.model.faster",
    "frozen": "core.model.modes",
    "load_model": "models.load",
    "load_data": "data.load",
    "load_shapes": "data.made.shapes",
    "load_features": "data.formats.feature_sets",
    "verify": "evaluation.verify",
    "Verdict": "evaluation.verify",
    "robust_accuracy": "evaluation.accuracy",
    "assert_robust": "workflows.gating",
    "audit": "evaluation.audit",
    "Plan": "evaluation.audit",
    "Summary": "evaluation.audit.records",
    "diagnose": "workflows.diagnosing",
    "multi_label": "core.model.two_class",
    "two_class": "core.model.two_class",
    "train": "workflows.training",
    "attack_explanation": "attacks",
    "cascade": "attacks.ensembles.cascade",
    "autoattack": "attacks.ensembles.autoattack",
    "envelope": "attacks.ensembles.envelope",
    "Effort": "attacks.ensembles.cascade",
    "QUICK": "attacks.ensembles.cascade",
    "NORMAL": "attacks.ensembles.cascade",
    "THOROUGH": "attacks.ensembles.cascade",
}
_PACKAGES = (
    "attacks",
    "certification",
    "compat",
    "core",
    "counterfactuals",
    "data",
    "distances",
    "drawing",
    "evaluation",
    "explanations",
    "features",
    "models",
    "purification",
    "report",
    "runs",
    "statistics",
    "studies",
    "testing",
    "training",
    "workflows",
)


__getattr__ = importer(__name__, _NAMES, _PACKAGES)


def __dir__() -> list[str]:
    return sorted(["__version__", *_NAMES, *_PACKAGES])


if TYPE_CHECKING:
    from unfooled import attacks as attacks
    from unfooled import certification as certification
    from unfooled import compat as compat
    from unfooled import core as core
    from unfooled import counterfactuals as counterfactuals
    from unfooled import data as data
    from unfooled import distances as distances
    from unfooled import drawing as drawing
    from unfooled import evaluation as evaluation
    from unfooled import explanations as explanations
    from unfooled import features as features
    from unfooled import models as models
    from unfooled import purification as purification
    from unfooled import report as report
    from unfooled import runs as runs
    from unfooled import statistics as statistics
    from unfooled import studies as studies
    from unfooled import testing as testing
    from unfooled import training as training
    from unfooled import workflows as workflows
    from unfooled.attacks import attack_explanation as attack_explanation
    from unfooled.attacks.ensembles.autoattack import autoattack as autoattack
    from unfooled.attacks.ensembles.cascade import NORMAL as NORMAL
    from unfooled.attacks.ensembles.cascade import QUICK as QUICK
    from unfooled.attacks.ensembles.cascade import THOROUGH as THOROUGH
    from unfooled.attacks.ensembles.cascade import Effort as Effort
    from unfooled.attacks.ensembles.cascade import cascade as cascade
    from unfooled.attacks.ensembles.envelope import envelope as envelope
    from unfooled.core.ascent import ascend as ascend
    from unfooled.core.errors import BadInput as BadInput
    from unfooled.core.goals import least_likely as least_likely
    from unfooled.core.goals import predicted as predicted
    from unfooled.core.limits import Limits as Limits
    from unfooled.core.memory import memory_limit as memory_limit
    from unfooled.core.model.binding import bind as bind
    from unfooled.core.model.classifier import Classifier as Classifier
    from unfooled.core.model.faster import faster as faster
    from unfooled.core.model.modes import frozen as frozen
    from unfooled.core.model.two_class import multi_label as multi_label
    from unfooled.core.model.two_class import two_class as two_class
    from unfooled.core.model.wrappers import counted as counted
    from unfooled.core.threats import L0 as L0
    from unfooled.core.threats import L1 as L1
    from unfooled.core.threats import L2 as L2
    from unfooled.core.threats import Box as Box
    from unfooled.core.threats import Linf as Linf
    from unfooled.core.threats import Threat as Threat
    from unfooled.data.formats.feature_sets import load_features as load_features
    from unfooled.data.load import load_data as load_data
    from unfooled.data.made.shapes import load_shapes as load_shapes
    from unfooled.drawing.panels import show as show
    from unfooled.evaluation.audit import Plan as Plan
    from unfooled.evaluation.audit import audit as audit
    from unfooled.evaluation.audit.records import Summary as Summary
    from unfooled.evaluation.verify import Verdict as Verdict
    from unfooled.evaluation.verify import verify as verify
    from unfooled.models.black_boxes import BlackBox as BlackBox
    from unfooled.models.load import load_model as load_model
    from unfooled.workflows.diagnosing import diagnose as diagnose
    from unfooled.workflows.gating import assert_robust as assert_robust
    from unfooled.workflows.training import train as train
