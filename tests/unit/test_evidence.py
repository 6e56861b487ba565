"""Evidence from a run: every figure with its interval and n, nothing that cannot be believed, and the gaps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.conftest import points, tiny_net

import unfooled as uf
from unfooled.cli.app import run
from unfooled.core.errors import BadInput
from unfooled.evaluation.audit.records import Summary
from unfooled.report.evidence import KINDS, UNTOUCHED
from unfooled.workflows import evidence

PLAN = uf.Plan(
    effort=uf.QUICK, nearest_budget=100, nearest_n=4, explain_n=1, gallery=1, floor=2000, reasons_n=2, reasons_steps=2
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evidence") / "run"
    model, x = tiny_net(2, (1, 4, 4)), points(24, (1, 4, 4), seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    uf.audit(
        model, x, y, uf.Linf(0.03), plan=PLAN, out=out, about={"title": "a `net` | <b>", "command": "unfooled audit"}
    )
    return out


def summary_of(folder: Path) -> Summary:
    return Summary.model_validate_json((folder / "summary.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_has_its_interval_and_n(folder: Path, kind: str) -> None:
    s = summary_of(folder)
    assert s.trusted
    text = evidence(folder, kind).text
    sentences = [line for line in text.splitlines() if "%" in line and not line.startswith("- Intervals are")]
    measured = [line for line in sentences if " is " in line or " for " in line]
    assert len(measured) >= 4
    for line in sentences:
        if not re.match(r"- D\d+:", line):  # what a check saw
            assert re.search(r"95 % interval [-\d.]+ to [-\d.]+(?: %)?, n = \d+", line), line
    robust = s.robust_accuracy
    assert robust.value is not None
    assert f"Robust accuracy is at most {100 * robust.value:.1f} % (95 % interval {100 * robust.low:.1f}" in text
    assert all(gap in text for gap in UNTOUCHED)
    assert "the Euclidean length" in text and "seed 0" in text
    assert "To be filled in by the author" in text
    assert "# Model card: a 'net' / &lt;b>" in text or kind == "annex-iv"


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_that_cannot_be_believed_is_not_stated(folder: Path, kind: str) -> None:
    s = summary_of(folder).model_copy(
        update={"verdict": "OVERSTATED", "trusted": False, "because": "Attacks find more.", "access": "scores"}
    )
    text = evidence(s, kind).text
    assert "Robust accuracy is not stated, since the verdict on the attack is OVERSTATED" in text
    assert "Robust accuracy is at most" not in text
    assert "Attacks find more." in text
    assert "Attacks that use the model's gradients: they were not to be had." in text


def test_what_was_left_out_is_named(folder: Path) -> None:
    s = summary_of(folder).model_copy(update={"left_out": ["the nearest points"], "reasons": None, "nearest": []})
    text = evidence(s).text
    gaps = text[text.index("## Not tested") : text.index("## Ethical")]
    assert "For want of time: the nearest points." in gaps
    assert "Explanations under attack." in gaps
    assert "the number of changed values" in gaps


def test_command_writes_a_file_and_refuses_other_formats(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evidence", str(folder), "--format", "annex-iv", "--out", str(tmp_path / "card.md")]) == 0
    assert "Annex IV of Regulation (EU) 2024/1689" in (tmp_path / "card.md").read_text()
    assert run(["evidence", str(folder)]) == 0
    assert "# Model card" in capsys.readouterr().out
    assert run(["evidence", str(folder), "--format", "iso"]) == 2
    assert "there is no format 'iso'" in capsys.readouterr().err
    with pytest.raises(BadInput, match="is not a run folder"):
        evidence(tmp_path / "none")
