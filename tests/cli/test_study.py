"""`unfooled study`: what it lists, what it refuses, and what it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unfooled.cli import app as cli
from unfooled.core.errors import BadInput
from unfooled.models import SmallCnn
from unfooled.runs.units import read_unit
from unfooled.studies import broken_defences as suite
from unfooled.studies.attention import scale as attention
from unfooled.studies.attention.analysis import AnalysisEffort
from unfooled.studies.attention.records import Analysed
from unfooled.studies.broken_defences.cases import CASES, Case
from unfooled.studies.broken_defences.scale import SCALES
from unfooled.workflows import catalog


def run(home: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run the command in `home`; what it printed on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["unfooled", *arguments])
        patch.setenv("COLUMNS", "120")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            got = cli.run(list(arguments))
    assert got == code, out.getvalue() + err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cases of tiny networks, and a judge that takes no time."""
    few = [case for case in CASES if case.number in (4, 39)]
    scale = replace(SCALES["small"], n=10, train_n=200, epochs=1, arch=partial(SmallCnn, width=4))
    monkeypatch.setitem(SCALES, "small", scale)

    def judge(case: Case, model: Any, x: Any, y: Any, threat: Any, *, seed: int = 0) -> suite.Judgement:
        return suite.Judgement(
            seed=seed, number=case.number, name=case.name, kind=case.kind, n=len(x), eps=float(threat.eps), robust=0.0,
            verdict="EXTENDED", trusted=True, findings=["D6"], passes=100.0,
        )  # fmt: skip

    monkeypatch.setattr("unfooled.studies.broken_defences.study.audited", judge)
    monkeypatch.setattr(suite, "run_broken_defences", partial(suite.run_broken_defences, cases=few))


def test_list_says_what_there_is(tmp_path: Path) -> None:
    out, _ = run(tmp_path, "study", "--list")
    for name, row in catalog.STUDIES.items():
        assert name in out
        assert row.asks in out
        assert set(row.costs) == {"small", "medium", "full"}
        assert all(cost in out for cost in row.costs.values())
        assert callable(catalog.resolve(row.path))
    out, _ = run(tmp_path, "study", "--list", "--json")
    assert set(json.loads(out)) == set(catalog.STUDIES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["study"], "which study? There are broken-defences"),
        (["study", "broken-defenses"], "no study 'broken-defenses'; did you mean broken-defences?"),
        (["study", "broken-defences", "--scale", "smal"], "no scale 'smal'; did you mean small?"),
        (["study", "broken-defences", "--seeds", "0"], "--seeds is 0"),
        (["study", "broken-defences", "--threads", "0"], "--threads is 0"),
        (["study", "broken-defences", "--model", "net.pt"], "takes no --model"),
        (["study", "attention", "--boxes", "boxes.csv"], "give a model and a folder"),
        (["study", "attention", "--model", "net.pt"], "just one data source"),
        (["study", "broken-defences", "--size", "8"], "takes no --size"),
        (["study", "broken-defences", "--device", "meta"], "--device meta cannot be used here"),
        (["study", "broken-defences", "--device", "gpu"], "--device gpu cannot be used here"),
        (["study", "mnist-features", "--scale", "medium"], "UNFOOLED_DATA"),
        (["study", "robust-features", "--scale", "medium"], "UNFOOLED_DATA"),
        (["study", "lime-shift", "--scale", "medium"], "UNFOOLED_DATA"),
        (["study", "attackability", "--scale", "medium"], "UNFOOLED_DATA"),
        (["study", "certification", "--scale", "medium"], "UNFOOLED_DATA"),
        (["study", "attackability", "--data", "cub-ten"], "cub-ten"),
        (["study", "attention", "--size", "x", "--model", "net.pt"], "--size is 'x'"),
        (["study", "attention", "--mean", "x", "--model", "net.pt"], "--mean is 'x'"),
        (["study", "attention", "--n", "4"], "n: only for a network of your own; give a model and a folder of images"),
        (["study", "attention", "--size", "8", "--split", "train"], "--split, --size: only for a network"),
        (
            ["study", "attention", "--arch", "a", "--mean", "0", "--std", "1", "--labels", "l"],
            "--arch, --mean, --std, --labels",
        ),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNFOOLED_DATA", "nowhere")
    out, err = run(tmp_path, *arguments, code=2)
    assert said in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["attackability", "certification", "lime-shift", "mnist-features", "robust-features"])
def test_the_device_reaches_the_study(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*_: Any, device: str, **__: Any) -> None:
        raise BadInput(f"on {device}")

    module, function = catalog.STUDIES[name].path.split(":")
    monkeypatch.setattr(f"unfooled.{module}.{function}", says)
    assert "on meta" in run(tmp_path, "study", name, "--device", "meta", code=2)[1]
    assert "on cpu" in run(tmp_path, "study", name, "--device", "cpu", code=2)[1]


