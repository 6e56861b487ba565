"""`unfooled lime`: pages and JSON of images, texts, table rows and picks; what is refused, in one sentence."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.test_cli import run
from tests.contract.test_lime_page import check_page

from unfooled import workflows
from unfooled.explanations import Surrogates
from unfooled.models import SmallCnn
from unfooled.workflows import BadOption, LimeOptions, TableOptions, TextOptions
from unfooled.workflows.predicting import opened

CODE = """
import numpy as np

def predict(texts):
    assert isinstance(texts, list)
    p = np.array([0.8 * ("bad" in t) + 0.1 * ("long" in t) for t in texts])
    return np.stack([1 - p, p], axis=1)

def score(texts):
    return [2.0 * ("bad" in t) for t in texts]

def fails(texts):
    raise KeyError("weights")

def leaves(texts):
    raise SystemExit(0)

def broken():
    raise RuntimeError("no weights")

def nothing():
    return None

number = 5

class Linear:
    classes_ = np.array(["no", "yes"])

    def predict_proba(self, x):
        x = np.asarray(x, dtype=object)
        p = 1 / (1 + np.exp(-(2 * x[:, 0].astype(float) + (x[:, 2] == "red"))))
        return np.stack([1 - p, p], axis=1)

class Votes:
    classes_ = np.array(["no", "yes"])

    def predict(self, x):
        return np.where(np.asarray(x)[:, 0].astype(float) > 0, "yes", "no")

class Fitted(Linear):
    feature_names_in_ = np.array(["size", "noise", "colour"])

class Needs:
    def __init__(self, weights):
        self.weights = weights

linear = Linear()

def regression(x):
    return 3 * np.asarray(x)[:, 0].astype(float)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lime")
    (folder / "own.py").write_text(CODE)
    (folder / "film.txt").write_text("This is a bad film, and a long one")
    (folder / "empty.txt").write_text("")
    (folder / "marks.txt").write_text("... !!!")
    (folder / "others.json").write_text('{"good": 1.0}')
    (folder / "films.txt").write_text("a bad film\na good film\na long film\nthe bad end\n")
    draw = np.random.default_rng(0)
    rows = [
        [f"{a:.3f}", f"{b:.3f}", c, "7"]
        for a, b, c in zip(*draw.normal(size=(2, 80)), ["red", "blue"] * 40, strict=False)
    ]
    for name, table in {
        "train.csv": [["size", "noise", "colour", "same", "paid"], *([*row, "yes"] for row in rows)],
        "new.csv": [["colour", "size", "same", "noise"], ["red", "1.5", "7", "0"], ["green", "0", "7", "1"]],
        "other.csv": [["colour", "size", "same", "sound"], ["red", "1.5", "7", "0"]],
        "gap.csv": [["colour", "size", "same", "noise"], ["red", "", "7", "0"]],
        "only.csv": [["paid"], ["yes"], ["no"]],
    }.items():
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    torch.manual_seed(0)
    net = SmallCnn((1, 8, 8), 10)
    torch.save({"model": net.state_dict(), "arch": "small-cnn", "input_shape": [1, 8, 8]}, folder / "net.pt")
    return folder


TABLE = ("lime", "table", "--train", "train.csv", "--label", "paid", "--samples", "300", "--stability", "20")


def result_of(home: Path, out: str) -> tuple[Surrogates, dict[str, Any], str]:
    text = (home / out / "lime.json").read_text()
    return Surrogates.from_json(text), json.loads(text)["record"], (home / out / "lime.html").read_text()


def test_a_text(home: Path) -> None:
    done = run(home, "lime", "text", "--model", "own.py:predict", "--text", "film.txt", "--out", "text")
    result, record, page = result_of(home, "text")
    assert dict(result.as_list())["bad"] == pytest.approx(0.8, abs=1e-6)
    assert int(result.y) == 1
    assert record["explanations"][0]["classes"][0]["features"][0]["name"] == "bad"
    assert re.search(r"bad +\+0\.8 ", done.stdout)
    assert re.search(r"^class .*R2 held out 1\.00$", done.stdout, re.MULTILINE)
    assert "soft stability 1.00" in done.stdout
    assert done.stdout.rstrip().endswith("text/lime.html\ntext/lime.json")
    assert "Soft stability" in page
    check_page(page, 0)
    assert run(home, "lime", "text", "--model", "own.py:predict", "--text", "film.txt", "-q").stdout == ""


