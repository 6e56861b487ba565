"""The page is a pure, safe and readable function of its run folders (all of them fabricated here)."""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.report_runs import NOTHING, Page, estimate, fabricate, judged, reasons

from unfooled.core.errors import BadInput
from unfooled.drawing.pictures import colours
from unfooled.drawing.theme import TOKENS
from unfooled.evaluation.audit.records import CurvePoint, Summary
from unfooled.report import render, words
from unfooled.report.__main__ import main
from unfooled.report.runs import letter_of, read_run, read_runs
from unfooled.report.sections.compare import compare, difference, different_settings
from unfooled.runs.records import Passes, write_record
from unfooled.statistics.intervals import Estimate

EVIL = '</title></script><script>alert(1)</script><img src=x onerror=alert(2)>"\' onload="alert(3)&amp;'


def page(tmp_path: Path, **changes: Any) -> Page:
    fabricate(tmp_path / "run", **changes)
    return Page(render([tmp_path / "run"], tmp_path / "page.html"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Summary, Path]:
    folder = tmp_path_factory.mktemp("one")
    found = fabricate(folder / "run", warnings=["A first warning.", "A second one."])
    return Page(render([folder / "run"], folder / "page.html")), found, folder


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, list[Summary], Path]:
    """Two runs with all that an audit can find."""
    folder = tmp_path_factory.mktemp("full")
    a = fabricate(folder / "a", model="first.pt", reasons=reasons(), **judged("SOUND"))
    b = fabricate(folder / "b", seed=1, model="second.pt", warnings=["One."], **judged("OVERSTATED"))
    return Page(render([folder / "a", folder / "b"], folder / "page.html")), [a, b], folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, list[Summary], Path]:
    folder = tmp_path_factory.mktemp("two")
    a = fabricate(folder / "a", model="first.pt")
    b = fabricate(folder / "b", seed=1, model="second.pt", robust_accuracy=estimate(455, 1000), seconds=7200.0)
    return Page(render([folder / "a", folder / "b"], folder / "page.html")), [a, b], folder


# The page as a whole


def test_records_come_back_equal(
    one: tuple[Page, Summary, Path], two: tuple[Page, list[Summary], Path], full: tuple[Page, list[Summary], Path]
) -> None:
    assert one[0].records() == [one[1]]
    assert two[0].records() == two[1]
    assert full[0].records() == full[1]


def test_same_folder_same_page(one: tuple[Page, Summary, Path], tmp_path: Path) -> None:
    again = render([one[2] / "run"], tmp_path / "made" / "again.html")
    assert again == tmp_path / "made" / "again.html"
    assert again.read_text(encoding="utf-8") == one[0].source


def test_what_was_found_is_written(one: tuple[Page, Summary, Path]) -> None:
    text = one[0].text
    for expected in (
        "Fooled on 76 of 994 images by changes of at most 0.3 a pixel.",
        "Of 1,000 images, 994 are classified correctly; an adversary who may change every pixel by up to 0.3 of its "
        "range fools 76 of those.",
        "91.8\u202f% is an upper bound",
        "99.4\u202f%",
        "7.6\u202f%",
        "n = 994",
        "41.2 forward, 38.7 backward",
        "19.8",
        "SSIM 0.820",
        "918 not fooled",
        "6 wrong before the attack",
        "A first warning. A second one.",
        "2 warnings bear on this verdict",
        "arXiv:2003.01690",
        "2026-05-03 14:22 UTC",
        "1 min 23 s",
        "amplified 10 times",
        'losses ["cross_entropy", "margin"]',
    ):
        assert expected in text, expected
    low, high = one[1].robust_accuracy.low * 100, one[1].robust_accuracy.high * 100
    assert f"[{low:.1f} to {high:.1f}\u202f%]" in text
    code = one[0].all("code")
    assert code[0]["id"] == "command-A"
    assert one[0].inside["code"][0] == one[1].command


def test_untrusted_text_stays_text(tmp_path: Path) -> None:
    found = page(
        tmp_path, classes=3, model=EVIL, title=EVIL, data=EVIL, attack=EVIL, command=EVIL, explanation=EVIL,
        threat=EVIL, created=EVIL, noise_unit=EVIL, warnings=[EVIL], limits=[EVIL], options={EVIL: EVIL},
    )  # fmt: skip
    record = found.records()[0].model_copy(update={"classes": [f"{EVIL}{k}" for k in range(3)]})
    write_record(tmp_path / "run" / "summary.json", record)
    found = Page(render([tmp_path / "run"], tmp_path / "page.html", title=EVIL))
    assert [s.get("id") for s in found.all("script")] == ["records", None]
    assert found.records() == [record]
    assert len(found.images()) == 5 * 12
    assert all(not name.startswith("on") for _, attrs in found.elements for name in attrs)
    assert found.text.count("alert(1)") > 20
    assert "<script>alert" not in found.source.replace('<script type="application/json" id="records">', "")
    embedded = found.source.split('id="records">')[1].split("</script>")[0]
    assert not set("<>&") & set(embedded)


