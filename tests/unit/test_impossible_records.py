"""Every limit of the records that a report reads is tried: a figure outside of it is refused."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from tests.unit.report_runs import estimate, judged, summary

from unfooled import BadInput, Linf, audit
from unfooled.evaluation.audit import guard_fields, records
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.explanations.records import (
    Attention,
    AttentionExample,
    Movement,
    ReasonExample,
    ReasonPoint,
    Reasons,
)
from unfooled.runs.progress import Progress
from unfooled.runs.records import Passes, read_record
from unfooled.statistics.intervals import Estimate, Mean
from unfooled.studies.common.records import Claim, StudySummary

INF = math.inf
COUNT: list[Any] = [-1]
SIZE: list[Any] = [-0.01, INF]
PART: list[Any] = [-0.01, 1.01]
LONG: list[Any] = [[{}] * 10_001]

LIMITS: dict[type[BaseModel], dict[str, list[Any]]] = {
    Estimate: {"value": PART, "low": PART, "high": PART, "n": COUNT},
    Mean: {"n": COUNT},
    Passes: {"forward": [-1.0], "backward": [-1.0]},
    Progress: {"forward": SIZE, "backward": SIZE, "accuracy": PART, "taken": COUNT, "closed": COUNT},
    records.CurvePoint: {"eps": SIZE, "no_answer": PART},
    records.Example: {
        "index": COUNT, "label": COUNT, "clean": COUNT, "adversarial": COUNT, "clean_confidence": PART,
        "adversarial_confidence": PART, "distance": SIZE,
    },
    records.Nearness: {
        "n": COUNT, "quartiles": [[-0.1, 0.2, 0.3], [0.1, 0.2, INF]], "classes": [[-0.1], [INF]],
        "interval": [[-0.1, 0.2], [INF, None], [0.1, INF]],
        "curve": [[[-0.1, 0.5]], [[0.1, 1.5]], [[0.1, -0.5]], [[0.1, 0.5]] * 10_001],
    },
    guard_fields.Submissions: {"count": [0]},
    guard_fields.Roc: {
        "auroc": PART, "detected": PART, "curve": [[[-0.1, 0.5]], [[0.5, 1.5]], [[0.5, 0.5]] * 101],
    },
    guard_fields.Detector: {"n": [0]},
    guard_fields.Choice: {"n": [0]},
    guard_fields.Guard: {
        "rows": [[{}] * 101], "missing": [["bpda"] * 101], "left": SIZE, "left_n": COUNT, "detectors": [[{}] * 11],
        "examples": [[{}] * 101], "clusters": [[{}] * 100_001],
    },
    guard_fields.PurifiedExample: dict.fromkeys(
        ["index", "label", "prediction", "cluster", "attacked_cluster", "cluster_label"], COUNT
    ),
    guard_fields.ClassClusters: {"label": COUNT, "clusters": [0]},
    records.Efficiency: {"calls": COUNT, "rows": SIZE, "share": SIZE, "checks": SIZE, "workers": COUNT, "busy": SIZE},
    records.Smoothed: {
        "size": SIZE, "first": COUNT, "draws": COUNT, "failure": PART, "ceiling": SIZE, "abstained": PART,
        "curve": [[{}] * 10_001],
    },
    Movement: {"undefined": COUNT},
    ReasonPoint: {
        "eps": SIZE, "share": SIZE, "attacked": COUNT, "failed": COUNT, "undefined": COUNT, "skipped": COUNT,
        "random_points": COUNT,
    },
    ReasonExample: {"index": COUNT, "label": COUNT},
    Reasons: {
        **dict.fromkeys(["n", "k", "w", "pixels", "steps", "restarts", "random_points", "unsearched"], COUNT),
        "curve": [[{}] * 1001],
    },
    AttentionExample: {"index": COUNT, "label": COUNT},
    Attention: {
        "n": COUNT, "cells": [[-1, 4], [4, -1]], "undefined": COUNT, "unreached": COUNT,
        "points": [[[0.1, 0.1, True]] * 10_001],
    },
    Summary: {
        "n": COUNT, "open": PART, "seconds": SIZE, "budget": SIZE, "curve_n": COUNT, "proofs_tried": COUNT,
        "confusion": [[[-1]]],
        "confusion_entries": [[[-1, 0, 1]], [[0, -1, 1]], [[0, 1, -1]]], "nearest": [[{}] * 101],
        "left_out": [["x"] * 10_001], "warnings": [["x"] * 10_001],
        **dict.fromkeys(["progress", "curve", "movements", "gallery", "nearest_gallery"], LONG),
    },
    Claim: {"n": COUNT},
    records.ClassEnds: {"label": COUNT, "n": COUNT, "unbroken": COUNT, "certified": COUNT},
    StudySummary: {"seconds": SIZE, "cpu_seconds": SIZE, "load": [[-1.0], [INF]]},
}  # fmt: skip

FREE = {  # numbers of which any value is possible
    "Mean.value", "Mean.low", "Mean.high", "Example.psnr", "Example.similarity", "Detector.threshold", "Detector.kappa",
    "ReasonExample.lens", "ReasonExample.lens_raw", "ReasonExample.chance", "ReasonExample.top_k",
    "ReasonExample.output_change", "ReasonExample.moved_at", "Reasons.threshold", "AttentionExample.complete",
    "AttentionExample.js", "AttentionExample.start", "AttentionExample.end", "Summary.schema_version", "Summary.seed",
    "Finding.value", "Finding.threshold", "Claim.value", "Claim.low", "Claim.high", "StudySummary.schema_version",
    "StudySummary.seeds", "StudySummary.tables", "Environment.threads", "Picture.width", "Picture.height",
}  # fmt: skip


def cases() -> Iterator[Any]:
    for kind, fields in LIMITS.items():
        for field, values in fields.items():
            for k, value in enumerate(values):
                yield pytest.param(kind, field, value, id=f"{kind.__name__}.{field}-{k}")


@pytest.mark.parametrize(("kind", "field", "value"), list(cases()))
def test_a_figure_beyond_its_limit_is_refused(kind: type[BaseModel], field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({field: value})
    found = {error["type"] for error in refused.value.errors() if error["loc"][0] == field}
    assert found & {"greater_than_equal", "less_than_equal", "finite_number", "too_long"}


def numbers(annotation: Any) -> bool:
    """Whether a type has numbers outside of records of its own."""
    if annotation in (int, float):
        return True
    return any(numbers(part) for part in typing.get_args(annotation))


def kinds(kind: type[BaseModel], seen: dict[str, type[BaseModel]]) -> dict[str, type[BaseModel]]:
    """All records in a record."""

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation.__name__ not in seen:
            kinds(annotation, seen)
        for part in typing.get_args(annotation):
            visit(part)

    seen[kind.__name__] = kind
    for field in kind.model_fields.values():
        visit(field.annotation)
    return seen


def test_every_number_has_a_limit_that_is_tried() -> None:
    found = kinds(StudySummary, kinds(Summary, {}))
    known = {f"{kind.__name__}.{field}" for kind, fields in LIMITS.items() for field in fields}
    every = {
        f"{kind.__name__}.{name}" for kind in found.values() for name, field in kind.model_fields.items()
        if numbers(field.annotation)
    }  # fmt: skip
    assert every <= known | FREE, sorted(every - known - FREE)


def share(value: float | None, low: float, high: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another verdict": ({"verdict": "PERFECT"}, "the verdict is 'PERFECT'; there are SOUND"),
    "SOUND and not trusted": ({"verdict": "SOUND", "trusted": False}, "trusted False"),
    "clean of more samples": ({"clean_accuracy": share(0.9, 0.1, 1.0, 2000)}, "of 2000 samples"),
    "robust of more samples": ({"robust_accuracy": share(0.5, 0.1, 1.0, 2000)}, "of 2000 samples"),
    "robust above clean": ({"robust_accuracy": share(0.999, 0.1, 1.0, 1000)}, "above clean"),
    "certified above robust": ({"certified_accuracy": share(0.9, 0.1, 1.0, 1000)}, "above robust"),
    "no figure of samples": ({"robust_accuracy": share(None, 0.0, 1.0, 10)}, "None of 10 samples"),
    "a figure of no samples": ({"robust_accuracy": share(0.5, 0.0, 1.0, 0)}, "of 0 samples"),
    "ends exchanged": ({"robust_accuracy": share(0.5, 0.6, 0.4, 10)}, "goes from 0.6 to 0.4"),
    "below its interval": ({"robust_accuracy": share(0.1, 0.2, 0.4, 10)}, "outside"),
    "above its interval": ({"robust_accuracy": share(0.5, 0.2, 0.4, 10)}, "outside"),
    "mean of no samples": ({"psnr": share(19.0, 18.0, 20.0, 0)}, "of 0 samples"),
    "mean outside": ({"psnr": share(29.0, 18.0, 20.0, 10)}, "outside"),
    "mean with ends exchanged": ({"psnr": share(19.0, 20.0, 18.0, 10)}, "goes from 20 to 18"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_figures_that_contradict_each_other_are_refused(tmp_path: Path, name: str) -> None:
    changes, says = CONTRADICTIONS[name]
    record = json.loads(summary(**judged("SOUND")).model_dump_json())
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(record))
    read_record(path, Summary)
    path.write_text(json.dumps(record | changes))
    with pytest.raises(BadInput, match=says):
        read_record(path, Summary)


def test_a_claim_with_exchanged_ends_is_refused() -> None:
    claim = {"claim": "c", "source": "s", "verdict": "holds", "value": 1.0, "low": 0.5, "high": 1.5, "n": 3}
    Claim.model_validate(claim)
    with pytest.raises(ValidationError, match=r"goes from 1\.5 to 0\.5"):
        Claim.model_validate(claim | {"low": 1.5, "high": 0.5})


def stated(verdict: str, kinds: dict[str, str] | None = None, **changes: Any) -> Summary:
    """A record with a verdict and with these checks fired, of the kind of the table or another."""
    names = changes.pop("names", None)
    fields = judged(verdict) | changes
    if kinds is not None:
        fields["diagnostics"] = [
            Finding.model_validate(
                {"id": check, "fired": True, "detail": "", "action": "", **({"kind": kind} if kind else {})}
            )
            for check, kind in kinds.items()
        ]
    made = summary(**fields)
    return made if names is None else Summary.model_validate(made.model_dump() | {"classes": names})


@pytest.mark.parametrize(
    ("verdict", "kinds", "changes", "words"),
    [
        ("SOUND", {}, {"threat": "linf:-3"}, "the threat is 'linf:-3'; a radius is a number"),
        ("SOUND", {}, {"threat": "l2:much"}, "a radius is a number"),
        ("SOUND", {}, {"threat": "l0-pixel:nan"}, "a radius is a number"),
        ("SOUND", {}, {"classes_": ["a"] * 10}, "10 or more of 10 classes share a name, such as 'a'"),
        ("SOUND", {}, {"classes_": [*"abcdefghi", "b"]}, "2 or more of 10 classes share a name, such as 'b'"),
        ("SOUND", {"D2": ""}, {}, "although D2 fired, after which no figure counts"),
        ("EXTENDED", {"D26": ""}, {}, "although D26 fired, after which no figure counts"),
        ("SOUND", {"D4": "stop"}, {}, "although D4 fired"),
        ("SOUND", {"D12": ""}, {}, "the verdict is SOUND, although D12 fired"),
        ("SOUND", {"D6": ""}, {"held": 10}, "the verdict is SOUND, although D6 fired"),
        ("SOUND", {"D8": "absent"}, {}, "the verdict is SOUND, although D8 fired"),
        ("EXTENDED", {}, {"right": 0, "held": 0}, "the verdict is EXTENDED, although no clean sample is right"),
    ],
)
def test_a_record_whose_parts_contradict_each_other_is_refused(
    verdict: str, kinds: dict[str, str], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        stated(verdict, kinds, **altered(changes))


def altered(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes of a record's fields, written in short."""
    fields = dict(changes)
    found = {"clean_accuracy": fields.pop("right", 994), "robust_accuracy": fields.pop("held", 601)}
    names = fields.pop("classes_", None)
    made: dict[str, Any] = {key: estimate(count, 1000) for key, count in found.items()}
    return fields | made | {"robust_accuracy_8bit": None} | ({} if names is None else {"names": names})


