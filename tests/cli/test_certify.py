"""`unfooled certify` and `unfooled audit --certify`: figures, files, the second check, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_study import run

from unfooled import BadInput
from unfooled.workflows import Inputs, certify

CODE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).eval()

def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)).eval()

def unknown():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.GELU()).eval()

def data():
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, net()(x).argmax(1)
"""
BASE = ("--data", "mine.py:data", "--n", "12", "--threat", "linf:0.004")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path


def test_proofs_are_written_and_checked_again(home: Path) -> None:
    out, _ = run(home, "certify", "--model", "mine.py:net", *BASE, "--out", "proofs", "--json")
    record: dict[str, Any] = json.loads(out)
    assert record["n"] == 12
    assert record["out"] == "proofs.safetensors"
    assert 0 < record["certified_accuracy"]["value"] <= record["clean_accuracy"]["value"] == 1
    assert record["certified_accuracy"]["value"] + record["open"] + record["examples"] / 12 == pytest.approx(1)
    out, _ = run(home, "certify", "--model", "mine.py:net", *BASE, "--check", "proofs.safetensors", "--json")
    again: dict[str, Any] = json.loads(out)
    assert again["certified_accuracy"] == record["certified_accuracy"]
    assert again["rechecked"]
    _, err = run(home, "certify", "--model", "mine.py:other", *BASE, "--check", "proofs.safetensors", code=2)
    assert "belongs to another model" in err
    data = bytearray((home / "proofs.safetensors").read_bytes())
    data[-2] ^= 1
    (home / "proofs.safetensors").write_bytes(data)
    _, err = run(home, "certify", "--model", "mine.py:net", *BASE, "--check", "proofs.safetensors", code=2)
    assert "was changed" in err


def test_examples_of_the_search_are_shown_stored_and_judged_again(home: Path) -> None:
    base = (*BASE[:-1], "linf:0.06")
    out, _ = run(home, "certify", "--model", "mine.py:net", *base, "--effort", "thorough", "--out", "p", "--json")
    record: dict[str, Any] = json.loads(out)
    assert record["examples"] > 0
    out, _ = run(home, "certify", "--model", "mine.py:net", *base, "--check", "p.safetensors", "--json")
    again: dict[str, Any] = json.loads(out)
    assert {k: again[k] for k in ("examples", "open", "certified_accuracy")} == {
        k: record[k] for k in ("examples", "open", "certified_accuracy")
    }
    assert again["effort"] == "check"
    out, _ = run(home, "certify", "--model", "mine.py:net", *base, "--check", "p.safetensors")
    assert f"broken              {100 * record['examples'] / 12:.1f} % by the search" in out


def test_a_second_start_goes_on_where_the_first_was_stopped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("unfooled.workflows.certifying.CHUNK", 5)
    inputs, steps = Inputs("mine.py:net", "mine.py:data", n=12), []

    def stop(stage: str, done: int, total: int) -> None:
        steps.append((stage, done, total))
        if done == 5 and len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        certify(inputs, "linf:0.004", out="proofs.safetensors", progress=stop)
    assert not (home / "proofs.safetensors").exists()
    with pytest.raises(BadInput, match="threat was"):
        certify(inputs, "linf:0.005", out="proofs.safetensors")
    with pytest.raises(BadInput, match="effort was"):
        certify(inputs, "linf:0.004", effort="quick", out="proofs.safetensors")
    record = certify(inputs, "linf:0.004", out="proofs.safetensors", progress=stop)
    assert steps == [("certify", done, 12) for done in (0, 5, 0, 5, 10, 12)]
    assert not (home / "proofs.safetensors.parts").exists()
    plain = certify(inputs, "linf:0.004")
    assert record.certified_accuracy == plain.certified_accuracy
    assert certify(inputs, "linf:0.004", check="proofs.safetensors").certified_accuracy == plain.certified_accuracy


