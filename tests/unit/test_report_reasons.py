"""The page's section on attacked explanations: words, curves, worst cases, comparison; and pages that have none."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.unit.report_runs import Page, estimate, fabricate, reasons, summary

from unfooled.core.errors import BadInput
from unfooled.drawing.plots import Size
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.explanations.records import Reasons
from unfooled.report import render
from unfooled.report.page import MAX_CHARACTERS
from unfooled.report.runs import Run, read_run, read_runs
from unfooled.report.sections.compare import compare, different_settings
from unfooled.report.sections.reasons import (
    order_sentence,
    points_sentence,
    score_groups,
    unscored_sentence,
    weakness_sentence,
)
from unfooled.report.words import EPSILON


def test_reasons_in_words() -> None:
    run = Run(0, "a", "a", summary(reasons=reasons()), {})
    found = run.summary.reasons
    assert found is not None
    said = order_sentence(run, found)
    assert said.startswith("Of 31 samples, 38.7")
    assert "lost their reason" in said
    assert "lost neither" in said
    assert weakness_sentence(found) == ""
    assert "0.075, 0.15, 0.3 the best of 65 random points" in weakness_sentence(reasons(attack=0.4))
    assert "2 failed" in unscored_sentence(found)
    assert "1 undefined" in unscored_sentence(found)
    nobody = found.model_copy(update={"reason_first": estimate(0, 0)})
    assert "every map is constant or not finite" in order_sentence(run, nobody)


def test_where_the_scores_are_taken() -> None:
    small = reasons()
    assert points_sentence(small) == "Each score is taken at its own worst point"
    assert "Kendall, on maps this large, at that of LENS" in points_sentence(small.model_copy(update={"pixels": 4096}))


def test_reasons_are_drawn_from_1_to_below_chance() -> None:
    rows = [(Run(k, name, name, summary(reasons=reasons(attack=a)), {}), reasons(attack=a))
            for k, (name, a) in enumerate((("a", 0.9), ("b", 1.4)))]  # fmt: skip
    sizes = [Size("wide", 430, 270, 5)]
    (group,) = score_groups([run for run, _ in rows], sizes)
    lens, top = (panel.figures[0][1] for panel in group.panels)
    assert [(t.place, t.dash) for t in lens.traces] == [
        (0, ""), (0, "dashed"), (0, "dotted"), (1, ""), (1, "dashed"), (1, "dotted")
    ]  # fmt: skip
    assert all(t.line.startswith(f"{float(lens.axes.left)},{float(lens.axes.top)} ") for t in lens.traces)
    assert lens.traces[0].band
    assert not lens.traces[1].band
    worst = float(lens.traces[3].line.split(",")[-1])
    assert worst > lens.references[0].y  # below chance, which is 0 here
    assert worst <= lens.axes.bottom
    assert len(top.references) == 1
    assert [label.text for label in lens.axes.marks] == [f"audited {EPSILON}: 0.3"]
    assert score_groups([Run(0, "c", "c", summary(), {})], sizes) == []


def test_the_section_of_two_runs_and_of_one_that_was_left_out(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", title="a", reasons=reasons())
    fabricate(tmp_path / "b", title="b", seed=1, reasons=reasons(attack=0.4))
    skipped = Reasons(explanation="saliency", n=3, skipped="the model is <random>")
    fabricate(tmp_path / "c", title="c", seed=2, reasons=skipped)
    fabricate(tmp_path / "d", title="d", seed=3)  # made before explanations were attacked
    folders = [tmp_path / name for name in "abcd"]
    page = Page(render(folders, tmp_path / "page.html"))
    assert [s.reasons is None for s in page.records()] == [False, False, False, True]
    assert page.text.count("Did the reason move before the label?") == 2
    assert "Not attacked. Saliency: the model is <random>." in page.text.replace("</b>", "")
    assert "no proof that the reason is robust" in page.text
    charts = [e for e in page.all("svg") if e.get("aria-labelledby", "").startswith("reasons-")]
    assert len(charts) == 4  # two scores, wide and narrow
    alts = [image["alt"] for image in page.images() if "still classified" in image["alt"]]
    assert len(alts) == 6
    assert {image["src"][:22] for image in page.images()} == {"data:image/png;base64,"}
    old = Page(render([tmp_path / "d"], tmp_path / "old.html"))
    assert "Do the reasons survive?" not in old.text


def test_comparison(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", reasons=reasons())
    fabricate(tmp_path / "b", reasons=reasons(attack=0.4))
    fabricate(tmp_path / "c")
    runs = read_runs([tmp_path / name for name in "abc"])
    lines = {line.name: line for line in compare(runs)}
    lens = lines["Corrected LENS under attack, saliency"]
    assert lens.values == ["0.100", "0.600", "\u2212"]
    change = lens.changes[0]
    assert change is not None
    assert (change.text, change.clear) == ("+0.500", True)
    assert lines["Reason moved before the label, saliency"].values[0].startswith("38.7")
    assert different_settings(runs) == []
    fabricate(tmp_path / "d", reasons=reasons(steps=50))
    assert different_settings(read_runs([tmp_path / "a", tmp_path / "d"])) == ["attack on explanations"]


def test_pictures_are_checked_and_fit(tmp_path: Path) -> None:
    shape = (3, 224, 224)
    fabricate(tmp_path / "a", shape=shape, examples=12, reasons=reasons(cases=6))
    page = render([tmp_path / "a"], tmp_path / "page.html")
    assert page.stat().st_size < MAX_CHARACTERS + 200_000
    path = tmp_path / "a" / "reasons.safetensors"
    save_file({name: t[:2].contiguous() for name, t in load_file(path).items()}, str(path))
    with pytest.raises(BadInput, match="the summary lists 6 examples"):
        read_run(tmp_path / "a")


def test_old_summaries_still_load() -> None:
    text = summary(reasons=reasons()).model_dump(mode="json")
    assert Summary.model_validate(text).reasons == reasons()
    del text["reasons"]
    assert Summary.model_validate(text).reasons is None