@pytest.mark.parametrize(
    ("verdict", "kinds", "changes"),
    [
        ("SOUND", {"D19": "", "D12": "mend"}, {}),
        ("SOUND", {"D12": ""}, {"held": 10}),
        ("EXTENDED", {"D6": ""}, {"held": 10}),
        ("NOT EVALUABLE", {"D2": ""}, {"right": 0, "held": 0}),
        ("OVERSTATED", {"D12": ""}, {"threat": "mine:per-sample"}),
        ("SOUND", {}, {"threat": "linf:per-sample"}),
        ("SOUND", {}, {"right": 0, "held": 0, "labels_predicted": True}),
    ],
)
def test_records_of_possible_audits_are_read(verdict: str, kinds: dict[str, str], changes: dict[str, Any]) -> None:
    assert stated(verdict, kinds, **altered(changes)).verdict == verdict


def test_committed_records_are_read(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    for name in ("demo-standard.json", "demo-hardened.json"):
        assert read_record(folder / name, Summary).verdict == "SOUND"


def test_an_audit_refuses_equal_class_names_before_it_begins() -> None:
    x = torch.rand(4, 2)
    with pytest.raises(BadInput, match="2 or more of 2 classes share a name, such as 'a'; give each"):
        audit(lambda z: z, x, x.argmax(1), Linf(0.1), classes=["a", "a"])
