"""`unfooled lens`: what it reads, what it refuses, what it says and what it leaves."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.cli.test_study import run

from unfooled.cli.lens import joined, numbers
from unfooled.distances import (
    abs_sum,
    chance,
    corrected,
    diverse_top_k,
    kendall,
    lens_precision,
    lens_recall,
    peak,
    top_k_intersection,
)
from unfooled.evaluation.explanations.locality import score_maps


def maps(n: int = 5, shape: tuple[int, ...] = (16, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, *shape), dtype=np.float32)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Clean maps, and the same moved by a pixel and blended with others."""
    a = maps()
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", 0.8 * np.roll(a, 1, 2) + 0.2 * maps(seed=1))
    return tmp_path


def record(home: Path, *arguments: str) -> dict[str, Any]:
    out, _ = run(home, "lens", *arguments, "--json")
    found: dict[str, Any] = json.loads(out)
    return found


def test_figures_are_those_of_the_distances(home: Path) -> None:
    found = record(home, "a.npy", "b.npy", "--k", "10", "20", "--w", "1", "2", "--diverse")["found"]
    a, b = (torch.from_numpy(np.load(home / f"{name}.npy")) for name in "ab")
    assert (found["n"], found["shape"], found["undefined"]) == (5, [16, 16], 0)
    assert [(block["k"], block["w"]) for block in found["blocks"]] == [(10, 1), (10, 2), (20, 1), (20, 2)]
    for block in found["blocks"]:
        k, w = block["k"], block["w"]
        scores = {s["score"]: s for s in block["scores"]}
        assert list(scores) == [
            "top_k_intersection", "lens_recall", "lens_precision",
            "diverse_intersection", "diverse_lens_recall", "diverse_lens_precision",
        ]  # fmt: skip
        want = {
            "top_k_intersection": (top_k_intersection(a, b, k=k), torch.full((5,), k / 256)),
            "lens_recall": (lens_recall(a, b, k=k, w=w), chance(a, k=k, w=w)),
            "lens_precision": (lens_precision(a, b, k=k, w=w), chance(b, k=k, w=w)),
            "diverse_lens_recall": (
                lens_recall(a, b, k=k, w=w, diverse=True), chance(a, k=k, w=w, diverse=True)
            ),
        }  # fmt: skip
        for name, (raw, level) in want.items():
            assert scores[name]["values"] == pytest.approx(raw.tolist(), abs=1e-5)
            assert scores[name]["chances"] == pytest.approx(level.tolist(), abs=1e-5)
            assert scores[name]["corrected"]["value"] == pytest.approx(float(corrected(raw, level).nanmean()), abs=1e-4)
            assert scores[name]["raw"]["low"] <= scores[name]["raw"]["value"] <= scores[name]["raw"]["high"]
        assert scores["lens_recall"]["neutral"] == "clean_dilated"
        assert scores["lens_precision"]["neutral"] == "pert_dilated"
        assert scores["diverse_intersection"]["p"] is None
        assert 0 < scores["lens_recall"]["p"] <= 1
        count = diverse_top_k(a, k, w).sum((1, 2)).double().mean()
        assert block["found_clean"]["value"] == pytest.approx(float(count))
    ranks = {rank["name"]: rank["value"]["value"] for rank in found["ranks"]}
    assert ranks["Kendall"] == pytest.approx(float(kendall(a, b).mean()), abs=1e-5)
    assert {"LENS-Spearman, w = 1", "LENS-Kendall, w = 2", "Spearman, where either is not zero"} <= set(ranks)


def test_results_do_not_depend_on_the_batch(home: Path) -> None:
    one, many = (record(home, "a.npy", "b.npy", "--k", "10", "--batch", size)["found"] for size in ("2", "50"))
    assert one == many