def test_no_request_leaves_the_page(full: tuple[Page, list[Summary], Path]) -> None:
    found = full[0]
    for tag, attrs in found.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, name, attrs[name][:80])
        for value in attrs.values():
            assert not re.search(r"https?:|//", value) or value.startswith("data:image/"), (tag, value[:80])
    style = "".join(found.inside["style"]) + "".join(a.get("style", "") for _, a in found.elements)
    assert len(style) > 5000
    assert not re.search(r"url\(|@import|https?:|image-set|@font-face", style)
    script = found.inside["script"][-1]
    assert not re.search(r"fetch|XMLHttp|import|https?:|eval|innerHTML|localStorage", script)
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 128, 128), (3, 300, 200)])
def test_page_is_small(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = page(tmp_path, shape=shape, **judged("EXTENDED", classes=100))
    assert len(found.source.encode()) < 3_000_000
    assert len(found.images()) == 60
    pixelated = [image.get("class") == "pixelated" for image in found.images()]
    assert all(pixelated) if shape == (1, 28, 28) else not any(pixelated)
    reduced = "Pictures are reduced from 300" in found.text
    assert reduced == (shape == (3, 300, 200))
    assert all(max(image.size) <= 256 for image in found.pictures())


def test_many_large_pictures_are_reduced_before_they_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(tmp_path / "run", shape=(3, 96, 96), examples=4)
    monkeypatch.setattr("unfooled.report.page.MIN_PICTURE_CHARACTERS", 0)
    monkeypatch.setattr("unfooled.report.page.MAX_CHARACTERS", 150_000 + 60_000)
    found = Page(render([tmp_path / "run"], tmp_path / "page.html"))
    assert len(found.images()) == 20
    assert sum(len(image["src"]) for image in found.all("img")) < 60_000
    monkeypatch.setattr("unfooled.report.page.MAX_CHARACTERS", 150_000 + 20_000)
    found = Page(render([tmp_path / "run"], tmp_path / "page.html"))
    assert 5 <= len(found.images()) < 20
    assert f"The first {len(found.all('img')) // 5} of 4 examples are shown" in found.text


# Readable by everyone


@pytest.mark.parametrize("which", ["one", "two", "full"])
def test_structure(which: str, request: pytest.FixtureRequest) -> None:
    found = request.getfixturevalue(which)[0]
    assert found.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in a.get("content", "") for a in found.all("meta"))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    images = found.images()
    assert images
    assert all(image["alt"].strip() and image["width"] and image["height"] for image in images)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attrs in found.elements:
        for name in ("aria-labelledby", "data-copy"):
            assert set(attrs.get(name, "").split()) <= set(ids)
        if attrs.get("href", "").startswith("#"):
            assert attrs["href"][1:] in ids
    assert found.all("a")[0] == {"class": "skip", "href": "#verdict"}
    assert all(a.get("scope") in ("row", "col") for a in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    charts = [a for a in found.all("svg") if a.get("role") == "img"]
    assert charts
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in found.all("svg"))
    assert len(found.inside["desc"]) == len(charts)
    order = [a["id"] for a in found.all("section")]
    expected = ["verdict", "warnings", "comparison", "checks", "passes", "nearest", "curve", "confusion", "movement"]
    absent = {
        "one": ("comparison", "checks", "passes", "nearest", "reasons"),
        "two": ("warnings", "checks", "passes", "nearest", "reasons"),
        "full": (),
    }[which]
    assert order == [
        s for s in [*expected, "reasons", "gallery", "limits", "words", "setup", "environment"] if s not in absent
    ]


def contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme: int) -> None:
    text = [("warn", "warn-soft"), ("bad", "bad-soft"), ("ink", "bad-soft"), ("ink", "accent-soft"), ("ink", "code")]
    text += [(a, b) for a in ("ink", "muted", "accent", "bad", "void") for b in ("paper", "card")]
    text += [("void", "void-soft")]
    text += [("ink", "heat-on"), ("ink", "heat-off"), ("paper", "accent"), ("paper", "ink")]
    text += [("card", f"s{k}") for k in range(4)]
    for a, b in text:
        assert contrast(TOKENS[a][theme], TOKENS[b][theme]) >= 4.5, (a, b)
    for name in ("s0", "s1", "s2", "s3", "held", "fooled", "strong"):
        assert contrast(TOKENS[name][theme], TOKENS["paper"][theme]) >= 3, name