@pytest.mark.usefixtures("quick")
def test_a_study_leaves_its_folder_and_goes_on(tmp_path: Path) -> None:
    arguments = ["study", "broken-defences", "--out", "runs/s", "--seeds", "2"]
    out, _ = run(tmp_path, *arguments)
    assert "diagnostics take at most" in " ".join(out.split())
    assert "page: runs/s/report.html" in out
    assert "zero backward" in (tmp_path / "runs/s/report.html").read_text()
    kept = json.loads((tmp_path / "runs/s/summary.json").read_text())
    assert set(kept) >= {"study", "scale", "seeds", "seconds", "environment", "tables", "claims"}
    assert (kept["study"], kept["scale"], kept["seeds"]) == ("broken-defences", "small", [0, 1])
    assert kept["command"] == "unfooled study broken-defences --out runs/s --seeds 2"
    assert all(set(c) == {"claim", "source", "verdict", "value", "low", "high", "n"} for c in kept["claims"])

    out, err = run(tmp_path, *arguments, "--json")
    again = json.loads(out)
    assert again["tables"] == kept["tables"]
    assert again["seconds"] == kept["seconds"]
    assert err == ""
    _, err = run(tmp_path, *arguments)
    assert "2 of 2 found from an earlier start" in err
    out, _ = run(tmp_path, *arguments, "--quiet")
    assert out == ""
    _, err = run(tmp_path, "study", "broken-defences", "--out", "runs/s", code=2)
    assert "runs/s holds another run: options: seeds was [0, 1], now it is [0]" in err


@pytest.mark.usefixtures("quick")
def test_the_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, "study", "broken-defences", "--quiet", "--seed", "5")
    assert json.loads((tmp_path / "runs/broken-defences-small/summary.json").read_text())["seeds"] == [5]


def test_attention_of_a_network_and_photos_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of many sizes, boxes for some of them, another order of classes, weights that need an architecture."""
    from PIL import Image

    scale = replace(attention.SCALES["small"], radii=(), analysis=AnalysisEffort(n=40, budget=100, steps=2))
    monkeypatch.setitem(attention.SCALES, "small", scale)
    draw, rows = np.random.default_rng(0), ["file,left,top,width,height"]
    for k in range(12):
        kind, (w, h) = ("bright", "dark")[k % 2], ((24, 16), (16, 32), (20, 20))[k % 3]
        file = tmp_path / "photos" / "val" / kind / f"{k:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 60, (h, w, 3)) + (150 if kind == "bright" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        if k != 4:  # of this one no box is known
            rows.append(f"val/{kind}/{k:02}.png,{w // 4},{h // 2},{w // 2},{h // 2}")
    (tmp_path / "boxes.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "classes.txt").write_text("dark\nbright\n", encoding="utf-8")
    torch.manual_seed(0)
    net = SmallCnn((3, 16, 16), classes=3, width=4)
    net.fc2.weight.data.zero_()
    net.fc2.bias.data = torch.tensor([0.0, 0.5, -9.0])  # says bright, which is 1 in the order of the labels
    net.fc2.weight.data[1] = 0.01
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    arguments = ["study", "attention", "--model", "weights.pt", "--data", str(tmp_path / "photos"), "--split", "val"]
    arguments += ["--boxes", "boxes.csv", "--labels", "classes.txt", "--out", "run", "--quiet"]
    _, err = run(tmp_path, *arguments, "--arch", "small-cnn", code=2)
    assert "give the --size that the model takes" in err
    _, err = run(tmp_path, *arguments, "--arch", "lenet5", "--size", "16", code=2)
    assert "lenet5" in err
    arguments += ["--arch", "small-cnn", "--size", "16", "--mean", "0.5", "--std", "0.25"]
    run(tmp_path, *arguments, "--n", "10")
    kept = json.loads((tmp_path / "run/summary.json").read_text())
    assert set(kept["tables"]) >= {"photos: clean attention"}
    assert all(claim["claim"].startswith("photos, weights.pt: ") for claim in kept["claims"])
    assert str(tmp_path) not in json.dumps(kept["claims"])
    (unit,) = tmp_path.glob("run/units/analysis/*.json")
    row = read_unit(unit, Analysed)
    assert (row.data, row.n, row.wrong) == ("photos", 10, 5)
    assert set(row.labels) == {1}
    areas = np.array(row.columns["area"], dtype=float)
    np.testing.assert_allclose(areas[np.isfinite(areas)], 0.25)
    assert np.isnan(areas).sum() == np.isnan(np.array(row.columns["coverage"], dtype=float)).sum() == 1
    # Another number, other boxes or another normalisation are another run.
    _, err = run(tmp_path, *arguments, "--n", "8", code=2)
    assert "holds another run" in err
    _, err = run(tmp_path, *arguments[:-1], "0.5", "--n", "10", code=2)
    assert "holds another run" in err
    (tmp_path / "boxes.csv").write_text("\n".join(rows[:-4]), encoding="utf-8")
    _, err = run(tmp_path, *arguments, "--n", "10", code=2)
    assert "holds another run" in err
