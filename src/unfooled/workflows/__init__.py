"""Workflows: one function per command; names and files, or objects, in, and records out.

    audit, train, attack, explain, lens, features, study, report, demo, doctor    the commands
    evidence                                                                      `unfooled evidence`
    audit_rows, attack_rows, features_rows, merge                                 the same with --rows, and `merge`
    counterfactual                                                                `unfooled counterfactual`
    certify                                                                       `unfooled certify`
    lime_image, lime_text, lime_table, lime_pick                                  those of `unfooled lime`
    purify_fit, purify_apply                                                      those of `unfooled purify`
    diagnose                                                                      the checks of an audit alone
    assert_robust, gate, enforce, read_baseline, write_baseline                   what an audit must pass
    make_loss, bind_attack, within_threat                                         losses and attacks by name

Related options are grouped in small frozen values: `Inputs` (a model and data), `Machine` (where it runs),
`AuditOptions`, `LossOptions`, `Network`, `Recipe`, `MapAttack`, `FeatureOptions`, `PurifierOptions`,
`OwnNetwork`. An option is called in
Python what it is called on the command line, with `_` for `-`. The names are those of `catalog`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unfooled.core.lazy import importer

_NAMES = {
    "AppliedRecord": "purify",
    "AttackOptions": "sharing",
    "AttackRecord": "attacking",
    "AttributeFiles": "attribute_images",
    "AuditOptions": "auditing",
    "BadOption": "errors",
    "BelowBound": "errors",
    "BoundAttack": "attacks",
    "CertifyRecord": "certifying",
    "CounterfactualRecord": "counterfactuals",
    "Diagnosis": "diagnosing",
    "Doctor": "examining",
    "EvidenceRecord": "evidencing",
    "ExplanationRecord": "explaining",
    "FeatureOptions": "rebuilding",
    "Gate": "gating",
    "Inputs": "inputs",
    "LensRecord": "scoring",
    "LimeOptions": "lime_options",
    "LimeRecord": "lime_records",
    "Limits": "inputs",
    "LossOptions": "losses",
    "Machine": "machine",
    "MapAttack": "map_attack",
    "Network": "recipe",
    "OwnNetwork": "reproducing",
    "PurifierOptions": "purify",
    "PurifierRecord": "purify",
    "Recipe": "recipe",
    "TableOptions": "lime_options",
    "TextOptions": "lime_options",
    "TrainingRecord": "training",
    "assert_robust": "gating",
    "attack": "attacking",
    "attack_rows": "sharing",
    "audit": "auditing",
    "audit_rows": "sharing",
    "bind_attack": "attacks",
    "certify": "certifying",
    "check_bounds": "bounds",
    "counterfactual": "counterfactuals",
    "demo": "demonstrating",
    "diagnose": "diagnosing",
    "doctor": "examining",
    "enforce": "gating",
    "evidence": "evidencing",
    "explain": "explaining",
    "features": "rebuilding",
    "features_rows": "sharing",
    "gate": "gating",
    "lens": "scoring",
    "lime_image": "lime",
    "lime_pick": "lime",
    "lime_table": "lime",
    "lime_text": "lime",
    "make_loss": "losses",
    "merge": "sharing",
    "open_out": "places",
    "open_out_file": "places",
    "open_set": "rebuilding",
    "purify_apply": "purify",
    "purify_fit": "purify",
    "read_baseline": "baselines",
    "read_bound": "bounds",
    "report": "reporting",
    "study": "reproducing",
    "train": "training",
    "within_threat": "attacks",
    "write_baseline": "baselines",
}

__all__ = [
    "AppliedRecord",
    "AttackOptions",
    "AttackRecord",
    "AttributeFiles",
    "AuditOptions",
    "BadOption",
    "BelowBound",
    "BoundAttack",
    "CertifyRecord",
    "CounterfactualRecord",
    "Diagnosis",
    "Doctor",
    "EvidenceRecord",
    "ExplanationRecord",
    "FeatureOptions",
    "Gate",
    "Inputs",
    "LensRecord",
    "LimeOptions",
    "LimeRecord",
    "Limits",
    "LossOptions",
    "Machine",
    "MapAttack",
    "Network",
    "OwnNetwork",
    "PurifierOptions",
    "PurifierRecord",
    "Recipe",
    "TableOptions",
    "TextOptions",
    "TrainingRecord",
    "assert_robust",
    "attack",
    "attack_rows",
    "audit",
    "audit_rows",
    "bind_attack",
    "catalog",
    "certify",
    "check_bounds",
    "counterfactual",
    "demo",
    "diagnose",
    "doctor",
    "enforce",
    "evidence",
    "explain",
    "features",
    "features_rows",
    "gate",
    "lens",
    "lime_image",
    "lime_pick",
    "lime_table",
    "lime_text",
    "make_loss",
    "merge",
    "purify_apply",
    "purify_fit",
    "read_baseline",
    "read_bound",
    "report",
    "study",
    "train",
    "within_threat",
    "write_baseline",
]


__getattr__ = importer(__name__, _NAMES, ("catalog",))  # the command line reads the catalog without torch


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from unfooled.core.limits import Limits
    from unfooled.workflows import catalog
    from unfooled.workflows.attacking import AttackRecord, attack
    from unfooled.workflows.attacks import BoundAttack, bind_attack, within_threat
    from unfooled.workflows.attribute_images import AttributeFiles
    from unfooled.workflows.auditing import AuditOptions, audit
    from unfooled.workflows.baselines import read_baseline, write_baseline
    from unfooled.workflows.bounds import check_bounds, read_bound
    from unfooled.workflows.certifying import CertifyRecord, certify
    from unfooled.workflows.counterfactuals import CounterfactualRecord, counterfactual
    from unfooled.workflows.demonstrating import demo
    from unfooled.workflows.diagnosing import Diagnosis, diagnose
    from unfooled.workflows.errors import BadOption, BelowBound
    from unfooled.workflows.evidencing import EvidenceRecord, evidence
    from unfooled.workflows.examining import Doctor, doctor
    from unfooled.workflows.explaining import ExplanationRecord, explain
    from unfooled.workflows.gating import Gate, assert_robust, enforce, gate
    from unfooled.workflows.inputs import Inputs
    from unfooled.workflows.lime import lime_image, lime_pick, lime_table, lime_text
    from unfooled.workflows.lime_options import LimeOptions, TableOptions, TextOptions
    from unfooled.workflows.lime_records import LimeRecord
    from unfooled.workflows.losses import LossOptions, make_loss
    from unfooled.workflows.machine import Machine
    from unfooled.workflows.map_attack import MapAttack
    from unfooled.workflows.purify import AppliedRecord, PurifierOptions, PurifierRecord, purify_apply, purify_fit
    from unfooled.workflows.rebuilding import FeatureOptions, features
    from unfooled.workflows.recipe import Network, Recipe
    from unfooled.workflows.reporting import report
    from unfooled.workflows.reproducing import OwnNetwork, study
    from unfooled.workflows.scoring import LensRecord, lens
    from unfooled.workflows.sharing import AttackOptions, attack_rows, audit_rows, features_rows, merge
    from unfooled.workflows.training import TrainingRecord, train
