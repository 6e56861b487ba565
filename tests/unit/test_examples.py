"""Every script in examples/ runs, stays short, and prints figures that agree with each other."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Printed:
    monkeypatch.chdir(tmp_path)
    return Printed(monkeypatch, capsys)


class Printed:
    """Runs a script as `python examples/NAME.py --n ... --epochs ...` and returns the lines that it printed."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capsys = patch, capsys

    def __call__(self, name: str, *more: str, n: int = 40, epochs: int = 2) -> list[str]:
        path = ROOT / "examples" / f"{name}.py"
        self.patch.setattr(sys, "argv", [str(path), "--n", str(n), "--epochs", str(epochs), *more])
        runpy.run_path(str(path), run_name="__main__")
        return self.capsys.readouterr().out.splitlines()


def numbers(line: str) -> list[float]:
    """The decimal fractions in a line."""
    return [float(found) for found in re.findall(r"-?\d+\.\d+", line)]


def test_each_is_tested() -> None:
    names = {path.stem for path in SCRIPTS}
    assert names == {
        "adaptive_attack",
        "attention_under_attack",
        "audit_in_python",
        "explain_under_attack",
        "explanation_robustness",
        "harden",
        "harden_explanations",
        "invert_features",
        "lens_scores",
        "own_attack",
        "robustness_curve",
    }


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_scripts_are_short_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    assert f"python examples/{path.name}" in text
    assert path.name in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small_audits")
def test_audit_in_python(printed: Printed, tmp_path: Path) -> None:
    lines = printed("audit_in_python", "--out", str(tmp_path / "run"), n=20, epochs=1)
    found = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    said = {line.split()[0]: numbers(line) for line in lines if re.match(r"\w+_\w+ ", line)}
    assert set(said) == {"clean_accuracy", "robust_accuracy", "attack_success_rate"}
    for name, values in said.items():
        assert values == pytest.approx([found[name][k] for k in ("value", "low", "high")], abs=6e-4)
    assert 0 < said["robust_accuracy"][0] < said["clean_accuracy"][0]
    curve = [numbers(line)[1] for line in lines if line.startswith("eps ")]
    assert curve == sorted(curve, reverse=True)
    assert curve[0] == said["clean_accuracy"][0]
    moved = [line for line in lines if " fooled " in line and "not fooled" in line]
    assert len(moved) == len(found["movements"]) == 3
    assert lines[-1] == f"page: {tmp_path / 'run' / 'report.html'}"
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").count("A small network") >= 1


def test_robustness_curve(printed: Printed) -> None:
    lines = printed("robustness_curve")
    points = [numbers(line) for line in lines if line.startswith("eps ")]
    assert [eps for eps, _ in points] == [0, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24]
    accuracy = [share for _, share in points]
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[0] > 0.6
    assert accuracy[-1] < 0.2
    forward, backward = numbers(lines[-1])
    assert 8 < forward < 8 * 31
    assert backward < forward


def test_harden(printed: Printed) -> None:
    lines = printed("harden", epochs=1)
    rows = {line.split()[0]: numbers(line) for line in lines[1:]}
    assert set(rows) == {"standard", "madry", "trades"}
    for clean, low, high, robust, robust_low, robust_high in rows.values():
        assert low <= clean <= high
        assert robust_low <= robust <= robust_high
        assert robust < clean
    assert rows["madry"][3] > rows["standard"][3]


def test_explain_under_attack(printed: Printed) -> None:
    lines = printed("explain_under_attack")
    fooled, held = (int(k) for k in re.findall(r"(\d+) (?:fooled|not fooled)", lines[0]))
    assert 0 < fooled < 40
    assert 0 < held < 40
    rows = {line.split()[0]: numbers(line) for line in lines[2:6]}
    assert set(rows) == {"saliency", "input_x_gradient", "integrated_gradients", "grad_cam"}
    for kept_fooled, kept_held, rank_fooled, rank_held in rows.values():
        assert min(kept_fooled, kept_held) > 0.09
        assert max(kept_fooled, kept_held, rank_fooled, rank_held) < 1


def test_explanation_robustness(printed: Printed) -> None:
    lines = printed("explanation_robustness", n=16)
    assert [line.split(":")[0] for line in lines[::4]] == ["standard", "hardened"]
    for first in (1, 5):
        rows = [numbers(line) for line in lines[first : first + 3]]
        attack, best, single = rows
        assert lines[first + 1].split()[:3] == ["best", "of", "49"]
        assert all(len(row) == 4 and row[0] <= row[1] for row in rows)  # corrected LENS is below the raw score
        assert attack[0] < single[0]
        assert best[0] <= single[0]


def test_harden_explanations(printed: Printed) -> None:
    lines = printed("harden_explanations", epochs=4)
    rows = {line.split()[0]: numbers(line) for line in lines[1:]}
    assert set(rows) == {"standard", "input-gradient", "madry", "igr"}
    assert all(clean > 0.6 and -1 < tau < 1 and 0 < top < 1 for clean, tau, top in rows.values())
    assert rows["igr"][1] > rows["standard"][1]


def test_lens_scores(printed: Printed) -> None:
    rows: dict[str, list[list[float]]] = {}
    for line in printed("lens_scores")[1:-1]:
        rows.setdefault(line[:20].strip(), []).append(numbers(line))
    assert set(rows) == {"attack on the label", "random signs", "another image"}
    for found in rows.values():
        assert len(found) == 3
        raw, level = ([row[i] for row in found] for i in (0, 1))
        assert raw == sorted(raw)
        assert level == sorted(level)
    for other in ("attack on the label", "random signs"):
        assert rows[other][1][2] > rows["another image"][1][2] + 0.1


def test_attention_under_attack(printed: Printed) -> None:
    lines = printed("attention_under_attack")
    rows = {line[:22].strip(): numbers(line) for line in lines[1:]}
    assert set(rows) == {"clean", "noise of equal size", "pgd, on the label", "attention_hold"}
    assert rows["clean"][2:4] == [0, 0]
    assert rows["attention_hold"][3] > 2 * rows["noise of equal size"][3]
    assert rows["pgd, on the label"][0] > rows["clean"][0]
    assert rows["attention_hold"][0] == rows["clean"][0], "the prediction is held"


def test_own_attack(printed: Printed) -> None:
    rows = [numbers(line)[-2:] for line in printed("own_attack")]
    assert [inside for inside, _ in rows] == [1, 1, 1]
    changed = [share for _, share in rows]
    assert changed == sorted(changed)
    assert changed[-1] > changed[0]
    assert changed[-1] > 0.5


def test_invert_features(printed: Printed) -> None:
    rows = {line.split()[0]: numbers(line) for line in printed("invert_features", epochs=3)}
    assert set(rows) == {"standard", "hardened"}
    for residual, gradients, seen, before, after in rows.values():
        assert residual <= 0.05
        assert 1 < gradients < 101
        assert seen > 0.8
        assert after < 0.9 * before
    assert rows["standard"][3] == rows["hardened"][3]


def test_adaptive_attack(printed: Printed) -> None:
    rows = {line.split("  ")[0]: numbers(line) for line in printed("adaptive_attack", epochs=4)}
    assert len(rows) == 5
    plain, through, estimated, twin, labels = (value[-1] for value in rows.values())
    assert min(through, estimated, twin) < plain - 0.1
    assert max(through, estimated, twin, labels) <= plain
