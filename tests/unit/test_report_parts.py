"""The parts of the page: words, comparison, confusion, curve, pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colormaps
from safetensors.torch import load_file
from tests.unit.report_runs import Page, estimate, fabricate, summary

from unfooled.drawing.pictures import (
    amplification,
    bar_strip,
    colours,
    difference,
    displayed,
    heat_map,
    photograph,
    scale_limit,
)
from unfooled.drawing.plates import draw_plates
from unfooled.drawing.plots import Size, radius_ticks
from unfooled.evaluation.audit.records import Summary
from unfooled.report import render, words
from unfooled.report.runs import read_run
from unfooled.report.sections.confusion import confusion
from unfooled.report.sections.curves import curve_plot
from unfooled.statistics.intervals import Mean


def page(tmp_path: Path, **changes: Any) -> Page:
    fabricate(tmp_path / "run", **changes)
    return Page(render([tmp_path / "run"], tmp_path / "page.html"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Summary, Path]:
    folder = tmp_path_factory.mktemp("one")
    found = fabricate(folder / "run")
    return Page(render([folder / "run"], folder / "page.html")), found, folder


# Words


@pytest.mark.parametrize(
    ("right", "held", "n", "threat", "noun", "opening", "may", "share"),
    [
        (994, 918, 1000, "linf:0.3", "image", "Of 1,000 images, 994 are",
         "change every pixel by up to 0.3 of its range", "76"),
        (9, 9, 10, "l2:0.5", "image", "Of 10 images, 9 are",
         "move an image by a Euclidean length of up to 0.5", "none"),
        (1, 0, 1, "l1:12", "sample", "Of 1 sample, 1 is", "change the values of a sample by up to 12 in total", "all"),
        (8, 1, 9, "l0:5", "sample", "Of 9 samples, 8 are", "replace up to 5 of the values of a sample", "7"),
        (8, 1, 9, "patch", "image", "Of 9 images, 8 are", "act within the threat patch", "7"),
    ],
)  # fmt: skip
def test_verdict(right: int, held: int, n: int, threat: str, noun: str, opening: str, may: str, share: str) -> None:
    s = summary(n=n, threat=threat, clean_accuracy=estimate(right, n), robust_accuracy=estimate(held, n))
    sentence, caveat = words.verdict_sentences(s, noun)
    assert sentence == f"{opening} classified correctly; an adversary who may {may} fools {share} of those."
    assert ("upper bound" in caveat) == (held > 0)


def test_verdict_where_there_was_nothing_to_attack() -> None:
    s = summary(n=9, clean_accuracy=estimate(0, 9), robust_accuracy=estimate(0, 9))
    assert words.verdict_sentences(s, "image") == (
        "None of 9 images is classified correctly, so there was nothing to attack.",
        "",
    )


def test_numbers() -> None:
    assert [words.number(v) for v in (None, float("nan"), float("inf"), 0, 12345.6, 79.94, -0.0421, 1e-9)] == [
        "not available", "not available", "infinite", "0", "12,346", "79.9", "\u22120.0421", "0.000000",
    ]  # fmt: skip
    assert words.number(-0.04, 1) == "0.0"
    assert words.signed(0.26, 1) == "+0.3"
    assert words.percent(0.91234, 100) == "91.2\u202f%"
    assert words.percent(0.91234, 10_000) == "91.23\u202f%"
    assert [words.duration_text(s) for s in (0.5, 59, 60, 3599.6, 7300)] == [
        "0.500 s", "59.0 s", "1 min 0 s", "1 h 0 min", "2 h 1 min",
    ]  # fmt: skip
    assert words.date_text("2026-05-03T16:22:05+02:00") == "2026-05-03 14:22 UTC"
    assert words.date_text("yesterday") == "yesterday"
    assert words.mean_interval(Mean(value=19.83, low=19.21, high=20.48, n=9)) == "19.2 to 20.5"


# Confusion


def test_few_classes_are_a_table(tmp_path: Path) -> None:
    found = page(tmp_path, classes=3, confusion=[[5, 0, 2], [1, 9, 0], [4, 0, 0]])
    table = found.source.split('<table class="heat')[1].split("</table>")[0]
    rows = re.findall(r"<tr><th.*?</tr>", table.split("<tbody>")[1])
    cells = [[int(v) for v in re.findall(r"<td[^>]*>(\d+)</td>", row)] for row in rows]
    assert cells == [[5, 0, 2, 7], [1, 9, 0, 10], [4, 0, 0, 4]]
    assert "class 2 is taken for class 0 : 4 of 21, 100.0\u202f% of its class" in found.text


def test_many_classes_are_pairs(tmp_path: Path) -> None:
    matrix = [[0] * 100 for _ in range(100)]
    matrix[3][5], matrix[7][1], matrix[7][7], matrix[98][99] = 6, 9, 27, 1
    found = confusion(summary(classes=100, confusion=matrix))
    assert found is not None
    assert not found.rows
    pairs = [(p.true, p.predicted, p.count, p.share) for p in found.pairs]
    assert pairs == [("class 7", "class 1", 9, 0.25), ("class 3", "class 5", 6, 1), ("class 98", "class 99", 1, 1)]
    shown = page(tmp_path, classes=100, confusion=[[1] * 100] * 100)
    assert 'class="heat' not in shown.source
    assert "The 20 most frequent of 9,900 kinds of confusion between 100 classes" in shown.text


@pytest.mark.parametrize("classes", [2, 20, 21])
def test_confusion_of_any_size(tmp_path: Path, classes: int) -> None:
    assert ('<table class="heat' in page(tmp_path, classes=classes, examples=0).source) == (classes <= 20)


# Curve


def test_curve_is_drawn_where_its_numbers_are(tmp_path: Path) -> None:
    fabricate(tmp_path / "run", threat="linf:4/255", eps=(0.0, 2 / 255, 8 / 255), examples=0)
    found = curve_plot([read_run(tmp_path / "run")], Size("wide", 500, 300, 5))
    assert found is not None
    (only,), axes = found.traces, found.axes
    span, height = axes.right - axes.left, axes.bottom - axes.top
    share = [point.accuracy.value or 0 for point in read_run(tmp_path / "run").summary.curve]
    assert [dot.x for dot in only.dots] == pytest.approx([axes.left + k * span for k in (0, 0.25, 1)], abs=0.06)
    assert [dot.y for dot in only.dots] == pytest.approx([axes.bottom - s * height for s in share], abs=0.06)
    (mark,) = axes.marks
    assert mark.text == "audited \u03b5: 4/255"
    assert mark.x == pytest.approx(axes.left + span / 2, abs=0.06)
    assert [text for _, text in axes.x_ticks] == ["0", "2/255", "4/255", "6/255", "8/255"]
    assert [dot.tip.rpartition(" = ")[2] for dot in only.dots] == ["0", "2/255", "8/255"]
    band = [tuple(map(float, pair.split(","))) for pair in only.band.split()]
    assert len(band) == 6
    assert all(axes.top <= y <= axes.bottom for _, y in band)
    assert band[0][1] <= only.dots[0].y <= band[-1][1]  # the upper end, then back along the lower


@pytest.mark.parametrize(
    ("largest", "of_255", "expected"),
    [
        (0.4, False, ["0.0", "0.1", "0.2", "0.3", "0.4"]),
        (3.0, False, ["0", "1", "2", "3"]),
        (3000.0, False, ["0", "1,000", "2,000", "3,000"]),
        (8 / 255, True, ["0", "2/255", "4/255", "6/255", "8/255"]),
        (1 / 255, True, ["0", "1/255"]),
    ],
)
def test_ticks(largest: float, of_255: bool, expected: list[str]) -> None:
    ticks = radius_ticks(largest, 4, in_255ths=of_255)
    assert [text for _, text in ticks] == ["0", *expected[1:]]
    assert all(0 <= eps <= largest * 1.000001 for eps, _ in ticks)


def test_curve_table_and_figure_agree(one: tuple[Page, Summary, Path]) -> None:
    for point in one[1].curve:
        assert f"{words.percent(point.accuracy.value, 200)}" in one[0].text
    assert "audited \u03b5: 0.3" in one[0].text
    assert one[0].inside["desc"][0].startswith("A fabricated audit: 99.0\u202f% at 0, ")


def test_flat_or_single_curves_are_not_drawn(tmp_path: Path) -> None:
    found = page(tmp_path, eps=(0.3,), examples=0)
    assert "There are too few points to draw a curve" in found.text
    assert "The curve as a table" in found.text


# Pictures


def test_pictures_are_the_tensors(one: tuple[Page, Summary, Path]) -> None:
    tensors = {k: v.numpy() for k, v in load_file(one[2] / "run" / "gallery.safetensors").items()}
    shown = [np.asarray(image) for image in one[0].pictures()]
    for row in (0, 11):
        x, x_adv = tensors["x"][row, 0], tensors["x_adv"][row, 0]
        assert (shown[5 * row] == np.round(x * 255)).all()
        assert (shown[5 * row + 1] == np.round(x_adv * 255)).all()
        assert np.abs(shown[5 * row + 2] / 255 - (0.5 + 10 * (x_adv - x))).max() < 0.01
    order = [int(k) for k in re.findall(r"<dt>Sample</dt><dd>(\d+)</dd>", one[0].source)]
    assert order == [e.index for e in one[1].gallery]  # worst first, as recorded
    assert [image["alt"] for image in one[0].images()][5].startswith("Input of sample 17: class 1, classified class 1")


def test_a_row_shares_one_colour_scale(one: tuple[Page, Summary, Path]) -> None:
    tensors = {k: v.numpy() for k, v in load_file(one[2] / "run" / "gallery.safetensors").items()}
    for row in (0, 7):
        before, after = tensors["before"][row, 0], tensors["after"][row, 0]
        top = np.percentile(np.abs(np.stack([before, after])), 99.5)
        expected = [np.round((np.clip(m / top, -1, 1) / 2 + 0.5) * 255) for m in (before, after)]
        shown = [np.asarray(image).astype(int) for image in one[0].pictures()[5 * row + 3 : 5 * row + 5]]
        assert all(np.abs(a - b).max() <= 1 for a, b in zip(shown, expected, strict=True))


def test_scales(tmp_path: Path) -> None:
    for name, scale in (("diverging", "RdBu_r"), ("sequential", "cividis")):
        drawn = (colormaps[scale](np.arange(256) / 255)[:, :3] * 255).round().astype(np.uint8)
        assert (colours(name) == drawn).all()
    assert (colours("diverging")[128] > 240).all()  # white: no relevance
    assert colours("diverging")[255][0] > colours("diverging")[255][2]  # red: for the class
    light = colours("sequential").astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > -1).all()
    assert "none" in page(tmp_path, signed=False).text
    assert "rgb(" in page(tmp_path, signed=False).source
    value = np.array([[0.0, 1.0], [2.0, 4.0]], np.float32)
    assert heat_map(value, 2.0, signed=False).pixels.tolist() == [[0, 128], [255, 255]]
    assert heat_map(-value, 2.0, signed=True).pixels.tolist() == [[128, 64], [0, 0]]
    assert scale_limit(np.zeros((4, 4))) == 1
    sparse = np.zeros(1000)
    sparse[0] = 3
    assert scale_limit(sparse) == 3


@pytest.mark.parametrize(
    ("size", "factor"), [(0.3, 1), (8 / 255, 10), (1 / 255, 100), (1e-9, 1000), (0.0, 1), (1.0, 1)]
)
def test_amplification(size: float, factor: int) -> None:
    x = np.full((4, 1, 8, 8), 0.5)
    assert amplification(x, x + size * np.sign(np.arange(64).reshape(8, 8) - 31.5)) == factor
    assert difference(x[0], x[0] + size, factor).pixels[0, 0] == round(255 * min(1, 0.5 + factor * size))


@pytest.mark.parametrize(
    ("shape", "images", "says"),
    [
        ((28, 28), 15, "not"),
        ((3, 20, 30), 15, "Explanations are summed over channels"),
        ((4, 20, 20), 15, "Inputs have 4 channels; their mean is drawn"),
        ((2, 20, 20), 15, "Inputs have 2 channels; their mean is drawn"),
        ((30,), 15, "Difference \u00d7 10"),
        ((1000,), 15, "Difference \u00d7 10"),
        ((2, 3, 8, 8), 0, "Samples of shape (2, 3, 8, 8) cannot be drawn"),
    ],
)
def test_any_shape(tmp_path: Path, shape: tuple[int, ...], images: int, says: str) -> None:
    found = page(tmp_path, shape=shape, examples=3)
    assert len(found.images()) == images
    assert says in found.text
    assert ("1,000 images" in found.text) == (len(shape) in (2, 3))
    assert found.source.count('<li class="example"') == 3
    sizes = {image.size for image in found.pictures()}
    assert sizes == {(shape[-1], shape[-2])} if len(shape) in (2, 3) else len(sizes) <= 1


def test_bars_stand_where_the_values_are() -> None:
    plate = bar_strip(np.array([0.5, -1.0, 0.0, 1.0]), 1.0, signed=True, coloured=True).pixels
    filled = (plate != 255).any(2)
    columns = filled[:, ::64][:, :4].copy()
    columns[len(columns) // 2] = False  # the axis
    height = len(columns)
    assert columns.sum(0) == pytest.approx([height / 4, height / 2, 0, height / 2], abs=2)
    assert not columns[height // 2 :, 0].any()
    assert not columns[: height // 2 - 1, 1].any()
    pooled = bar_strip(np.concatenate([np.zeros(999), [1.0]]), 1.0, signed=False, coloured=False).pixels
    assert (pooled[:, -3] != 255).any()


def test_odd_channels_are_averaged() -> None:
    assert photograph(np.stack([np.zeros((2, 3)), np.ones((2, 3))])).pixels.tolist() == [[128] * 3] * 2
    assert photograph(np.stack([np.zeros((2, 3))] * 2 + [np.ones((2, 3))])).pixels.tolist() == [[[0, 0, 255]] * 3] * 2


def test_a_constant_map_is_drawn_as_nothing() -> None:
    x = np.random.default_rng(0).random((1, 1, 4, 4)).astype(np.float32)
    level, spike = np.full((1, 1, 4, 4), 0.3, np.float32), np.zeros((1, 1, 4, 4), np.float32)
    spike[0, 0, 1, 2] = 1
    drawn = draw_plates({"x": x, "x_adv": x, "before": level, "after": spike}).rows[0]
    assert (drawn[3].pixels == 0).all()
    assert drawn[4].pixels[1, 2] == 255
    assert (draw_plates({"x": x, "x_adv": x, "before": level, "after": -level}).rows[0][4].pixels == 0).all()


def test_relevance_of_channels_is_summed() -> None:
    value = np.stack([np.full((2, 2), 1.0), np.full((2, 2), -3.0), np.full((2, 2), np.nan)])
    assert displayed(value).tolist() == [[-2, -2], [-2, -2]]
