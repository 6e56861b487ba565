"""Every script in examples/ runs, stays short, and prints figures that agree with each other."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from tests.unit import test_lime_tutorials as lime_tutorials

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

    def __call__(self, name: str, *more: str, n: int = 40, epochs: int | None = 2) -> list[str]:
        path = ROOT / "examples" / f"{name}.py"
        epochs_asked = [] if epochs is None else ["--epochs", str(epochs)]
        self.patch.setattr(sys, "argv", [str(path), "--n", str(n), *epochs_asked, *more])
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
        "counterfactual_head",
        "counterfactual_images",
        "explain_under_attack",
        "explanation_robustness",
        "harden",
        "harden_explanations",
        "invert_features",
        "lens_scores",
        "lime_adult",
        "lime_digits",
        "lime_iris",
        "lime_newsgroups",
        "lime_pick",
        "lime_topics",
        "own_attack",
        "purify_digits",
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


def test_counterfactual_head(printed: Printed) -> None:
    lines = printed("counterfactual_head", n=100, epochs=60)
    predicted = lines[0].removeprefix("predicted: ")
    anything, constrained = (numbers(line)[0] for line in lines[1:3])
    assert 0 < abs(anything) <= abs(constrained)
    assert "shape=" not in lines[2]
    assert lines[3].startswith("binary attributes: 1 exchange, ")
    costs = {line.split(": ")[0].removeprefix("to "): numbers(line)[0] for line in lines[4:8]}
    assert costs.pop(predicted) == 0
    assert 0 < min(costs.values()) <= abs(anything) + 1e-3  # l_2 is at most l_1
    median, low, high = numbers(lines[8])
    assert low < median < high
    assert "not a robustness measure" in lines[9]


def test_counterfactual_images(printed: Printed) -> None:
    lines = printed("counterfactual_images", n=80, epochs=6)
    assert len(numbers(lines[0])) == 5
    assert min(numbers(lines[0])) > 0.8
    record = json.loads(Path("edits/counterfactual.json").read_text(encoding="utf-8"))
    answers = {line.split()[0]: line for line in lines if ".png" in line}
    assert list(answers) == ["0000.png", "0001.png", "0002.png"]
    for one in record["results"]:
        assert answers[one["item"]].endswith(one["sentence"])
        assert one["outcome"] in ("done", "unrealised", "infeasible")
    assert sum("targeted PGD: valid True" in line for line in lines) == 3
    assert lines[-1] == "page: edits/counterfactual.html"
    assert Path("edits/counterfactual.html").is_file()


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


# LIME's tutorials

TEXTS = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")).resolve() / "text_tabular"
few = pytest.mark.filterwarnings("ignore:.*few effective samples")


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts and tables of the data folder, wherever a script runs."""
    if not TEXTS.is_dir():
        pytest.skip("UNFOOLED_DATA has no text_tabular")
    monkeypatch.setenv("UNFOOLED_DATA", str(TEXTS.parent))


@few
@pytest.mark.usefixtures("texts")
def test_lime_newsgroups(printed: Printed) -> None:
    """At full size: header words decide, and without them the prediction moves as the explanation says."""
    lines = printed("lime_newsgroups", n=1000, epochs=None)
    assert numbers(lines[0])[0] == pytest.approx(0.908, abs=0.005)
    for document, first in ((83, 1), (300, 3)):
        assert lines[first].startswith(f"document {document}: ")
        words = [part.split()[0] for part in lines[first].partition(": ")[2].split(", ")]
        assert len(words) == 6
        assert {"Host", "Posting"} <= set(words)
        assert {"NNTP", "Nntp"} & set(words)
        said, error, moved, after = numbers(lines[first + 1])
        assert said > 0.05
        assert moved > 0.05
        assert abs(said - moved) <= error
        assert after > moved


@few
@pytest.mark.usefixtures("texts")
def test_lime_topics(printed: Printed) -> None:
    lines = printed("lime_topics", "--samples", "150", n=80, epochs=None)
    assert numbers(lines[0])[0] > 0.6
    assert len(lines) == 1 + 3 * 3, "two labels for each of three texts"
    for first in (1, 4, 7):
        labels = [line.split(":")[0].strip() for line in lines[first + 1 : first + 3]]
        assert len(set(labels)) == 2
        assert all(len(numbers(line)) == 6 for line in lines[first + 1 : first + 3])