def test_a_text_from_standard_input_and_its_options(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"bad. bad film! long")))
    (home / "names.txt").write_text("good\nnegative\n")
    words = ("--text", "-", "--split", "sentences", "--unit", "positions", "--hide", "[MASK]", "--of", "good,1")
    done = run(
        home, "lime", "text", "--model", "own.py:predict", *words, "--labels", "names.txt", "--out", "b", "--json"
    )
    record = json.loads(done.stdout)
    assert [found["name"] for found in record["explanations"][0]["classes"]] == ["good", "negative"]
    result, _, page = result_of(home, "b")
    assert result.names == (("bad.", "bad film!", "long"),)
    assert "[MASK]" in result.baseline
    assert "class negative" in page
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"bad")))
    run(home, "lime", "text", "--model", "own.py:predict", "--text", "-", "--split", "characters", "--top-labels", "2")


def test_a_text_without_features_and_a_regression(home: Path) -> None:
    done = run(home, "lime", "text", "--model", "own.py:predict", "--text", "empty.txt", "--out", "none")
    assert "no features" in done.stdout
    assert "There are no features" in (home / "none/lime.html").read_text()
    done = run(home, "lime", "text", "--model", "own.py:score", "--text", "film.txt", "--out", "score")
    assert "output 0" in done.stdout
    value, low, high = result_of(home, "score")[1]["explanations"][0]["stability"]
    assert 0 <= low <= value <= high <= 1
    assert "soft stability" in done.stdout
    assert "the answer stays on its side of that with all features hidden" in (home / "score/lime.html").read_text()
    run(home, "lime", "text", "--model", "own.py:score", "--text", "film.txt", "--stability", "0", "--out", "score")
    assert "Soft stability was not measured; <code>with_text_stability" in (home / "score/lime.html").read_text()


def test_few_samples_are_said_in_words(home: Path) -> None:
    words = ("--samples", "20", "--stability", "0")
    done = run(home, "lime", "text", "--model", "own.py:predict", "--text", "film.txt", *words, "--out", "few")
    assert "More samples needed" in done.stdout
    assert "soft stability" not in done.stdout
    assert "More samples needed" in (home / "few/lime.html").read_text()


@pytest.mark.parametrize("model", ["own.py:linear", "own.py:Linear", "own:Linear"])
def test_rows(home: Path, model: str) -> None:
    done = run(home, *TABLE, "--model", model, "--csv", "new.csv", "--row", "0,1", "--out", "rows")
    result, record, page = result_of(home, "rows")
    assert result.classes == ("no", "yes")
    assert dict(result[0].as_list())["colour = red"] > 0
    assert [one["item"] for one in record["explanations"]] == ["row 0", "row 1"]
    assert record["warnings"] == ["Constant columns are not used as features: same."]
    assert "row 0: yes" in done.stdout
    for text in ("<td>green</td>", "not in training", "<td>1.5</td>", "<td>constant</td>", "Soft stability"):
        assert text in page
    check_page(page, 0)


def test_a_regression_of_a_row_of_the_training_table(home: Path) -> None:
    done = run(home, *TABLE, "--model", "own.py:regression", "--row", "3", "--out", "regression")
    assert "row 3 (label yes)" in done.stdout
    page = (home / "regression/lime.html").read_text()
    assert "between the least and the largest seen" in page
    assert "the answer stays on its side of that with all features hidden" in page
    again = run(home, *TABLE, "--model", "own.py:Votes", "--row", "3", "--out", "votes", "--sampler", "hidden")
    assert "class yes" in again.stdout or "class no" in again.stdout