def test_colours_are_all_defined() -> None:
    style = (Path(words.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\(--([a-z0-9-]+)", style))
    defined = set(re.findall(r"--([a-z0-9-]+):", style)) | set(TOKENS)
    assert used - defined <= {"low", "wide", "at", "v", "share"}  # set on the elements
    assert style.count("{") == style.count("}")


# Several runs


def test_two_runs_side_by_side(two: tuple[Page, list[Summary], Path]) -> None:
    found, (a, b), _ = two
    assert "Two audits compared" in found.inside["h1"][0]
    assert len([x for x in found.all("div") if x.get("class") == "verdict"]) == 2
    assert len(found.images()) == 2 * 60
    wide = found.source.split('<svg class="chart wide"')[1].split("</svg>")[0]
    assert wide.count("<polyline") == 2
    assert 'class="series s0"' in wide
    assert 'class="series s1"' in wide
    assert (a.robust_accuracy.value, b.robust_accuracy.value) == (0.918, 0.455)
    assert "\u221246.3 points" in found.text
    assert "2 h 0 min" in found.text
    assert found.text.index("second.pt") > found.text.index("first.pt")
    assert "Not the same question" not in found.text


def test_runs_go_by_their_titles_unless_they_share_them(two: tuple[Page, list[Summary], Path], tmp_path: Path) -> None:
    assert [run.name for run in read_runs([two[2] / "a", two[2] / "b"])] == ["first.pt", "second.pt"]
    fabricate(tmp_path / "other", title="Another")
    assert [run.name for run in read_runs([two[2] / "a", tmp_path / "other"])] == ["A fabricated audit", "Another"]


def test_a_run_without_a_command_shows_none(tmp_path: Path) -> None:
    assert "Reproduce" not in page(tmp_path, command="", examples=0).text


def test_runs_that_were_asked_differently_say_so(tmp_path: Path) -> None:
    fabricate(tmp_path / "a")
    fabricate(tmp_path / "b", threat="l2:0.5", n=500)
    runs = read_runs([tmp_path / "a", tmp_path / "b"])
    assert different_settings(runs) == ["number of samples", "threat"]
    found = Page(render([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html"))
    assert "The runs differ in number of samples, threat" in found.text
    assert "Norm: l2" in found.inside["h3"]  # radii of different norms do not share an axis
    assert len([a for a in found.all("svg") if a.get("class") == "chart wide"]) == 2


def wilson(k: int, n: int) -> Estimate:
    z, p = 1.959964, k / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return Estimate(value=p, low=(middle - half) / (1 + z * z / n), high=(middle + half) / (1 + z * z / n), n=n)


def test_difference_is_newcombes_method_10() -> None:
    found = difference(wilson(48, 80), wilson(56, 70))
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)  # table II of the paper, case (a)
    assert difference(wilson(1, 2), estimate(0, 0)) is None
    assert difference(NOTHING, NOTHING) is None


def test_comparison_lines(two: tuple[Page, list[Summary], Path]) -> None:
    lines = {line.name: line for line in compare(read_runs([two[2] / "a", two[2] / "b"]))}
    robust = lines["Robust accuracy (upper bound)"]
    assert robust.values == ["91.8\u202f%", "45.5\u202f%"]
    change = robust.changes[0]
    assert change is not None
    assert (change.text, change.clear) == ("\u221246.3 points", True)
    same = lines["Clean accuracy"].changes[0]
    assert same is not None
    assert (same.text, same.clear) == ("0.0 points", False)
    assert lines["centre shift, gradients, fooled"].values == ["4.20", "4.20"]
    assert lines["Passes per sample, attack"].changes == [None]
    assert [letter_of(k) for k in (0, 25, 26, 52)] == ["A", "Z", "AA", "BA"]


# What is not there


def test_nothing_measured(tmp_path: Path) -> None:
    none = {name: estimate(0, 0) for name in ("clean_accuracy", "robust_accuracy", "attack_success_rate")}
    empty: dict[str, Any] = {name: [] for name in ("curve", "confusion", "movements", "limits")}
    found = page(tmp_path, examples=0, n=0, psnr=NOTHING, ssim=NOTHING, noise=NOTHING, **none, **empty)
    text = found.text
    assert "Nothing was judged, so there is no verdict." in text
    assert text.count("not available") >= 5
    for sentence in (
        "No curve was measured",
        "No confusion was recorded",
        "No explanation was compared",
        "no examples",
    ):
        assert sentence in text
    assert "nan" not in text.lower().replace("unfooled", "")
    assert "None" not in text


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    curve = [CurvePoint(eps=e, accuracy=estimate(90, 100)) for e in (0.0, 0.1, 0.3)]
    curve.append(CurvePoint(eps=0.2, accuracy=estimate(0, 0)))
    folder = tmp_path / "run"
    fabricate(folder, curve=curve, passes=Passes(forward=3, backward=0))
    path = folder / "summary.json"
    finite = path.read_text()
    path.write_text(finite.replace('"seconds": 83.4', '"seconds": NaN'))
    tensors = load_file(folder / "gallery.safetensors")
    tensors["x"][0, 0, 0, 0] = torch.nan
    tensors["x_adv"][0, 0, 0, 1] = torch.inf
    tensors["before"][0] = torch.nan
    tensors["after"][0] = 0
    tensors["before"][1] = 3e38
    save_file(tensors, str(folder / "gallery.safetensors"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInput, match=r"summary\.json holds the number NaN; the figures of a record are finite"):
            read_run(folder)
        path.write_text(finite)
        found = Page(render([folder], tmp_path / "page.html"))
    assert f"{28 * 28 + 2} values of the pictures are not finite" in found.text
    assert "not available" in found.text
    assert "NaN" not in found.source.split('id="records">')[1].split("</script>")[0]
    blank = np.asarray(found.pictures()[3].convert("RGB"))
    assert (blank == colours("diverging")[128]).all()
    wide = found.source.split('<svg class="chart wide"')[1].split("</svg>")[0]
    assert wide.count('class="dot"') == 3  # none where nothing was measured
    assert found.source.count('<th scope="row" class="num">') == 4


def damage(folder: Path, how: str) -> Path:
    summary_path, gallery = folder / "summary.json", folder / "gallery.safetensors"
    if how == "gone":
        return folder / "nowhere"
    if how == "a file":
        return summary_path
    if how == "unfinished":
        summary_path.unlink()
    elif how == "not json":
        summary_path.write_text("{")
    elif how == "unknown field":
        summary_path.write_text(summary_path.read_text().replace('"curve_n"', '"curve_m"'))
    elif how == "newer":
        summary_path.write_text(summary_path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    elif how == "no gallery":
        gallery.unlink()
    elif how == "broken gallery":
        gallery.write_bytes(gallery.read_bytes()[:100])
    else:
        tensors = load_file(gallery)
        if how == "a tensor short":
            del tensors["after"]
        elif how == "a row short":
            tensors = {name: value[:-1].contiguous() for name, value in tensors.items()}
        else:
            tensors["after"] = tensors["after"][..., :9].contiguous()
        save_file(tensors, str(gallery))
    return folder


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("gone", "nowhere is not a run folder"),
        ("a file", "is not a run folder"),
        ("unfinished", "has no summary.json: its audit has not finished"),
        ("not json", "summary.json is not a summary"),
        ("unknown field", "curve_"),
        ("newer", "schema version 2"),
        ("no gallery", "gallery.safetensors"),
        ("broken gallery", "missing or damaged"),
        ("a tensor short", "holds no after"),
        ("a row short", "the summary lists 12 examples"),
        ("shapes", "before and after in"),
    ],
)
def test_bad_folders(tmp_path: Path, how: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "run")
    fabricate(tmp_path / "good")
    folder = damage(tmp_path / "run", how)
    with pytest.raises(BadInput) as caught:
        render([tmp_path / "good", folder], tmp_path / "page.html")
    message = str(caught.value)
    assert says in message
    assert str(folder) in message
    assert "\n" not in message
    assert not (tmp_path / "page.html").exists()
    assert main([str(folder), "--out", str(tmp_path / "page.html")]) == 2
    assert capsys.readouterr().err == f"{message}\n"


def test_nothing_to_render_and_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run to report on"):
        render([], tmp_path / "page.html")
    fabricate(tmp_path / "run", examples=0)
    with pytest.raises(BadInput, match="cannot write"):
        render([tmp_path / "run"], tmp_path / "run" / "summary.json" / "page.html")


def test_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate(tmp_path / "run", examples=1)
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "page.html"), "--title", "My own title"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert "My own title" in Page(tmp_path / "page.html").inside["h1"][0]