def test_lists_may_be_written_in_three_ways(home: Path) -> None:
    forms = (
        ["a.npy", "b.npy", "--k", "10", "20", "--w", "1", "2"],
        ["--k", "10,20", "--w=1,2", "a.npy", "b.npy"],
        ["--k", "10", "--k", "20", "a.npy", "b.npy", "--w", "1", "--w", "2"],
        ["--w", "1", "2", "a.npy", "--k=10", "20", "b.npy"],
    )
    blocks = [record(home, *form)["found"]["blocks"] for form in forms]
    assert all(b == blocks[0] for b in blocks)
    assert [(b["k"], b["w"]) for b in blocks[0]] == [(10, 1), (10, 2), (20, 1), (20, 2)]
    assert joined(["--w", "1", "2", "x.npy", "3"]) == ["--w", "1,2", "x.npy", "3"]
    assert joined(["a", "--seed", "1", "2"]) == ["a", "--seed", "1", "2"]
    assert numbers(["3,1", "3"], "--k") == [3, 1]


def test_the_table_and_the_warnings(home: Path) -> None:
    out, err = run(home, "lens", "a.npy", "b.npy", "--k", "40", "--w", "1", "3")
    text = " ".join(out.split())
    assert "k = 40, w = 1 5 pairs of 16 x 16, 0 undefined" in text
    assert "lens_recall clean " in text
    assert "would score up to 1.00 here" in text
    assert "k = 40, w = 3: unrelated maps would score up to 1.00 here" in text
    assert "k = 40, w = 1: unrelated" not in text
    assert "Kendall, where either is not zero" in text
    assert err == ""
    assert sorted(p.name for p in home.iterdir()) == ["a.npy", "b.npy"]
    out, _ = run(home, "lens", "a.npy", "b.npy", "--k", "4", "--quiet")
    assert out == ""


@pytest.mark.parametrize("width", ["80", "120"])
def test_tables_fit_the_screen(home: Path, monkeypatch: pytest.MonkeyPatch, width: str) -> None:
    from unfooled.cli import show

    np.save(home / "flat.npy", np.ones((5, 16, 16), np.float32))
    monkeypatch.setattr(show.out, "width", int(width))
    for first in ("a.npy", "flat.npy"):
        out, _ = run(home, "lens", first, "b.npy", "--k", "40", "--w", "1", "3", "--diverse")
        assert "\u2026" not in out
        assert "not available" not in out
        rows = [line for line in out.splitlines() if line.startswith(("lens_", "diverse_", "top_k"))]
        assert len(rows) == 12
        assert max(map(len, rows)) <= int(width)
        assert all(re.search(r"^diverse_lens_precision +pert +(none|\d\.\d\d)", line) for line in rows[5::6])
        # Intervals stand in one piece, beside their value or below it.
        assert len(re.findall(r"\[-?\d\.\d\d, -?\d\.\d\d\]", out)) == out.replace("in brackets", "").count("[")


def test_undefined_zero_and_negative_maps_are_told(home: Path) -> None:
    a, b = (np.load(home / f"{name}.npy") for name in "ab")
    a[1] = 0
    a[2] = np.where(a[2] > 0.99, a[2], 0)
    b[3] = b[3] - 0.5
    np.save(home / "a.npy", a)
    np.save(home / "b.npy", b)
    found = record(home, "a.npy", "b.npy", "--k", "30", "--w", "0")
    assert found["found"]["undefined"] == 1
    block = found["found"]["blocks"][0]
    assert block["scores"][1]["raw"]["n"] == 4
    assert block["scores"][1]["values"][1] is None
    assert block["zeros_clean"]["value"] == pytest.approx((30 - (a[2] > 0).sum()) / 30 / 4, abs=1e-6)
    said = " ".join(found["warnings"])
    assert "1 pair of 5 holds a constant map" in said
    assert "of the top k are zeros" in said
    assert "ranked with their sign" in said


def test_what_is_read(home: Path) -> None:
    a, b = np.load(home / "a.npy"), np.load(home / "b.npy")
    want = record(home, "a.npy", "b.npy", "--k", "10")["found"]
    np.savez(home / "one.npz", a)
    np.savez_compressed(home / "two.npz", clean=a, other=b)
    save_file({"x": b, "y": a}, home / "m.safetensors")
    assert record(home, "one.npz", "two.npz:other", "--k", "10")["found"] == want
    assert record(home, "two.npz:clean", "m.safetensors:x", "--k", "10")["found"] == want
    np.save(home / "single.npy", a[0])
    assert record(home, "single.npy", "single.npy", "--k", "10")["found"]["n"] == 1
    np.save(home / "whole.npy", (a * 1000).round().astype(np.int32))
    assert record(home, "whole.npy", "whole.npy", "--k", "10")["found"]["blocks"][0]["scores"][0]["raw"]["value"] == 1