def test_smoothing_says_whose_figures_they_are(home: Path) -> None:
    base = (*BASE[:-1], "l2:0.01")
    out, _ = run(home, "certify", "--model", "mine.py:unknown", *base, "--effort", "smoothing:0.1", "--draws", "50")
    assert "at least of the smoothed classifier" in out
    assert "no radius exceeds" in out
    base = (*BASE[:-1], "l0:1")
    out, _ = run(home, "certify", "--model", "mine.py:unknown", *base, "--effort", "smoothing:3", "--draws", "50")
    assert "at least of the smoothed classifier" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "mine.py:unknown", *BASE), "uses gelu, which cannot be bounded"),
        (("--model", "mine.py:net", *BASE, "--effort", "thorogh"), "did you mean thorough"),
        (("--model", "mine.py:net", *BASE, "--effort", "noise"), "smoothing:SIGMA"),
        (("--model", "mine.py:net", *BASE, "--check", "a.safetensors", "--out", "b.safetensors"), "leave out --out"),
        (("--model", "mine.py:net", *BASE, "--effort", "smoothing:0.1"), "bounds changes in L2, L1 or L0"),
        (("--model", "mine.py:net", *BASE[:-1], "l2:1", "--effort", "smoothing"), "needs the size of the noise"),
        (("--model", "mine.py:net", *BASE[:-1], "l2:1", "--effort", "smoothing:1", "--out", "a"), "leave out --out"),
        (("--model", "mine.py:net", *BASE[:-1], "l0:3"), "--effort smoothing:45"),
        (("--model", "mine.py:net", *BASE[:-1], "l0:3", "--effort", "smoothing:1.5"), "a whole number of entries"),
        (("--model", "mine.py:net", *BASE, "--check", "none.safetensors"), "there is no certificate"),
    ],
)
def test_what_cannot_be_certified_is_refused(home: Path, arguments: tuple[str, ...], words: str) -> None:
    _, err = run(home, "certify", *arguments, code=2)
    assert words in " ".join(err.split())


def test_an_audit_prints_both_ends(home: Path) -> None:
    options = ("--effort", "quick", "--reasons", "none", "--certify", "quick")
    out, _ = run(home, "audit", "--model", "mine.py:net", *BASE, *options, "--fail-under", "certified_accuracy=0.01")
    assert "robust accuracy, at least (proven)" in out
    assert "open, neither proven nor broken" in out


def test_a_bound_on_proofs_where_there_are_none_is_below_it(home: Path) -> None:
    options = ("--effort", "quick", "--reasons", "none", "--fail-under", "certified_accuracy=0.01")
    _, err = run(home, "audit", "--model", "mine.py:unknown", *BASE, *options, code=3)
    assert "defect" not in err


def test_an_audit_prints_what_the_smoothed_classifier_proves(home: Path) -> None:
    options = ("--effort", "quick", "--reasons", "none", "--certify", "smoothing:0.1")
    out, _ = run(home, "audit", "--model", "mine.py:net", *BASE[:-1], "l2:0.02", *options, "--out", "run")
    assert "smoothed classifier, at least" in out
    assert "robust accuracy, at least (proven)" not in out
    assert "The smoothed classifier answers with the majority class" in (home / "run" / "report.html").read_text()
    of_command, _ = run(
        home, "certify", "--model", "mine.py:net", *BASE[:-1], "l2:0.02", "--effort", "smoothing:0.1", "--json"
    )
    smoothed = json.loads((home / "run" / "summary.json").read_text())["smoothed"]
    assert smoothed["certified_accuracy"] == json.loads(of_command)["certified_accuracy"]


@pytest.mark.parametrize(
    ("threat", "certify", "words"),
    [
        ("linf:0.1", "smoothing:0.25", "bounds changes in L2, L1 or L0"),
        ("l2:1", "smoothing", "--certify smoothing: smoothing needs the size of the noise"),
        ("l2:1", "smoothing:SIGMA", "the size of the noise is 'SIGMA'; write a number"),
        ("l2:1", "smoothing:1_0", "write a number"),
        ("l2:1", "smoothing:-1", "--certify smoothing:-1: the noise of smoothing has size -1; give one above 0"),
        ("l2:1", "smoothing:0.1", "no radius above 0.246, and eps is 1; give smoothing:0.406 or more"),
        ("l0:3", "smoothing:60", "give smoothing:"),
        ("l0:3", "smoothing:64", "smoothing:64 keeps all of the 64 entries"),
    ],
)
def test_smoothing_that_can_prove_nothing_is_refused(home: Path, threat: str, certify: str, words: str) -> None:
    for command, option in (("audit", "--certify"), ("certify", "--effort")):
        _, err = run(home, command, "--model", "mine.py:net", *BASE[:-1], threat, option, certify, code=2)
        assert words.replace("--certify", option) in " ".join(err.split())


@pytest.mark.parametrize("certify", ["smoothing:0.25", "off"])
def test_a_bound_on_proofs_that_are_not_made_is_refused(home: Path, certify: str) -> None:
    bound = ("--fail-under", "certified_accuracy=0.1", "--certify", certify)
    _, err = run(home, "audit", "--model", "mine.py:net", *BASE[:-1], "l2:0.1", *bound, code=2)
    assert f"--certify {certify} proves nothing of the model itself" in " ".join(err.split())
