"""Gates: rulings, baselines with a paired test, JUnit and SARIF files, and the plugin in a real session of pytest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from scipy.stats import binom
from tests.conftest import points, tiny_net
from typer import main

import unfooled as uf
from unfooled.cli import pytest_plugin
from unfooled.evaluation.audit.records import Summary
from unfooled.runs.packing import packed
from unfooled.runs.records import read_record
from unfooled.statistics.paired import worse
from unfooled.workflows import BelowBound, Gate, enforce, gate, read_baseline, write_baseline

PLAN = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=2, explain_n=1, gallery=1, floor=2000, reasons=None)
ROOT = Path(__file__).parents[2]


def audited(out: Path, eps: float = 0.01) -> Summary:
    """A net on its own predictions, so that few samples fall."""
    model, x = tiny_net(3, (1, 4, 4)), points(12, (1, 4, 4), seed=5)
    with torch.no_grad():
        y = model(x).argmax(1)
    return uf.audit(model, x, y, uf.Linf(eps), plan=PLAN, out=out)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gates") / "run"
    assert audited(out).trusted
    return out


def changed(run: Path, out: Path, lost: int = 0, gained: int = 0, **fields: Any) -> Path:
    """A copy of a run in which samples that were kept are lost, or were lost before."""
    from safetensors.torch import load_file

    shutil.copytree(run, out)
    tensors = load_file(out / "samples.safetensors")
    kept = (~tensors["success"]).nonzero()[:, 0]
    tensors["success"][kept[:lost]] = True
    tensors["success"][kept[lost : lost + gained]] = True
    (out / "samples.safetensors").write_bytes(b"".join(bytes(part) for part in packed(tensors)))
    if fields:
        record = json.loads((out / "summary.json").read_text()) | fields
        (out / "summary.json").write_text(json.dumps(record))
    return out


def test_rulings_name_what_failed(run: Path) -> None:
    summary = read_record(run / "summary.json", Summary)
    conditions = Gate(("robust_accuracy=0.1", "robust_accuracy.low=0.999"))
    rulings = gate(summary, conditions)
    assert [(r.name, r.passed) for r in rulings] == [
        ("verdict", True), ("robust_accuracy.value >= 0.1", True), ("robust_accuracy.low >= 0.999", False),
    ]  # fmt: skip
    with pytest.raises(BelowBound, match=r"robust_accuracy.low is 0\.\d+, below 0.999"):
        enforce(rulings, conditions)
    enforce(gate(summary, Gate()), Gate())


@pytest.mark.parametrize("verdict", ["OVERSTATED", "NOT EVALUABLE"])
def test_no_gate_passes_a_figure_that_cannot_be_believed(run: Path, verdict: str) -> None:
    summary = read_record(run / "summary.json", Summary)
    doubtful = summary.model_copy(update={"verdict": verdict, "trusted": False, "because": "A check found more."})
    conditions = Gate(("robust_accuracy=0",))
    with pytest.raises(BelowBound, match=f"the verdict is {verdict}, so no figure passes. A check found more."):
        enforce(gate(doubtful, conditions), conditions)


def test_baseline_is_compared_by_a_paired_test(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    baseline = write_baseline(run, file)
    assert baseline == read_baseline(file) == read_baseline(run)
    kept = int(baseline.kept.sum())
    assert kept >= 8
    for lost, passes in ((0, True), (4, True), (5, False)):  # 1/16 is no evidence, 1/32 is
        now = changed(run, tmp_path / f"lost-{lost}", lost)
        conditions = Gate(baseline=file)
        rulings = gate(read_record(now / "summary.json", Summary), conditions, out=now)
        assert rulings[-1].passed is passes
        assert f"{lost} samples lost and 0 gained, p = {0.5**lost:.2g}" in rulings[-1].sentence
        if not passes:
            with pytest.raises(BelowBound, match="5 samples lost"):
                enforce(rulings, conditions)


def test_p_value_of_losses() -> None:
    before, now = torch.tensor([True] * 9 + [False] * 3), torch.tensor([True] * 2 + [False] * 7 + [True] * 3)
    assert worse(before, now) == pytest.approx(binom.sf(6, 10, 0.5))
    assert worse(before, before) == 1.0
    with pytest.raises(ValueError, match="must be the same"):
        worse(before, now[:2])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"threat": "l2:0.5"}, "has another threat, l2:0.5 instead of linf:0.01; audit it again"),
        ({"attack": "pgd"}, "has another attack, pgd instead of cascade, quick"),
        ({"verdict": "OVERSTATED", "trusted": False}, "is OVERSTATED; take a run whose figure can be believed"),
    ],
)
def test_baseline_of_another_question_is_refused(run: Path, tmp_path: Path, fields: Any, sentence: str) -> None:
    other = changed(run, tmp_path / "other", **fields)
    with pytest.raises(uf.BadInput, match=sentence):
        gate(read_record(run / "summary.json", Summary), Gate(baseline=other), out=run)


def test_baseline_of_other_samples_or_none_is_refused(run: Path, tmp_path: Path) -> None:
    summary = read_record(run / "summary.json", Summary)
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps(read_baseline(run).model_dump() | {"content": "other"}))
    with pytest.raises(uf.BadInput, match="is of other samples"):
        gate(summary, Gate(baseline=file), out=run)
    with pytest.raises(uf.BadInput, match="cannot read"):
        Gate(baseline=tmp_path / "none.json").check(run)
    with pytest.raises(uf.BadInput, match="give out='DIR'"):
        Gate(baseline=file).check(None)


def test_junit_and_sarif_say_what_failed(run: Path, tmp_path: Path) -> None:
    summary = read_record(run / "summary.json", Summary)
    noted = summary.diagnostics[0].model_copy(
        update={"fired": True, "kind": "stop", "detail": "odd\x1b[2J", "id": "D2"}
    )
    doubtful = summary.model_copy(update={"diagnostics": [noted], "model": "mine.py:net"})
    junit, sarif = tmp_path / "a" / "gate.xml", tmp_path / "gate.sarif"
    gate(doubtful, Gate(("robust_accuracy=0.1", "clean_accuracy.low=1"), junit=junit, sarif=sarif))
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None] == [
        "clean_accuracy.low >= 1"
    ]
    facts = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert facts["verdict"] == summary.verdict and facts["threat"] == "linf:0.01"
    log = json.loads(sarif.read_text())
    assert log["version"] == "2.1.0"
    (only,) = log["runs"]
    assert [(r["ruleId"], r["level"]) for r in only["results"]] == [("D2", "error"), ("gate", "error")]
    assert {rule["id"] for rule in only["tool"]["driver"]["rules"]} == {"D2", "gate"}
    place = only["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert not place.startswith("/")


SESSION = """
import pytest, torch, unfooled as uf
from torch import nn

