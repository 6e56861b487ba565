"""Fields that are stored under another name: records of earlier versions are read, and new ones are written alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unfooled.evaluation.explanations.locality import Survival
from unfooled.runs.records import Environment, Record, read_record, write_record
from unfooled.studies.attention.records import Crossed, Judged
from unfooled.studies.broken_defences.judging import Judgement
from unfooled.workflows.map_attack import MapAttackRecord
from unfooled.workflows.scoring import LensRecord

PLACE: dict[str, Any] = {"data": "shapes", "arm": "plain", "seed": 0}
SURVIVAL = Survival(n=1, shape=(2, 2), undefined=0, blocks=[], ranks=[]).model_dump(mode="json")
RENAMED: list[tuple[type[Record], dict[str, Any], str, str, Any]] = [
    (Judgement, {"seed": 0, "number": 1, "name": "a", "kind": "broken", "n": 4, "eps": 0.1},
     "sentences", "said", ["The model hides its gradients."]),
    (Judged, PLACE | {"eps": 0.1, "n": 2, "columns": {}, "seconds": 1.0}, "correct", "kept", {"clean": "10"}),
    (Crossed, PLACE, "correct", "kept", "10"),
    (MapAttackRecord, {"threat": "linf:0.1", "objective": "region", "steps": 1, "restarts": 1, "k": 1, "w": 1,
                       "random_points": 1, "seed": 0, "counts": {}, "scores": {}, "aim": {}, "samples": []},
     "decides", "kept", "lens"),
    (LensRecord, {"clean": "a", "perturbed": "b", "reduce": None, "seconds": 1.0, "command": "", "created": "",
                  "environment": Environment.here("cpu").model_dump()}, "scores", "found", SURVIVAL),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fields", "name", "stored", "value"), RENAMED, ids=[row[0].__name__ for row in RENAMED]
)
def test_the_stored_name_stays(
    tmp_path: Path, kind: type[Record], fields: dict[str, Any], name: str, stored: str, value: Any
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(fields | {stored: value}))
    old = read_record(path, kind)
    new = kind.model_validate(fields | {name: value})
    assert old == new
    assert getattr(new, name) == (Survival.model_validate(value) if kind is LensRecord else value)
    write_record(path, new)
    for written in (json.loads(path.read_text()), new.model_dump(mode="json")):
        assert written[stored] == value
        assert name not in written