def test_frames_where_the_model_was_fitted_on_frames(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    said = run(home, *TABLE, "--model", "own.py:Fitted", "--out", "frames", code=2).stderr
    assert "a frame needs pandas: pip install pandas" in said
    assert "pandas" in run(home, *TABLE, "--model", "own.py:Linear", "--frame", code=2).stderr
    run(home, *TABLE, "--model", "own.py:Fitted", "--array", "--out", "frames", "-q")


@pytest.mark.parametrize(
    "words", [("--train", "train.csv", "--label", "paid", "--model", "own.py:linear"),
              ("--text", "films.txt", "--model", "own.py:predict")]
)  # fmt: skip
def test_a_pick(home: Path, words: tuple[str, ...]) -> None:
    line = (
        "lime",
        "pick",
        *words,
        "--n",
        "4",
        "--budget",
        "2",
        "--samples",
        "200",
        "--out",
        "pick",
        "--stability",
        "20",
    )
    done = run(home, *line)
    assert done.stdout.startswith("2 of 4 picked")
    result, record, page = result_of(home, "pick")
    assert len(result) == 2
    assert len(record["pick"]["index"]) == 2
    assert record["pick"]["among"] == 4
    assert 1 >= record["pick"]["covered"] >= record["pick"]["by_chance"] > 0
    assert f"They cover {record['pick']['covered']:.0%} of what matters, 2 at random" in page
    assert next(iter(record["pick"]["importance"])) in ("bad", *result.names[0], *result.names[1])
    assert "that cover what matters" in page
    check_page(page, 0)
    assert json.loads(run(home, *line, "--json").stdout)["pick"] == record["pick"]


def test_images(home: Path) -> None:
    line = ("lime", "image", "--model", "net.pt", "--index", "0,3", "--samples", "64", "--device", "cpu")
    done = run(home, *line, "--segments", "grid:3", "--baseline", "0.5", "--out", "image", "--stability", "20")
    assert "segment " in done.stdout
    result, record, page = result_of(home, "image")
    assert "constant" in result.baseline
    assert [one["item"] for one in record["explanations"]] == ["sample 0", "sample 3"]
    assert "Soft stability" in page
    check_page(page, 4)
    run(home, *line, "--of", "label", "--score", "lead", "--sampler", "bernoulli", "--out", "image", "-q")


MODEL = "--model own.py:predict"
REFUSED = [
    (f"text {MODEL} --text absent.txt", "there is no file absent.txt"),
    (f"text {MODEL} --text marks.txt", "nothing is left of the text '... !!!' after splitting"),
    (f"text {MODEL} --text film.txt --of spam", "--of has 'spam', which is no class of the model; there are 0 to 1"),
    (f"text {MODEL} --text film.txt --of 2", "--of has '2'"),
    (f"text {MODEL} --text film.txt --of label", "--of label needs labels"),
    (f"text {MODEL} --text film.txt --top-labels 3", "--top-labels is 3, and the model returns 2 outputs"),
    (f"text {MODEL} --text film.txt --top-labels 1 --of 1", "--of and --top-labels"),
    (f"text {MODEL} --text film.txt --samples 0", "--samples is 0"),
    (f"text {MODEL} --text film.txt --split lines", "there is no split 'lines'"),
    (f"text {MODEL} --text film.txt --sampler bins", "there is no sampler 'bins'"),
    (f"text {MODEL} --text film.txt --link logit", "there is no link 'logit'"),
    (f"text {MODEL} --text film.txt --labels train.csv", "names 81 classes, and the model returns 2"),
    (f"text {MODEL} --text film.txt --out film.txt", "cannot write film.txt"),
    (f"text {MODEL} --text film.txt --seed -1", "--seed is -1"),
    ("text --model own.py:score --text film.txt --of 1", "let the model return [1 - p, p] for each input"),
    ("text --model own.py:fails --text film.txt", "own.py:fails raised KeyError: 'weights' (it was given 1 inputs"),
    ("text --model own.py:leaves --text film.txt", "own.py:leaves raised SystemExit"),
    ("text --model own.py:broken --text film.txt", "own.py:broken() raised RuntimeError: no weights"),
    ("text --model own.py:nothing --text film.txt", "own.py:nothing() is a NoneType"),
    ("text --model own.py:number --text film.txt", "own.py:number is a int"),
    ("text --model own.py:Needs --text film.txt", "own.py:Needs is a class that needs arguments"),
    ("text --model own.py:absent --text film.txt", "has no 'absent'"),
    ("text --model own.py --text film.txt", "give file.py:name"),
    ("text --model model.joblib --text film.txt", "a pickled model could run any code"),
    ("text --model own.py:Linear --text film.txt", "own.py:Linear() raised"),
    ("table --model own.py:Linear --train train.csv --label payed", "has no column 'payed'; did you mean paid"),
    ("table --model own.py:Linear --train absent.csv", "there is no file absent.csv"),
    ("table --model own.py:Linear --train only.csv --label paid", "has no column but the labels"),
    (
        "table --model own.py:Linear --train train.csv --label paid --row 80",
        "--row is 80, and there are 80 rows, 0 to 79",
    ),
    ("table --model own.py:Linear --train train.csv --row -1", "--row is '-1'"),
    ("table --model own.py:Linear --train train.csv --csv other.csv --label paid", "column 'sound' that was not in tr"),
    ("table --model own.py:Linear --train train.csv --csv new.csv", "new.csv has no column 'paid'"),
    ("table --model own.py:Linear --train train.csv --csv gap.csv --label paid", "column 'size' is missing in the row"),
    ("table --model own.py:Linear --train train.csv --label paid --group size,nose", "has no column 'nose'"),
    ("table --model own.py:Linear --train train.csv --label paid --sampler around:-1", "scale is -1.0"),
    ("table --model own.py:Linear --train train.csv --label paid --sampler bins:3", "bins takes no options"),
    ("table --model own.py:Linear --train train.csv --label paid --sampler hidden:3", "hidden takes no options"),
    ("table --model own.py:Linear --train train.csv --label paid --samples 3", "draw at least"),
    ("table --model own.py:Linear --train train.csv --bins thirds", "there is no bins 'thirds'"),
    (f"pick {MODEL}", "give --text for texts or --train for a table"),
    (f"pick {MODEL} --text films.txt --budget 0", "--budget is 0"),
    (f"pick {MODEL} --text films.txt --cover all", "there is no cover 'all'"),
    ("image --model net.pt --index x", "--index is 'x'"),
    ("image --model net.pt --index 9999", "--index is 9999, and there are"),
    ("image --model net.pt --segments squares", "there is no segments 'squares'"),
    ("image --model net.pt --segments slic:size=3", "slic has no option 'size'; it has segments, compactness, sigma"),
    ("image --model net.pt --segments grid:2.5", "cells is a whole number"),
    ("image --model net.pt --segments grid:0", "cells is 0"),
    ("image --model net.pt --baseline black", "there is no baseline 'black'"),
    ("image --model net.pt --score odds", "there is no score 'odds'"),
    ("image --model net.pt --samples 4", "draw at least"),
    ("image --model net.pt --prior saliency", "--prior needs a precision, a ridge above 0; give --ridge 0.1"),
    ("image --model net.pt --prior lime --ridge 1", "there is no prior 'lime'"),
    ("image --model net.pt --prior absent.json --ridge 1", "absent.json cannot be read"),
    ("image --model net.pt --batch 0", "--batch is 0"),
    (f"text {MODEL} --text film.txt --until 5", "there is no until '5'"),
    (f"text {MODEL} --text film.txt --until stable:top=0", "top 0"),
    (f"text {MODEL} --text film.txt --until stable --samples 9", "--until decides the number of samples"),
    (f"text {MODEL} --text film.txt --prior film.txt --ridge 1", "film.txt is no JSON"),
    (
        f"text {MODEL} --text film.txt --prior others.json --ridge 1",
        "--prior names no feature of the inputs",
    ),
    (f"text {MODEL} --text film.txt --ridge -1", "--ridge is -1"),
    (
        f"text {MODEL} --text film.txt --hide attention-mask",
        "--hide is attention-mask, and own.py:predict has no token",
    ),
]


@pytest.mark.parametrize(("line", "says"), REFUSED)
def test_what_is_refused(home: Path, line: str, says: str) -> None:
    before = sorted(home.iterdir())
    said = run(home, "lime", *line.split(), *([] if "--out" in line else ["--out", "refused"]), code=2).stderr
    assert says in said
    assert len(said.splitlines()) == 1
    assert sorted(home.iterdir()) == before


def test_segments_of_scikit_image_need_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    said = run(home, "lime", "image", "--model", "net.pt", "--segments", "slic:9", code=2).stderr
    assert "needs scikit-image" in said


def test_a_text_of_very_many_words(home: Path) -> None:
    (home / "long.txt").write_text(" ".join(f"w{k}" for k in range(5000)))
    said = run(home, "lime", "text", "--model", "own.py:predict", "--text", "long.txt", code=2).stderr
    assert "text has 5,000 features, and at most 4,000 are explained; explain --split sentences" in said


SAME: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "text": (
        "lime text --model own.py:predict --text film.txt --split words --samples 100 --top 3 --seed 2",
        lambda own: workflows.lime_text(
            own.predict, "film.txt", text_options=TextOptions("words"), options=LimeOptions(samples=100, top=3), seed=2
        ),
    ),
    "table": (
        "lime table --model own.py:linear --train train.csv --label paid --row 2 --samples 100 --bins deciles",
        lambda own: workflows.lime_table(
            own.linear, "train.csv", row=2, table_options=TableOptions("paid", bins="deciles"),
            options=LimeOptions(samples=100),
        ),
    ),
    "pick": (
        "lime pick --model own.py:predict --text films.txt --n 3 --budget 2 --samples 100 --top 8",
        lambda own: workflows.lime_pick(
            own.predict, text="films.txt", n=3, budget=2, options=LimeOptions(samples=100, top=8)
        ),
    ),
    "image": (
        "lime image --model net.pt --index 1 --samples 64 --device cpu",
        lambda own: workflows.lime_image(
            workflows.Inputs("net.pt"), index=1, options=LimeOptions(samples=64), machine=workflows.Machine("cpu")
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_python_does_what_the_command_does(home: Path, name: str) -> None:
    line, call = SAME[name]
    printed = json.loads(run(home, *line.split(), "--json").stdout)
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(home), *sys.path])
        import importlib

        returned = json.loads(call(importlib.import_module("own")).model_dump_json())
    for record in (printed, returned):
        assert record.pop("seconds") >= 0
        record.pop("model")
    assert returned == printed


def test_texts_and_rows_of_python() -> None:
    with opened(lambda texts: [[len(t)] for t in texts]) as predict:
        assert predict(["a"]) == [[1]]
    with pytest.raises(BadOption, match="row is"):
        workflows.lime_table(len, "none.csv", row=[-1])
    with pytest.raises(workflows.BadOption, match="give text for texts or train"):
        workflows.lime_pick(len)


def test_samples_are_doubled_until_the_features_are_apart(home: Path) -> None:
    words = ("--until", "stable:top=1,at_most=2048", "--batch", "7", "--stability", "0")
    (home / "many.txt").write_text(" ".join(f"w{k}" for k in range(12)) + " bad")
    run(home, "lime", "text", "--model", "own.py:predict", "--text", "many.txt", *words, "--out", "until")
    result, *_ = result_of(home, "until")
    assert "stable" in [str(flag) for flag in result.flags[0]]
    assert int(result.calls) < 1000
    run(home, *TABLE[:-4], "--model", "own.py:linear", *words, "--out", "until")
    result, *_ = result_of(home, "until")
    assert "stable" in [str(flag) for flag in result.flags[0]]
    assert int(result.calls) in (257, 513)
    run(home, "lime", "pick", "--model", "own.py:predict", "--text", "films.txt", "--n", "2", *words, "--out", "until")
    line = ("lime", "image", "--model", "net.pt", "--device", "cpu", "--segments", "grid:2", *words)
    run(home, *line, "--out", "until")
    assert "every mask was used: no sampling error" in [str(flag) for flag in result_of(home, "until")[0].flags[0]]


def test_expected_weights(home: Path) -> None:
    (home / "weights.json").write_text('{"film": 0.5, "other": 1}')
    line = ("lime", "text", "--model", "own.py:predict", "--text", "film.txt", "--stability", "0")
    run(home, *line, "--prior", "weights.json", "--ridge", "1e9", "--out", "prior")
    result, *_ = result_of(home, "prior")
    assert dict(result.as_list())["film"] == pytest.approx(0.5, abs=1e-6)
    assert dict(result.as_list())["bad"] == pytest.approx(0, abs=1e-6)
    assert result.sd is not None
    run(home, *line, "--out", "first")
    run(home, *line, "--prior", "first/lime.json", "--ridge", "1e9", "--out", "again")
    first, again = result_of(home, "first")[0], result_of(home, "again")[0]
    assert (first.weights - again.weights).abs().max() < 1e-6
    (home / "columns.json").write_text('{"size": 0.25}')
    run(home, *TABLE, "--model", "own.py:linear", "--prior", "columns.json", "--ridge", "1e9", "--out", "columns")
    weights = dict(result_of(home, "columns")[0].as_list())
    assert sorted(weights.values()) == pytest.approx([0, 0, 0.25], abs=1e-6)
    image = ("lime", "image", "--model", "net.pt", "--device", "cpu", "--segments", "grid:2", "--stability", "0")
    run(home, *image, "--out", "first")
    run(home, *image, "--prior", "first/lime.json", "--ridge", "1e9", "--out", "again")
    first, again = result_of(home, "first")[0], result_of(home, "again")[0]
    assert (first.weights - again.weights).abs().max() < 1e-6
    run(home, *image, "--prior", "saliency", "--ridge", "1e9", "--out", "other")
    other = result_of(home, "other")[0].weights[0, 0]
    factor = (other @ first.weights[0, 0]) / (other @ other)
    assert float(factor) == pytest.approx(1), "the map is rescaled to fit the plain weights best"


def test_a_transformer_whose_tokens_are_hidden(home: Path) -> None:
    (home / "former.py").write_text(
        "import re, torch\n"
        "class Net(torch.nn.Module):\n"
        "    @staticmethod\n"
        "    def tokenizer(text, **options):\n"
        "        places = [m.span() for m in re.finditer(r'\\w+', text)]\n"
        "        ids = [len(text[a:b]) for a, b in places]\n"
        "        return {'input_ids': ids, 'attention_mask': [1] * len(ids), 'offset_mapping': places}\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        total = (input_ids * attention_mask).sum(1).double()\n"
        "        return torch.stack([-total, total], 1)\n"
        "net = Net()\n"
    )
    line = ("lime", "text", "--model", "former.py:net", "--text", "film.txt", "--hide", "attention-mask")
    run(home, *line, "--unit", "positions", "--out", "former")
    result, *_ = result_of(home, "former")
    assert result.weights[0, 0].tolist() == pytest.approx([len(name) for name in result.names[0]])
    assert "AttentionMask" in result.baseline
    (home / "two.txt").write_text("a bad film\na good one\n")
    run(home, "lime", "pick", *line[2:4], "--text", "two.txt", *line[6:], "--budget", "1", "--out", "former")


def test_options_of_lime_in_explain(home: Path) -> None:
    line = ("explain", "--model", "net.pt", "--n", "2", "--device", "cpu", "--out", "maps")
    record = json.loads(run(home, *line, "--method", "lime:samples=128,ridge=0.1,batch=32", "--json").stdout)
    assert record["method"] == "lime:samples=128,ridge=0.1,batch=32"
    shrunk = np.load(home / "maps/maps.npz")["attribution"]
    run(home, *line, "--method", "lime:samples=128")
    assert abs(shrunk).max() < 0.9 * abs(np.load(home / "maps/maps.npz")["attribution"]).max()
    said = run(home, *line, "--method", "lime:steps=3", code=2).stderr
    assert "lime has no option 'steps'; did you mean samples?; it has samples, ridge, batch" in said


SPOILT = """
import numpy as np

class Plain:
    classes_ = np.array(["no", "yes"])

    def predict_proba(self, x):
        x = np.asarray(x, dtype=object)[:, :2].astype(float)
        if np.isnan(x).any():
            raise ValueError("Input contains NaN")
        p = 1 / (1 + np.exp(-2 * x[:, 0]))
        return np.stack([1 - p, p], axis=1)

class Filled(Plain):
    def predict_proba(self, x):
        x = np.asarray(x, dtype=object).copy()
        x[:, :2] = np.nan_to_num(x[:, :2].astype(float))
        return Plain.predict_proba(self, x)

class Frames(Plain):
    feature_names_in_ = np.array(["size", "noise", "colour"])
"""


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "Tables of 30 rows with bad cells: training rows 4 and 7, and 3 without a noise; rows 1, 2 and 3 of the new table."
    folder = tmp_path_factory.mktemp("spoilt")
    (folder / "own.py").write_text(SPOILT)
    draw = np.random.default_rng(0).normal(size=(30, 2))
    rows = [[f"{a:.2f}", f"{b:.2f}", c] for (a, b), c in zip(draw, ["red", "blue"] * 15, strict=True)]
    with_gap = [[*row] for row in rows]
    with_gap[3][1] = "NA"
    both = [[*row] for row in with_gap]
    both[4][0], both[7][1] = "n.a. (lost)", "inf"
    new = [["1.0", "0.5", "red"], ["?", "0", "red"], ["1", "", "red"], ["1", "inf", "red"]]
    for name, table in {"clean": rows, "gap": with_gap, "both": both, "new": new}.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["size", "noise", "colour"], *table])
    return folder