PLAN = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=1, explain_n=1, gallery=1, floor=2000, reasons=None)
torch.manual_seed(0)
net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), torch.rand(12, 16)
net[1].bias.data -= net(x).mean(0).detach()  # answers of all classes
y = net(x).argmax(1)

def test_holds(assert_robust):
    assert assert_robust(net, (x, y), "linf:0.001", 0.1, options=PLAN).trusted

def test_low(assert_robust):
    assert_robust(net, (x, y), "linf:0.9", 0.9, options=PLAN)

def test_overstated(assert_robust):
    assert_robust(lambda z: net(z).detach(), (x, y), "linf:0.001", 0.0, options=PLAN)

def test_not_evaluable(assert_robust):
    assert_robust(net, (x, (y + 1) % 3), "linf:0.001", 0.0, options=PLAN)

@pytest.mark.robustness
def test_other():
    pass

def test_plain():
    pass
"""


def test_plugin_in_a_real_session(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(SESSION)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "unfooled.cli.pytest_plugin", "--strict-markers"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def session(*options: str) -> str:
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", *options],
            check=False,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=environment,
        )
        return done.stdout

    printed = session("--robustness-pages", "pages", "--junitxml", "junit.xml")
    assert "3 failed, 3 passed" in printed
    words = " ".join(printed.split())
    assert "AssertionError: robust_accuracy.value is" in words
    assert "AssertionError: the verdict is OVERSTATED, so no figure passes" in words
    assert "AssertionError: the verdict is NOT EVALUABLE, so no figure passes" in words
    pages = sorted(path.parent.name for path in (tmp_path / "pages").glob("*/report.html"))
    assert pages == [
        f"test_mine.py-{name}" for name in ("test_holds", "test_low", "test_not_evaluable", "test_overstated")
    ]
    assert "robustness_page" in (tmp_path / "junit.xml").read_text()
    assert "1 passed, 5 deselected" in session("-m", "not robustness")


def test_pytest_starts_without_torch() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert named == {"unfooled": pytest_plugin.__name__}
    code = "import sys, unfooled.cli.pytest_plugin; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_action_calls_a_command_that_exists() -> None:
    from unfooled.cli.app import app

    group: Any = main.get_command(app)
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    script = text[text.index("      run: |") : text.index("- name: Keep the page")]
    known = {name for option in group.commands["audit"].params for name in option.opts}
    used = set(re.findall(r"--[a-z-]+", script))
    assert {"--fail-under", "--junit", "--sarif", "--baseline"} <= used <= known
    inputs = set(re.findall(r"inputs\.([a-z-]+)", text))
    assert inputs <= set(re.findall(r"^  ([a-z-]+): \{", text, re.MULTILINE))
