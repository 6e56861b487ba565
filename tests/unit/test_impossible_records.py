"""Every limit of the records that a report reads is tried: a figure outside of it is refused."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from tests.unit.report_runs import judged, summary

from unfooled import BadInput
from unfooled.attacks.ensembles.progress import Progress
from unfooled.evaluation.audit import records
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.explanations.records import (
    Attention,
    AttentionExample,
    Movement,
    ReasonExample,
    ReasonPoint,
    Reasons,
)
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
        "curve": [[[-0.1, 0.5]], [[0.1, 1.5]], [[0.1, -0.5]], [[0.1, 0.5]] * 10_001],
    },
    records.Submissions: {"count": [0]},
    records.Roc: {
        "auroc": PART, "detected": PART, "curve": [[[-0.1, 0.5]], [[0.5, 1.5]], [[0.5, 0.5]] * 101],
    },
    records.Detector: {"n": [0]},
    records.Choice: {"n": [0]},
    records.Guard: {
        "rows": [[{}] * 101], "missing": [["bpda"] * 101], "left": SIZE, "left_n": COUNT, "detectors": [[{}] * 11],
    },
    records.Efficiency: {"calls": COUNT, "rows": SIZE, "share": SIZE, "checks": SIZE},
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
        "n": COUNT, "open": PART, "seconds": SIZE, "budget": SIZE, "curve_n": COUNT, "confusion": [[[-1]]],
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