def test_channels_are_reduced_as_asked(home: Path) -> None:
    a, b = maps(3, (3, 12, 12)) - 0.5, maps(3, (3, 12, 12), seed=1) - 0.5
    np.save(home / "a.npy", a)
    np.save(home / "b.npy", b)
    u, v = torch.from_numpy(a), torch.from_numpy(b)
    for arguments, reduce in (([], abs_sum), (["--reduce", "peak"], peak)):
        found = record(home, "a.npy", "b.npy", "--k", "9", *arguments)
        want = lens_recall(reduce(u), reduce(v), k=9)
        assert found["found"]["blocks"][0]["scores"][1]["values"] == pytest.approx(want.tolist(), abs=1e-5)
        assert found["reduce"] == reduce.__name__
        assert not any("negative" in text for text in found["warnings"])
    # Who asks for the sign needs no warning about it.
    assert record(home, "a.npy", "b.npy", "--k", "9", "--reduce", "signed")["warnings"] == []


BAD: list[tuple[list[str], str]] = [
    (["c.npy", "b.npy", "--k", "3"], "there is no file c.npy"),
    (["a.npy", "short.npy", "--k", "3"], "a.npy holds maps of shape (5, 16, 16), short.npy of (2, 16, 16)"),
    (["a.npy", "nan.npy", "--k", "3"], "nan.npy holds NaN or infinite values in 1 of 5 maps, the first is map 2"),
    (["a.npy", "b.npy", "--k", "257"], "k is 257; maps of shape (16, 16) have 1 to 256"),
    (["a.npy", "b.npy", "--k", "0"], "k is 0;"),
    (["text.npy", "b.npy", "--k", "3"], "text.npy holds <U1; maps are real numbers"),
    (["complex.npy", "b.npy", "--k", "3"], "complex.npy holds complex128"),
    (["words.npy", "b.npy", "--k", "3"], "cannot read words.npy: it is no NumPy file"),
    (["words.npz", "b.npy", "--k", "3"], "cannot read words.npz: it is no NumPy file"),
    (["objects.npy", "b.npy", "--k", "3"], "cannot read objects.npy: it holds pickled objects"),
    (["empty.npy", "b.npy", "--k", "3"], "there is nothing in it"),
    (["flat.npy", "b.npy", "--k", "3"], "maps are (H, W), (N, H, W) or (N, C, H, W)"),
    (["last.npy", "last.npy", "--k", "3"], "channels last; save it as (N, C, H, W)"),
    (["broken.npy", "b.npy", "--k", "3"], "cannot read broken.npy"),
    (["broken.npz", "b.npy", "--k", "3"], "cannot read broken.npz"),
    (["broken.safetensors", "b.npy", "--k", "3"], "cannot read broken.safetensors"),
    (["notes.txt", "b.npy", "--k", "3"], "notes.txt is no .npy, .npz, .safetensors file"),
    (["many.npz", "b.npy", "--k", "3"], "many.npz holds first, second; choose one: many.npz:first"),
    (["many.npz:frist", "b.npy", "--k", "3"], "many.npz has no array 'frist'; did you mean first"),
    (["a.npy:x", "b.npy", "--k", "3"], "a.npy is a single array"),
    (["none.npz", "b.npy", "--k", "3"], "none.npz holds no array"),
    (["a.npy", "b.npy", "--k", "many"], "--k is 'many'; give whole numbers"),
    (["a.npy", "b.npy", "--k", "3", "--w", "1.5"], "--w is '1.5'; give whole numbers"),
    (["a.npy", "b.npy", "--k", "3", "--w", "-1"], "--w is '-1'; give whole numbers"),
    (["a.npy", "b.npy", "--k", "3", "--reduce", "abssum"], "there is no reduction 'abssum'; did you mean abs-sum?"),
    (["a.npy", "b.npy", "--k", "3", "--reduce", "peak"], "--reduce is for channels"),
    (["a.npy", "b.npy", "--k", "3", "--batch", "0"], "--batch is 0"),
    (["a.npy", "b.npy", "--k", "3", "--out", "a.npy/x"], "cannot write a.npy/x"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_refusals_are_one_sentence(home: Path, arguments: list[str], said: str) -> None:
    a = np.load(home / "a.npy")
    np.save(home / "short.npy", a[:2])
    bad = a.copy()
    bad[2, 3, 4] = np.nan
    np.save(home / "nan.npy", bad)
    np.save(home / "text.npy", np.array([["a", "b"]]))
    np.save(home / "complex.npy", a.astype(complex))
    for name in ("words.npy", "words.npz"):
        (home / name).write_text("0.1 0.2 0.3")
    np.save(home / "objects.npy", np.array([{"no": "pickle"}], dtype=object))
    np.save(home / "empty.npy", a[:0])
    np.save(home / "flat.npy", a[0, 0])
    np.save(home / "last.npy", maps(2, (8, 8, 3)))
    for name in ("broken.npy", "broken.npz", "broken.safetensors", "notes.txt"):
        (home / name).write_bytes(b"\x93NUMPY nothing that anybody could read")
    np.savez(home / "many.npz", first=a, second=a)
    np.savez(home / "none.npz")
    out, err = run(home, "lens", *arguments, code=2)
    assert said in err
    assert err.startswith("unfooled: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert not (home / "lens.json").exists()


class Page(HTMLParser):
    """Collects what a page would load, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_asks_for_nothing(home: Path) -> None:
    a = np.load(home / "a.npy")
    a[4] = 1
    np.save(home / "<b>&.npy", a)
    out, _ = run(home, "lens", "<b>&.npy", "b.npy", "--k", "40", "--w", "1", "3", "--diverse", "--out", "o/page")
    assert "page: o/page/report.html" in out
    assert sorted(p.name for p in (home / "o/page").iterdir()) == ["lens.json", "report.html"]
    kept = json.loads((home / "o/page/lens.json").read_text())
    text = (home / "o/page/report.html").read_text()
    page = Page()
    page.feed(text)
    assert all(s.startswith(("data:", "#")) for s in page.sources), page.sources
    assert "default-src 'none'; img-src data:" in text
    assert "<b>&.npy" not in text
    assert "<b>&.npy" in page.text
    for phrase in (
        "lens_recall",
        "clean_dilated",
        "uninformative",
        "Chance",
        "Corrected",
        "1 pair of 5 holds a constant",
    ):
        assert phrase in page.text
    shown = re.search(r'<script type="application/json" id="records">(.*?)</script>', text, re.DOTALL)
    assert shown is not None
    assert json.loads(shown[1])["found"] == kept["found"]
    assert [s for s in page.sources if s.startswith("data:image/png;base64,")] == [
        "data:image/png;base64," + kept["pictures"][0]["png"]
    ]
    assert base64.b64decode(kept["pictures"][0]["png"]).startswith(b"\x89PNG")
    assert kept["command"].startswith("unfooled lens ")


def test_a_page_of_nothing_but_undefined_maps(home: Path) -> None:
    np.save(home / "a.npy", np.zeros((3, 8, 8)))
    run(home, "lens", "a.npy", "a.npy", "--k", "5", "--diverse", "--out", "o")
    text = (home / "o/report.html").read_text()
    assert "not available" in text
    assert "3 pairs of 3 hold a constant map" in text
    assert "data:image/png" not in text


def test_unrelated_maps_are_unsurprising() -> None:
    a, b = (torch.from_numpy(maps(60, (20, 20), seed=s)) for s in (0, 1))
    block = score_maps(a, b, k=[30], w=[1]).blocks[0]
    for score in block.scores:
        assert score.corrected.low is not None
        assert score.corrected.high is not None
        assert score.corrected.low < 0.03
        assert score.corrected.high > -0.03
        assert score.surprising is not None
        assert score.surprising < 0.2
    near = score_maps(a, a.roll(1, 2), k=[30], w=[1]).blocks[0].scores
    assert near[0].raw.value is not None
    assert near[1].corrected.value is not None
    assert near[0].raw.value < 0.2
    assert near[1].corrected.value > 0.8
    assert near[1].surprising == 1
