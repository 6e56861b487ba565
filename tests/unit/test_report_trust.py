"""The page shows whether its figure can be believed: verdict, checks, accuracy against passes, nearest examples."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.report_runs import BECAUSE, FIRED, Page, estimate, fabricate, judged, nearness, stages, summary

from unfooled.drawing.plots import Dot, Label, Size, extent, log_ticks, place_labels, share_ticks
from unfooled.evaluation.audit.nearest_points import nearness as measured
from unfooled.evaluation.audit.records import Nearness
from unfooled.evaluation.checks.table import Finding
from unfooled.report import render, words
from unfooled.report.runs import Run, read_run, read_runs
from unfooled.report.sections.compare import compare
from unfooled.report.sections.effort import drawn_steps, effort_plot, flatness_sentence, steps
from unfooled.report.sections.nearness import class_medians, distance_groups, median_estimate, survival_curve
from unfooled.report.trust import TITLES, reason
from unfooled.runs.progress import Progress
from unfooled.statistics.intervals import median_limits

VERDICTS = ("SOUND", "EXTENDED", "OVERSTATED", "NOT EVALUABLE")


def page(tmp_path: Path, **changes: Any) -> Page:
    fabricate(tmp_path / "run", **({"examples": 0} | changes))
    return Page(render([tmp_path / "run"], tmp_path / "page.html"))


def run(place: int = 0, **changes: Any) -> Run:
    return Run(place, f"run {place}", "run", summary(**({"examples": 0} | changes)), {})


def section(found: Page, name: str) -> str:
    return found.source.split(f'<section id="{name}"')[1].split("</section>")[0]


def read(markup: str) -> str:
    return re.sub(r"[ \n]+", " ", re.sub(r"<[^>]+>", " ", markup))


# The verdict and its figure


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdict_is_in_words_beside_the_figure(tmp_path: Path, verdict: str) -> None:
    found = page(tmp_path, **judged(verdict, held=632))
    shown = section(found, "verdict")
    trusted = verdict in ("SOUND", "EXTENDED")
    mark = shown.split('<p class="measured">' if trusted else '<div class="stamp ')[1].split(
        "</p>" if trusted else '<div class="hero">'
    )[0]
    assert verdict in mark
    if FIRED[verdict]:
        assert BECAUSE[verdict] in " ".join(found.text.split())
        assert f"{len(FIRED[verdict])} of 24 checks found something" in mark
    else:
        assert "none of 24 checks objects to it" in mark
    # A word on the measurement follows the figure that it is about; a warning that there is no figure precedes it.
    assert (shown.index(mark) > shown.index('class="number"')) == trusted


@pytest.mark.parametrize("verdict", ["SOUND", "EXTENDED"])
def test_a_trusted_verdict_does_not_look_like_a_mark_for_the_model(tmp_path: Path, verdict: str) -> None:
    for held, share in ((12, "1.2"), (601, "60.1")):
        shown = section(page(tmp_path, **judged(verdict, held=held)), "verdict")
        assert 'class="stamp' not in shown
        assert "<svg" not in shown
        assert f'<div class="number" style="--share:{share}%">' in shown
        assert shown.index('class="headline"') < shown.index('class="number"') < shown.index('class="tiles"')


def test_the_answer_comes_before_the_setup(tmp_path: Path) -> None:
    source = page(tmp_path, examples=3, **judged("SOUND", held=632)).source
    order = [
        "<h1>",
        'class="headline"',
        "63.2\u202f%",
        "data-answer",
        'class="measured"',
        "<nav",
        'id="setup"',
    ]
    places = [source.index(one) for one in order]
    assert places == sorted(places)


def test_an_overstated_figure_does_not_look_like_a_result(tmp_path: Path) -> None:
    shown = section(page(tmp_path, **judged("OVERSTATED", held=632)), "verdict")
    figure = shown.split('<div class="number"')[1].split('<div class="words">')[0]
    text = read(figure)
    assert "at most 63.2\u202f% , probably less" in text
    assert "not a result" in text
    assert "As 8-bit images: at most 63.5\u202f%" in text
    assert 'class="big share"' not in figure
    assert "upper bound" not in text
    assert "fools at least 362 of those" in shown
    assert "is not this model\u2019s robust accuracy" in shown
    assert "632</b> not fooled by this attack" in shown


def test_a_figure_that_nobody_can_believe_is_struck(tmp_path: Path) -> None:
    shown = section(page(tmp_path, **judged("NOT EVALUABLE", held=632)), "verdict")
    assert re.findall(r"<s>(.*?)</s>", shown) == ["63.2\u202f%", "63.5\u202f%", "36.4\u202f%"]
    for struck in ("63.2\u202f%", "63.5\u202f%", "36.4\u202f%"):
        assert shown.count(struck) == 1
    assert "No figure can be believed" in read(shown.split('<div class="number"')[1])
    assert "There is no robust accuracy to report." in shown
    assert 'class="split"' not in shown
    low, high = words.estimate_interval(estimate(632, 1000)).split(" to ")
    assert low not in shown
    assert high not in shown


@pytest.mark.parametrize("verdict", ["SOUND", "EXTENDED"])
def test_a_trusted_figure_is_shown_with_its_interval(tmp_path: Path, verdict: str) -> None:
    text = read(section(page(tmp_path, **judged(verdict)), "verdict"))
    assert "Robust accuracy upper bound 60.1\u202f% [57.0 to 63.2\u202f%], n = 1,000" in text
    assert "As 8-bit images: 60.4\u202f% [57.3 to 63.5\u202f%], n = 1,000" in text
    for word in ("not a result", "struck", "probably less", "believed"):
        assert word not in text


def test_runs_without_checks_are_shown_as_before(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert [a["id"] for a in found.all("section")] == [
        "verdict", "curve", "confusion", "movement", "gallery", "limits", "words", "setup", "environment",
    ]  # fmt: skip
    assert 'class="stamp' not in found.source
    assert "8-bit" not in found.text
    assert "checks" not in found.text.lower()
    assert "Robust accuracy upper bound 91.8\u202f%" in read(section(found, "verdict"))


def test_a_verdict_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="the verdict is 'FINE'; there are SOUND"):
        summary(**judged("SOUND") | {"verdict": "FINE"})


# Checks


def test_checks_that_fired_come_first_and_the_others_are_folded(tmp_path: Path) -> None:
    shown = section(page(tmp_path, **judged("OVERSTATED")), "checks")
    open_, folded = shown.split("<details>")
    ids = r'<span class="id">(D\d+)</span>'
    assert re.findall(ids, open_) == ["D6", "D14", "D18"]
    assert re.findall(ids, folded) == [f"D{k}" for k in range(1, 25) if k not in (6, 14, 18)]
    for d, detail in FIRED["OVERSTATED"].items():
        assert detail in open_.replace("&#39;", "'")
        assert f"what is done about {d}" in open_
        assert TITLES[d] in open_
    assert "0.31, limit 0.05" in open_
    assert "21 checks without an objection" in folded
    assert "17.3 forward and 4.60 backward passes per sample (n = 1,000)" in folded


def test_checks_that_all_kept_quiet(tmp_path: Path) -> None:
    quiet = [
        Finding(id="D2", fired=False, detail="nothing", action=""),
        Finding(id="D99", fired=False, detail="new", action=""),
    ]
    shown = section(page(tmp_path, **judged("SOUND", diagnostics=quiet)), "checks")
    assert "None of 2 checks objects to this figure." in shown
    assert "D99" in shown


def test_passes_of_attack_and_checks_are_apart(tmp_path: Path) -> None:
    text = page(tmp_path, **judged("SOUND")).text
    assert "Passes for the attack 193 forward, 79.4 backward per sample" in text
    assert "Passes for the checks 17.3 forward, 4.60 backward per sample" in text


@pytest.mark.parametrize(
    ("value", "threshold", "text"),
    [
        (None, 1.0, ""),
        (0.0312, 0.002, "0.0312, limit 0.002"),
        (-1e-7, None, "\u22121e\u221207"),
        (3.0, 4.0, "3, limit 4"),
    ],
)
def test_limit(value: float | None, threshold: float | None, text: str) -> None:
    assert words.threshold_text(value, threshold) == text


# Accuracy against passes


def test_progress_is_drawn_where_its_numbers_are() -> None:
    one = run(**judged("SOUND"))
    plot = effort_plot([one], Size("wide", 720, 340, 7))
    assert plot is not None
    (trace,), (level,) = plot.traces, plot.levels
    drawn = drawn_steps(steps(one.summary))
    assert [step.name for step in drawn][:3] == ["APGD", "APGD", "single classes"]  # clean would hide the flat end
    assert len(trace.dots) == len(drawn) == 9
    share = [step.accuracy.value or 0.0 for step in drawn]
    slope = (trace.dots[1].y - trace.dots[0].y) / (share[0] - share[1])  # pixels a share
    for dot, value in zip(trace.dots, share, strict=True):
        assert dot.y == pytest.approx(trace.dots[0].y + slope * (share[0] - value), abs=0.11)
    assert level.y == pytest.approx(trace.dots[-1].y, abs=0.11)
    e = one.summary.robust_accuracy
    assert level.low - level.high == pytest.approx(slope * (e.high - e.low), abs=0.2)
    assert all(plot.axes.top <= v <= plot.axes.bottom for v in (level.high, level.low, *(dot.y for dot in trace.dots)))
    assert slope * 0.01 > 15  # a point of accuracy can be seen
    xs = [dot.x for dot in trace.dots]
    assert xs == sorted(xs)
    assert plot.axes.left <= xs[0]
    assert xs[-1] <= plot.axes.right
    assert level.label.text == f"final: 60.1\u202f% [{words.estimate_interval(e)}]"
    assert trace.dots[0].tip.startswith("1 APGD: 65.3\u202f% [")
    assert trace.dots[0].tip.endswith("left after 42.0 passes, 341 of 994 fooled")
    assert "log scale" in plot.axes.x.name
    assert {"1 APGD", "2 APGD"} <= {label.text for label in plot.labels}


def test_a_line_for_each_run(tmp_path: Path) -> None:
    for name, verdict in zip("abc", ("SOUND", "OVERSTATED", "NOT EVALUABLE"), strict=True):
        fabricate(tmp_path / name, examples=0, title=name, **judged(verdict))
    found = Page(render([tmp_path / name for name in "abc"], tmp_path / "page.html"))
    shown = section(found, "passes")
    wide = shown.split('<svg class="chart wide"')[1].split("</svg>")[0]
    assert wide.count("<polyline") == 3
    assert [t for t in re.findall(r"<text[^>]*>([^<]*)</text>", wide) if ":" in t] == [
        "A: 60.1\u202f%", "B: at most 60.1\u202f%",
    ]  # fmt: skip
    assert wide.count("<rect x=") == 2  # the intervals of A and B; C has none
    assert wide.count('class="dot"') == 27
    assert "B, 1 APGD: " in wide
    assert shown.count("callout") == 2


def test_levels_that_are_close_do_not_cover_each_other() -> None:
    plot = effort_plot([run(k, **judged("SOUND")) for k in (0, 1)], Size("wide", 720, 340, 7))
    assert plot is not None
    a, b = (extent(level.label) for level in plot.levels)
    assert b[2] <= a[0]
    assert not plot.labels


def test_flatness() -> None:
    fields = judged("SOUND")
    assert (
        flatness_sentence(summary(**fields), "image")
        == "The last 139 of 272 passes per sample fooled 8 more of 1,000 images."
    )
    flat = fields | {"progress": stages([0.601] * 9, 1000)}
    assert flatness_sentence(summary(**flat), "image").endswith("fooled none more of 1,000 images.")
    late = fields | {"robust_accuracy": estimate(598, 1000)}
    assert flatness_sentence(summary(**late), "image").endswith("Nearest points and checks then fooled 3 more.")
    single = fields | {"progress": stages([0.601], 1000)}
    assert "A single stage left 60.1" in flatness_sentence(summary(**single), "image")
    assert flatness_sentence(summary(), "image") == ""


def test_passes_never_fall_and_accuracy_never_rises() -> None:
    odd = [
        Progress(stage="clean", forward=1, backward=0, accuracy=0.9, taken=0, closed=0),
        Progress(stage="apgd-ce", forward=100, backward=99, accuracy=0.5, taken=0, closed=0),
        Progress(stage="adopt", forward=2, backward=0, accuracy=0.6, taken=500, closed=0),
    ]
    found = steps(summary(progress=odd))
    assert [(s.passes, s.accuracy.value) for s in found] == [(1, 0.9), (199, 0.5), (199, 0.5)]
    assert [s.n_attacked for s in found] == [None, None, 500]
    late = Progress(stage="460-D14-square", forward=300, backward=0, accuracy=0.4, taken=9, closed=0)
    assert steps(summary(progress=[late]))[0].name == "Square, D14"


def test_too_few_stages_are_a_table(tmp_path: Path) -> None:
    first = stages([0.6], 1000)[:1]
    shown = section(page(tmp_path, **judged("SOUND", progress=first)), "passes")
    assert "There are too few stages to draw a line." in shown
    assert "0 clean" in shown
    assert "<svg" not in shown
    assert effort_plot([run(progress=stages([0.6], 1000))], Size("wide", 500, 300, 5)) is not None  # with clean


@pytest.mark.parametrize("held", [0, 1000])
def test_figures_at_either_end_stay_inside(held: int) -> None:
    left = [held / 1000] * 9
    fields = judged(
        "SOUND",
        progress=stages(left, 1000, clean=1.0),
        robust_accuracy=estimate(held, 1000),
        clean_accuracy=estimate(1000, 1000),
    )
    plot = effort_plot([run(**fields)], Size("wide", 720, 340, 7))
    assert plot is not None
    assert all(plot.axes.top <= level.high <= level.y <= level.low <= plot.axes.bottom for level in plot.levels)
    assert all(0 <= float(text) <= 100 for _, text in plot.axes.y_ticks)
    assert len(plot.axes.y_ticks) > 1


def test_ticks() -> None:
    assert [text for _, text in share_ticks(0.561, 0.668, 7)] == ["58", "60", "62", "64", "66"]
    assert [text for _, text in share_ticks(-0.004, 0.011, 6)] == ["0.0", "0.5", "1.0"]
    assert [text for _, text in log_ticks(35, 1200)] == ["50", "100", "200", "500", "1,000"]


def test_labels_keep_clear_of_each_other_and_of_the_frame() -> None:
    dots = [(Dot(60.0 + 30 * k, 100.0, ""), f"{k} stage") for k in range(6)]
    taken = [Label(200, 110, "final", "end")]
    found = place_labels(dots, taken, (50, 20, 240, 200))
    boxes = [extent(label) for label in (*taken, *found)]
    assert 2 <= len(found) < 6
    for i, a in enumerate(boxes):
        assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[:i])
    assert all(a[0] >= 50 and a[2] <= 240 for a in boxes[1:])


# Nearest examples


def record(distances: list[float], n: int, points: int = 64) -> Nearness:
    """As the audit writes it, from sorted distances that were found; the rest of n was not."""
    d = torch.tensor(sorted(distances), dtype=torch.float64)
    levels = d[torch.linspace(0, len(d) - 1, min(points, len(d))).round().long()]
    at = [float(d[k]) if (k := -(-q * n // 4) - 1) < len(d) else None for q in (1, 2, 3)]
    curve = [(float(v), 1 - float((d <= v).double().sum()) / n) for v in levels]
    return Nearness(
        norm="linf", n=n, reached=estimate(len(d), n), quartiles=(at[0], at[1], at[2]), classes=[], curve=curve
    )


def test_median_interval_covers_and_is_the_order_statistics_where_the_curve_is_whole() -> None:
    found = median_estimate(record([float(k) for k in range(1, 61)], 60))
    assert (found.value, found.low, found.high, found.n) == (30, 22, 39, 60)  # ranks of the sign test, n = 60
    covered, g = 0, torch.Generator().manual_seed(0)
    for _ in range(300):
        one = median_estimate(record(torch.rand(200, generator=g).tolist(), 200))
        assert one.low is not None
        assert one.high is not None
        covered += one.low <= 0.5 <= one.high
    assert covered / 300 > 0.93


@pytest.mark.parametrize("n", [4, 39])
def test_median_of_labels_where_answers_are_lost_nearer(n: int) -> None:
    distance = torch.arange(1.0, n + 1) / n
    lost = torch.where(torch.arange(n) % 2 == 0, distance / 4, torch.inf)
    found = median_estimate(measured(torch.inf, distance, lost, torch.zeros(n, dtype=torch.long), 1))
    low, value, high = median_limits(distance)
    assert found.value == value
    assert found.low == max(low, 0)
    assert found.high == (high if high < torch.inf else None)
    older = measured(torch.inf, distance, lost, torch.zeros(n, dtype=torch.long), 1).model_copy(
        update={"interval": None}
    )
    assert median_estimate(older).value == value  # of a record without the interval: a page, not an error
    far = distance.masked_fill(torch.arange(n) > 0, torch.inf)
    assert median_estimate(measured(torch.inf, far, lost, torch.zeros(n, dtype=torch.long), 1)).value is None


def test_median_that_was_not_reached() -> None:
    found = median_estimate(record([float(k) for k in range(1, 31)], 100))
    assert found.value is None
    assert found.high is None
    assert found.low == 30  # at least the farthest that was found
    assert median_estimate(record([1.0, 2.0], 2)).high is None  # too few to say anything
    assert (
        median_estimate(Nearness(norm="l2", n=0, reached=estimate(0, 0), quartiles=(None,) * 3, classes=[], curve=[])).n
        == 0
    )


def test_nearest_curve_is_drawn_where_its_numbers_are() -> None:
    one = run(threat="linf:0.3", nearest=[nearness("l2", 6.0), nearness("linf", 0.9)])
    first, second = distance_groups([one], [Size("wide", 430, 270, 5)])
    assert [first.name, second.name] == ["Linf", "L2"]  # the audited norm first
    ((_, plot),) = first.figures
    (mark,) = plot.axes.marks
    q = one.summary.nearest[1].quartiles
    assert [dot.y for dot in plot.traces[0].dots] == pytest.approx(
        [plot.axes.bottom - s * (plot.axes.bottom - plot.axes.top) for s in (0.75, 0.5, 0.25)], abs=0.06
    )
    per = (mark.x - plot.axes.left) / 0.3
    assert [dot.x for dot in plot.traces[0].dots] == pytest.approx(
        [plot.axes.left + per * (d or 0) for d in q], abs=0.2
    )
    assert mark.text == "audited \u03b5: 0.3"
    assert not second.figures[0][1].axes.marks
    curve = survival_curve(one.summary.nearest[1])
    assert curve[0] == pytest.approx((0.0, 0.98))
    points = [tuple(map(float, pair.split(","))) for pair in plot.traces[0].line.split()]
    assert points[0] == pytest.approx(
        (plot.axes.left, plot.axes.bottom - 0.98 * (plot.axes.bottom - plot.axes.top)), abs=0.06
    )
    assert all(plot.axes.left <= x <= plot.axes.right and plot.axes.top <= y <= plot.axes.bottom for x, y in points)


def test_nearest_examples_on_the_page(tmp_path: Path) -> None:
    found = page(tmp_path, **judged("SOUND"))
    shown = section(found, "nearest")
    text = read(shown)
    assert (
        "Linf largest change of a value 0.246 0.464 [0.403 to 0.529] 0.682 100.0\u202f% [99.5 to 100.0\u202f%], n = 200"
        in text
    )
    assert "L2 Euclidean length of the change 1.64 3.09 [2.66 to 3.56] not reached 70.0\u202f%" in text
    assert shown.count('<svg class="chart wide"') == 2
    order = re.findall(r'<th scope="row">(class \d+)</th>', shown)
    medians = {f"class {k}": v for k, v in enumerate(summary(**judged("SOUND")).nearest[0].classes) if v is not None}
    assert order == sorted(medians, key=lambda name: medians[name])  # the nearest first, class 4 has none
    assert "1 class has no sample among them, or no median." in text
    widths = [float(v) for v in re.findall(r'class="bar-far s0" style="width:([\d.]+)%', shown)]
    assert widths == sorted(widths)
    assert widths[-1] == 100


def test_bars_of_classes_share_a_scale_and_have_their_run_s_colour(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", **judged("SOUND", nearest=[nearness("linf", 0.1)]))
    fabricate(tmp_path / "b", **judged("SOUND", nearest=[nearness("linf", 0.2)]))
    source = render([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html").read_text()
    near, far = (
        max(float(v) for v in re.findall(rf'class="bar-far s{place}" style="width:([\d.]+)%', source))
        for place in (0, 1)
    )
    assert far == 100
    assert near == pytest.approx(50, abs=0.1)


def test_many_classes_are_cut_and_radii_in_255ths_stay_so() -> None:
    one = run(threat="linf:8/255", classes=60, nearest=[nearness("linf", 30 / 255, classes=60)])
    found = class_medians(one)
    assert found is not None
    assert (len(found.rows), found.total, found.missing) == (20, 59, 1)
    assert found.rows[0][1] == ["9.00/255"]
    (group,) = distance_groups([one], [Size("wide", 430, 270, 5)])
    assert group.rows[0].texts[1].endswith("/255")
    assert group.figures[0][1].axes.x_ticks[1][1].endswith("/255")
    assert class_medians(run(nearest=[nearness("l2", 1.0).model_copy(update={"classes": []})])) is None


def test_nothing_was_found(tmp_path: Path) -> None:
    nothing = Nearness(norm="l0", n=20, reached=estimate(0, 20), quartiles=(None,) * 3, classes=[None] * 10, curve=[])
    text = read(section(page(tmp_path, nearest=[nothing]), "nearest"))
    assert "not reached not reached [0 or more] not reached 0.0\u202f%" in text
    assert "No curve, since nothing was found." in text
    assert "By class" not in text


def test_outliers_do_not_squeeze_the_curve() -> None:
    far = record([0.01 * k for k in range(1, 100)] + [50.0], 100)
    (group,) = distance_groups([run(nearest=[far])], [Size("wide", 430, 270, 5)])
    assert group.figures[0][1].traces[0].dots[1].x > 130


def test_counts_are_whole_and_their_quartiles_stand_on_the_steps() -> None:
    counts = record([1.0] * 10 + [2.0] * 30 + [3.0] * 40 + [4.0] * 20, 100).model_copy(update={"norm": "l0"})
    (group,) = distance_groups([run(nearest=[counts])], [Size("wide", 430, 270, 5)])
    assert group.rows[0].texts == ("2", "3", "3")
    (trace,) = group.figures[0][1].traces
    corners = [tuple(map(float, pair.split(","))) for pair in trace.line.split()]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))
    for dot in trace.dots:
        assert any(a[0] == b[0] == dot.x and a[1] <= dot.y <= b[1] for a, b in pairwise(corners))


# Several runs


def test_no_difference_is_claimed_where_a_run_is_not_believed(tmp_path: Path) -> None:
    for name, verdict in (("a", "SOUND"), ("b", "OVERSTATED"), ("c", "NOT EVALUABLE")):
        fabricate(tmp_path / name, examples=0, title=name, **judged(verdict, held=800 if name == "b" else 601))
    lines = {line.name: line for line in compare(read_runs([tmp_path / name for name in "abc"]))}
    assert lines["Verdict"].values == ["SOUND", "OVERSTATED", "NOT EVALUABLE"]
    for name in ("Robust accuracy (upper bound)", "Robust accuracy, 8-bit images", "Nearest example, median, Linf"):
        said = [change.text for change in lines[name].changes if change is not None]
        assert said == ["no claim, B is OVERSTATED", "no claim, C is NOT EVALUABLE"]
        assert not any(change.clear for change in lines[name].changes if change is not None)
    assert lines["Robust accuracy (upper bound)"].values == [
        "60.1\u202f%", "at most 80.0\u202f%, doubtful", "none (60.1\u202f% struck out)",
    ]  # fmt: skip
    assert lines["Attack success rate"].values[1].startswith("at least ")
    turned = {line.name: line for line in compare(read_runs([tmp_path / name for name in "ba"]))}
    (change,) = turned["Robust accuracy (upper bound)"].changes
    assert change is not None
    assert change.text == "no claim, A is OVERSTATED"
    shown = page_of(tmp_path, "ab")
    assert "B is OVERSTATED" in read(section(shown, "verdict"))
    assert "no claim, B is OVERSTATED" in read(section(shown, "comparison"))


def page_of(tmp_path: Path, names: str) -> Page:
    return Page(render([tmp_path / name for name in names], tmp_path / "page.html"))


def test_runs_with_and_without_checks(tmp_path: Path) -> None:
    fabricate(tmp_path / "a", examples=0, title="old")
    fabricate(tmp_path / "b", examples=0, title="new", **judged("EXTENDED"))
    assert read_run(tmp_path / "a").summary.verdict == ""
    found = page_of(tmp_path, "ab")
    lines = {line.name: line for line in compare(read_runs([tmp_path / "a", tmp_path / "b"]))}
    assert lines["Verdict"].values == ["\u2212", "EXTENDED"]
    assert lines["Robust accuracy, 8-bit images"].values == ["\u2212", "60.4\u202f%"]
    assert lines["Robust accuracy, 8-bit images"].changes == [None]
    assert "No checks were made." in section(found, "checks")
    assert lines["Nearest example, median, L2"].values == ["\u2212", "3.09"]


def test_text_of_checks_stays_text(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"\' onload="x'
    findings = [
        Finding(id=evil, fired=fired, detail=evil, action=evil, value=1.0, threshold=0.1) for fired in (True, False)
    ]
    odd = nearness("l2", 1.0).model_copy(update={"norm": evil})
    step = Progress(stage=evil, forward=9, backward=9, accuracy=0.7, taken=9, closed=1)
    fields = judged("OVERSTATED", because=evil, effort=evil, diagnostics=findings, nearest=[odd])
    found = page(tmp_path, **fields | {"progress": [*stages([0.8], 1000), step]})
    assert [s.get("id") for s in found.all("script")] == ["records", None]
    assert all(not name.startswith("on") for _, attrs in found.elements for name in attrs)
    assert found.text.count("alert(1)") > 12


@pytest.mark.parametrize(
    ("because", "shown"),
    [
        ("Nothing is believed: D22, for 2 of 9 samples a; D2, b.", "Nothing is believed: for 2 of 9 samples a; b."),
        ("D12: five more restarts fooled 1 of 11; it went on.", "Five more restarts fooled 1 of 11; it went on."),
        (
            "The model hides its gradients (D6, D7) and is not robust.",
            "The model hides its gradients and is not robust.",
        ),
        ("gradients cannot be used (D6: zero, D7: noisy); so", "Gradients cannot be used (zero, noisy); so"),
        ("No check speaks against the figure.", "No check speaks against the figure."),
        ("", ""),
    ],
)
def test_a_reason_is_read_without_the_numbers_of_checks(because: str, shown: str) -> None:
    assert reason(run(because=because).summary) == shown
