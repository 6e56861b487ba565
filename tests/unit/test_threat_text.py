"""Threats as text: what `str` writes is taken apart by one function, and nobody looks at pieces of the text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.unit.report_runs import fabricate, judged

from unfooled.core.threat_text import Norm, ThreatText, in_255ths, norm_name, parse_threat
from unfooled.core.threats import L0, L1, L2, Linf, Threat
from unfooled.report.runs import Run, read_run
from unfooled.report.sections.nearness import written_in_255ths
from unfooled.workflows.words import threat_of

THREATS: list[Threat] = [
    Linf(8 / 255), Linf(0.2), Linf(0.3), Linf(1 / 255), L2(0.5), L2(2), L1(12), L1(16 / 255), L0(10), L0(1),
]  # fmt: skip


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_a_written_threat_is_taken_apart_again(threat: Threat) -> None:
    parts = parse_threat(str(threat))
    assert Norm(parts.norm).name.lower() == type(threat).__name__.lower()
    assert parts.radius == threat.eps
    assert norm_name(threat.norm) == parts.norm
    assert parts.in_255ths is in_255ths(float(threat.eps)) is (threat.eps in (1 / 255, 8 / 255, 16 / 255))
    assert str(threat) == f"{parts.norm}:{parts.eps}" == str(threat_of(str(threat)))


def test_any_text_is_taken_apart() -> None:
    assert parse_threat("linf:8/255") == ThreatText("linf", "8/255", 8 / 255, in_255ths=True)
    assert parse_threat("linf:2/2550") == ThreatText("linf", "2/2550", 2 / 2550, in_255ths=False)
    assert parse_threat("l0-pixel:3") == ThreatText("l0-pixel", "3", 3.0, in_255ths=False)
    assert parse_threat("linf:1/0") == ThreatText("linf", "1/0", None, in_255ths=False)
    assert parse_threat(str(Linf(torch.tensor([0.1, 0.2])))) == ThreatText("linf", "per-sample", None, in_255ths=False)
    assert parse_threat("my threat") == ThreatText("my threat", "", None, in_255ths=False)
    assert parse_threat("linf:inf").radius == math.inf


@pytest.mark.parametrize(
    ("threat", "expected"), [("linf:8/255", True), ("linf:2/2550", False), ("linf:0.3", False), ("l2:8/255", False)]
)
def test_distances_are_written_as_the_radius(tmp_path: Path, threat: str, expected: bool) -> None:
    fabricate(tmp_path / "run", **judged("SOUND", threat=threat))
    run: Run = read_run(tmp_path / "run")
    assert written_in_255ths(run, Norm.LINF) is expected
    assert not written_in_255ths(run, Norm.L2)