SPOILT_TABLE = ("lime", "table", "--samples", "100", "--stability", "10", "--out", "out")


@pytest.mark.parametrize("model", ["own.py:Plain", "own.py:Frames", "own.py:Filled"])
def test_a_bad_cell_of_another_row_does_not_matter(spoilt: Path, model: str) -> None:
    line = (*SPOILT_TABLE, "--model", model)
    if model == "own.py:Frames":
        pytest.importorskip("pandas")
    run(spoilt, *line, "--train", "clean.csv", "--csv", "new.csv", "--row", "0")
    assert result_of(spoilt, "out")[1]["warnings"] == []
    done = run(spoilt, *line, "--train", "both.csv", "--row", "0,29")
    result, record, page = result_of(spoilt, "out")
    said = [
        "2 of 30 training rows are left out: row 4 has 'n.a. (lost)' in column 'size', which holds numbers; give the "
        "column as categorical if such values are categories."
    ]
    if model != "own.py:Filled":
        left_out = "1 of 30 training rows are left out: the model has no answer where column 'noise' is missing"
        said.append(f"{left_out}, as in row 3.")
    assert record["warnings"] == said
    assert said[0] in done.stdout
    assert all(html.escape(one) in page for one in said)
    assert result.weights.shape == (2, 1, 3)
    pick = ("lime", "pick", "--model", model, "--train", "both.csv", *SPOILT_TABLE[2:], "--budget", "2")
    run(spoilt, *pick)
    record = result_of(spoilt, "out")[1]
    left = 2 if model == "own.py:Filled" else 3
    assert record["warnings"] == [*said, f"{left} of 30 rows cannot be explained, and are left out."]
    assert record["pick"]["among"] == 30 - left
    assert not {4, 7} & set(record["pick"]["index"])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1", "row 1 of new.csv has '?' in column 'size', which is no number"),
        ("0,3", "row 3 of new.csv has 'inf' in column 'noise', which is infinite"),
        ("2", "row 2 of new.csv: column 'noise' is missing in the row"),
    ],
)
def test_a_bad_cell_of_the_row_is_refused_by_its_place(spoilt: Path, row: str, says: str) -> None:
    line = (*SPOILT_TABLE, "--model", "own.py:Plain", "--train", "clean.csv", "--csv", "new.csv", "--row", row)
    assert says in run(spoilt, *line, code=2).stderr
    own = (*SPOILT_TABLE, "--model", "own.py:Plain", "--train", "both.csv", "--row")
    assert "row 4 of both.csv has 'n.a. (lost)' in column 'size'" in run(spoilt, *own, "4", code=2).stderr
    assert "row 3 of both.csv: column 'noise' is missing in the row" in run(spoilt, *own, "3", code=2).stderr