def test_lime_iris(printed: Printed) -> None:
    lines = printed("lime_iris", "--trees", "10", n=600, epochs=None)
    assert numbers(lines[0])[0] > 0.9
    ours = next(k for k, line in enumerate(lines) if "standard errors" in line)
    assert ours == 4, "two features by lime's calls"
    assert "petal" in lines[2]
    assert "petal" in lines[ours + 1]
    assert len(lines) == ours + 5
    assert lines[1].split(",")[0] == lines[ours].split(",")[0]


@pytest.mark.usefixtures("texts")
def test_lime_adult(printed: Printed) -> None:
    lines = printed("lime_adult", "--trees", "10", "--samples", "400", n=1500, epochs=None)
    assert numbers(lines[0])[0] > 0.75
    assert [line.split(":")[0] for line in lines[1::6]] == ["row 0", "row 1"]
    assert any(" = " in line for line in lines)
    for line in (*lines[2:7], *lines[8:]):
        weight, low, high = numbers(line.partition("  ")[2].strip()[-28:])
        assert low <= weight <= high


def test_lime_digits(printed: Printed, tmp_path: Path) -> None:
    lines = printed("lime_digits", "--samples", "128", n=6, epochs=1)
    clean, attacked, rank = numbers(lines[0])
    assert max(clean, attacked) <= 1
    assert -1 < rank < 1
    assert 0 < numbers(lines[1])[0] <= 1
    assert {path.name for path in tmp_path.glob("*.png")} == {"lime_clean.png", "lime_attacked.png"}


def test_lime_digits_of_a_forest(printed: Printed) -> None:
    lines = printed("lime_digits", "--samples", "128", "--forest", n=3)
    assert len(lines) == 3
    assert all(line.count("cell") == 3 and 0.1 < numbers(line)[0] <= 1 for line in lines)


def test_lime_pick(printed: Printed) -> None:
    lines = printed("lime_pick", "--samples", "100", n=8, epochs=None)
    kinds = [line.split()[0] for line in lines]
    assert kinds == ["text"] * 3 + ["picked"] + ["flower"] * 3 + ["patient"] * 3
    covered, by_chance = numbers(lines.pop(3))
    assert 1 >= covered > by_chance > 0
    gains = [numbers(line)[0] for line in lines[:3]]
    assert gains == sorted(gains, reverse=True)
    assert any(word in lines[0] for word in ("'bad' leads", "'good' leads"))
    assert all("petal" in line or "sepal" in line for line in lines[3:6])


def test_purify_digits(printed: Printed) -> None:
    rows = {line.split("  ")[0]: numbers(line)[-1] for line in printed("purify_digits", epochs=6)}
    assert rows["clean"] > 0.85
    assert rows["static"] > rows["bare network"]
    assert rows["worst"] <= min(rows["BPDA"], rows["end to end"], rows["static"])
    assert rows["worst"] < rows["static"]


NOTEBOOKS = {
    "basic usage, two class": test_lime_newsgroups,
    "multiclass": test_lime_topics,
    "continuous features": test_lime_iris,
    "categorical features": test_lime_adult,
    "H2O": lime_tutorials.test_a_model_of_frames,
    "images, basic": lime_tutorials.test_images_of_any_callable_natively,
    "images, Keras and PyTorch": lime_tutorials.test_the_calls_of_the_image_notebooks,
    "images, clean and attacked": test_lime_digits,
    "faces and gradient boosting": lime_tutorials.test_faces_like_images_by_principal_components,
    "MNIST and a forest": test_lime_digits_of_a_forest,
    "MNIST and a forest, lime's calls": lime_tutorials.test_a_forest_on_grey_digits,
    "regression": lime_tutorials.test_a_regression,
    "recurrent": lime_tutorials.test_a_recurrent_network,
    "Latin hypercube": lime_tutorials.test_a_latin_hypercube_around_a_row,
    "submodular pick": test_lime_pick,
}
"""Tests that run LIME's notebooks at reduced size."""


def test_each_notebook_of_lime_has_its_test() -> None:
    ours = {name for name in {**globals(), **vars(lime_tutorials)} if name.startswith("test_")}
    run = {test.__name__ for test in NOTEBOOKS.values()}
    assert run <= ours
    assert {name for name in ours if name.startswith("test_lime_")} <= run, "an example of lime is no notebook's"
    assert {name for name in vars(lime_tutorials) if name.startswith("test_")} <= run
