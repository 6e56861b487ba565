"""The index of many runs: one table a question, trusted figures first, links to the runs' own pages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.report_runs import Page, estimate, fabricate, judged

from unfooled.core.errors import BadInput
from unfooled.evaluation.audit.records import CurvePoint
from unfooled.report import render
from unfooled.report.index_page import HEIGHT, MOST_BESIDE, WIDTH, boards, lead_sentence, small_curve
from unfooled.report.runs import read_summary
from unfooled.report.words import percent


def runs(folder: Path) -> list[Path]:
    """Nine runs: two threats, one not trusted, one struck out, one with a page of its own and a hostile name."""
    made = []
    for k in range(9):
        verdict = {3: judged("OVERSTATED", because="weak"), 4: judged("NOT EVALUABLE")}.get(k, judged("SOUND"))
        changes = {"threat": "l2:0.5" if k > 6 else "linf:0.3", "robust_accuracy": estimate(100 + 90 * k, 1000)}
        title = "<b>net & co</b>" if k == 1 else f"net {k}"
        fabricate(folder / f"run {k}", examples=0, title=title, model=f"nets/{k}.pt", **{**verdict, **changes})
        made.append(folder / f"run {k}")
    (made[1] / "report.html").write_text("its own page")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return runs(tmp_path_factory.mktemp("many"))


def test_figures_are_compared_where_the_question_is_the_same(made: list[Path], tmp_path: Path) -> None:
    found = boards([read_summary(folder) for folder in made], made, tmp_path / "index.html")
    assert [(board.threat, len(board.entries)) for board in found] == [("linf:0.3", 7), ("l2:0.5", 2)]
    first = [entry.folder for entry in found[0].entries]
    assert first == ["run 6", "run 5", "run 2", "run 1", "run 0", "run 4", "run 3"]  # the last two are doubted
    assert [entry.doubted for entry in found[0].entries] == [False] * 5 + [True] * 2
    ten, much, most = (percent(share, 1000) for share in (0.1, 0.73, 0.82))
    assert lead_sentence(found) == (
        "9 audits on 2 pairs of data and threat; 2 figures cannot be trusted. "
        f"Robust accuracy is at most {ten} (net 0) to {most} (net 8)."
    )
    assert lead_sentence(found[1:]) == (
        "2 audits on one data set and threat; all figures can be trusted. "
        f"Robust accuracy is at most {much} (net 7) to {most} (net 8)."
    )
    doubted = [replace(found[0], entries=found[0].entries[-2:])]
    assert lead_sentence(doubted) == "2 audits on one data set and threat; 2 figures cannot be trusted."


def test_the_page_links_to_pages_that_exist(made: list[Path], tmp_path: Path) -> None:
    out = render(made, made[0].parent / "index.html")
    page = Page(out)
    assert page.source.count('<table class="figures board">') == 2
    assert 'href="run%201/report.html"' in page.source
    assert page.source.count("/report.html") == 1
    assert "<b>net" not in page.source
    assert "&lt;b&gt;net &amp; co" in page.source
    records = json.loads(page.source.split('id="records">')[1].split("</script>")[0])
    assert len(records) == 9
    assert records[0]["robust_accuracy"]["value"] == pytest.approx(0.64)
    assert "<s>46.0" in page.source  # no figure can be believed


def test_few_runs_stand_beside_each_other(made: list[Path], tmp_path: Path) -> None:
    assert "audits compared" in render(made[:MOST_BESIDE], tmp_path / "a.html").read_text()
    assert 'class="figures board"' in render(made[: MOST_BESIDE + 1], tmp_path / "b.html").read_text()


def test_a_run_that_has_not_finished_is_named(made: list[Path], tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(BadInput, match=r"unfinished has no summary\.json: its audit has not finished"):
        render([*made, tmp_path / "unfinished"], tmp_path / "index.html")
    assert not (tmp_path / "index.html").exists()


def test_a_small_curve_spans_its_box() -> None:
    points = [CurvePoint(eps=eps, accuracy=estimate(k, 4)) for eps, k in ((0.0, 4), (0.1, 3), (0.2, 0))]
    assert small_curve(points) == f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT / 4:.1f} {WIDTH:.1f},{HEIGHT:.1f}"
    assert small_curve(points[:1]) == ""