def test_categories_that_are_mostly_numbers(spoilt: Path) -> None:
    rows = [["size", "grade"], *([str(k / 7), str(k % 3) if k else "A"] for k in range(30))]
    with (spoilt / "grades.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (spoilt / "grades.py").write_text("def model(x):\n    return [[float(row[0])] for row in x]\n")
    line: tuple[str, ...] = (*SPOILT_TABLE, "--model", "grades.py:model", "--train", "grades.csv")
    run(spoilt, *line, "--categorical", "grade", "--row", "0")
    result, record, _ = result_of(spoilt, "out")
    assert "grade = A" in result.names[0]
    assert record["warnings"] == []
    assert "row 0 of grades.csv has 'A' in column 'grade', which is no number" in run(spoilt, *line, code=2).stderr
    run(spoilt, *line, "--row", "1")
    assert "1 of 30 training rows are left out: row 0 has 'A'" in result_of(spoilt, "out")[1]["warnings"][0]
    run(spoilt, *line, "--label", "grade", "--row", "0")  # labels are never left out
    assert result_of(spoilt, "out")[1]["explanations"][0]["item"] == "row 0 (label A)"


@pytest.mark.parametrize("lines", [["1,2,a"] * 5, ["1,2,a"]], ids=["constant", "one row"])
def test_a_table_without_a_usable_feature(home: Path, lines: list[str]) -> None:
    (home / "flat.csv").write_text("\n".join(["u,v,w", *lines]) + "\n")
    (home / "half.py").write_text("def model(x):\n    return [[0.5, 0.5] for _ in x]\n")
    words = ("--model", "half.py:model", "--train", "flat.csv", "--out", "flat")
    record = json.loads(run(home, "lime", "table", *words, "--json").stdout)
    assert record["explanations"][0]["features"] == 0
    assert record["explanations"][0]["stability"] is None
    assert "There are no features." in (home / "flat/lime.html").read_text()
    assert "no features" in run(home, "lime", "table", *words).stdout
    assert "no features" in run(home, "lime", "pick", *words).stdout


def test_slopes_have_their_unit(home: Path) -> None:
    words = ("--model", "own.py:linear", "--csv", "new.csv", "--row", "0", "--sampler", "around:0.5", "--out", "slopes")
    done = run(home, *TABLE, *words)
    result, record, page = result_of(home, "slopes")
    assert {"size", "noise", "colour = red"} == set(result.names[0])
    says = "Weights are per standard deviation of the column; that of a category is the effect of keeping it."
    assert record["explanations"][0]["unit"] == says
    assert says in done.stdout
    assert says in page
    assert re.search(r"^size +\+", done.stdout, re.MULTILINE)
    words = ("--model", "own.py:linear", "--n", "12", "--budget", "2", "--sampler", "around", "--out", "slopes")
    run(home, "lime", "pick", *TABLE[2:], *words)
    assert "size" in result_of(home, "slopes")[1]["pick"]["importance"]


def test_one_segment_is_not_shown_as_perfect(home: Path) -> None:
    np.savez(home / "flat.npz", x=np.full((2, 1, 8, 8), 0.5, np.float32), y=np.zeros(2, np.int64))
    words = ("--model", "net.pt", "--data", "flat.npz", "--segments", "grid:1", "--out", "one")
    done = run(home, "lime", "image", *words, "--baseline", "0", "--device", "cpu")
    _, record, page = result_of(home, "one")
    for text in (done.stdout, page, record["explanations"][0]["notes"][0]):
        assert "One segment: nothing to compare." in text
    assert "1.00" not in done.stdout
    assert record["explanations"][0]["stability"] is record["explanations"][0]["classes"][0]["r2_held_out"] is None


@pytest.mark.parametrize(
    ("line", "says", "never"),
    [
        ("--until stable:zz", "--until is 'stable:zz'; top is a number, not 'zz'", "8/255"),
        ("--until stable:tolerance=x", "tolerance is a number, not 'x'", "8/255"),
        (
            "--sampler neighbours:4,30",
            "write the name of each option, such as neighbours:clusters=4,k=30; it has clusters, k",
            "no option",
        ),
    ],
)
def test_options_behind_a_colon(home: Path, line: str, says: str, never: str) -> None:
    said = run(home, *TABLE[:-4], "--model", "own.py:linear", *line.split(), code=2).stderr
    assert says in " ".join(said.split())
    assert never not in said
