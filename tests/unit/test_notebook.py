"""Results in a notebook: a short line, a small table that is safe, and plots into given axes."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from tests.unit.report_runs import judged, summary

from unfooled.core.errors import BadInput
from unfooled.runs.records import Environment
from unfooled.studies.common.records import Claim, StudySummary

EVIL = "<script>alert(1)</script>\x1b[2J"


def test_an_audit_is_one_line_and_a_small_table() -> None:
    s = summary(examples=0, **judged("OVERSTATED", held=632))
    line = repr(s)
    assert line == str(s)
    assert "\n" not in line
    assert len(line) < 300
    assert "robust accuracy 63.2 % [60.1, 66.3], n = 1,000" in line
    assert "OVERSTATED, cannot be trusted" in line
    page = s._repr_html_()
    assert len(page) < 2000
    assert "63.2 % [60.1, 66.3], n = 1,000" in page
    assert "OVERSTATED, cannot be trusted." in page


def test_text_of_others_stays_text() -> None:
    s = summary(examples=0, model=EVIL, data=EVIL, attack=EVIL)
    page = s._repr_html_()
    assert "<script" not in page
    assert "\x1b" not in page
    assert "http" not in page


def test_the_curve_is_drawn_into_given_axes() -> None:
    s = summary(examples=0, threat="linf:0.3")
    axes = Figure().subplots()
    assert s.plot(axes) is axes
    line = axes.lines[0]
    assert list(line.get_xdata()) == [p.eps for p in s.curve if p.accuracy.value is not None]
    assert list(line.get_ydata()) == [p.accuracy.value for p in s.curve if p.accuracy.value is not None]
    assert axes.lines[1].get_xdata()[0] == 0.3
    with pytest.raises(BadInput, match="measured no curve"):
        summary(examples=0, curve=[]).plot()


def test_a_study_shows_its_claims() -> None:
    claims = [
        Claim(claim=EVIL, source="s", verdict=v, value=0.5, low=0.25, high=0.75, n=9)
        for v in ("holds", "fails", "undecided", "undecided")
    ]
    study = StudySummary(
        study="made-up", title=EVIL, scale="small", seeds=[0], seconds=1.0, environment=Environment.here("cpu"),
        tables={}, claims=claims, notes=[], command="", created="",
    )  # fmt: skip
    assert repr(study) == "<Study made-up, small, seeds [0]: 4 claims, 1 holds, 1 fails, 2 undecided>"
    page = study._repr_html_()
    assert page.count("<tr>") == 5
    assert "[0.25, 0.75]" in page
    assert "<script" not in page
