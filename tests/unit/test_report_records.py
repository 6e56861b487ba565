"""Records of earlier versions still become pages."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape
from PIL import Image
from safetensors.torch import save_file
from tests.unit.report_runs import Page, fabricate, judged, reasons

from unfooled.evaluation.audit.records import Summary
from unfooled.report import render
from unfooled.report.study_page import render_study

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
RECORDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
AUDITS = sorted(name for name, record in RECORDS.items() if "robust_accuracy" in record)
STUDIES = sorted(name for name, record in RECORDS.items() if "claims" in record)
LATER = (  # fields of a summary that its first version did not have
    "robust_accuracy_8bit", "verdict", "trusted", "because", "diagnostics", "diagnostic_passes", "nearest_passes",
    "effort", "progress", "nearest", "confusion_entries", "reasons", "attention",
)  # fmt: skip


def pictures(folder: Path, name: str, rows: int) -> None:
    if rows:
        g = torch.Generator().manual_seed(rows)
        tensors = {key: torch.rand(rows, 1, 12, 12, generator=g) for key in ("x", "x_adv", "before", "after")}
        save_file(tensors, str(folder / f"{name}.safetensors"))


def picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("L", (2, 2), colour).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize("name", AUDITS)
def test_recorded_audits_are_shown(tmp_path: Path, name: str) -> None:
    record = RECORDS[name]
    (tmp_path / "run").mkdir()
    shutil.copy(RESULTS / f"{name}.json", tmp_path / "run" / "summary.json")
    pictures(tmp_path / "run", "gallery", len(record["gallery"]))
    for part in ("reasons", "attention"):
        pictures(tmp_path / "run", part, len((record.get(part) or {}).get("gallery", [])))
    found = Page(render([tmp_path / "run"], tmp_path / "page.html"))
    assert found.records() == [Summary.model_validate(record)]
    assert f"{100 * record['robust_accuracy']['value']:.1f}\u202f%" in found.text
    assert record["command"] in found.inside["code"][0]


@pytest.mark.parametrize("name", STUDIES)
def test_recorded_studies_are_shown(tmp_path: Path, name: str) -> None:
    record = RECORDS[name]
    drawn = [picture("black"), picture("white")]  # the records are stored without their pictures
    shown = [{"title": f"Picture {k}", "caption": "", "png": png} for k, png in enumerate(drawn)]
    (tmp_path / "summary.json").write_text(json.dumps(record | {"pictures": record["pictures"] + shown}))
    found = Page(render_study(tmp_path))
    assert [image["src"].split(",")[1] for image in found.all("img")][len(record["pictures"]) :] == drawn
    assert len(found.all("img")) == len(record["pictures"]) + len(drawn)
    rows = found.source.split('<section id="claims"')[1].split("</section>")[0]
    for claim in record["claims"]:
        assert str(escape(" ".join(claim["claim"].split()))) in " ".join(rows.split())


def test_a_summary_of_the_first_version_is_shown_beside_a_new_one(tmp_path: Path) -> None:
    fabricate(tmp_path / "old", title="old")
    path = tmp_path / "old" / "summary.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in record.items() if key not in LATER}))
    fabricate(tmp_path / "new", title="new", reasons=reasons(), **judged("SOUND"))
    found = Page(render([tmp_path / "old", tmp_path / "new"], tmp_path / "page.html"))
    assert [s.verdict for s in found.records()] == ["", "SOUND"]
    assert "No checks were made." in found.text


def test_there_are_records() -> None:
    assert len(AUDITS) >= 5
    assert len(STUDIES) >= 7
