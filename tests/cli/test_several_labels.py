"""Several labels per sample, and a single output, from files and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.test_cli import run
from tests.unit.test_two_class import affine, samples
from torch import Tensor

import unfooled as uf
from unfooled.core.errors import BadInput
from unfooled.core.model.two_class import multi_label
from unfooled.data.load import load_dataset
from unfooled.workflows import Inputs

NAMES = ["car", "tree", "sign"]
N = 12
QUICK = ("--effort", "quick", "--reasons", "none", "--device", "cpu", "--json")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    x, net = samples(N), affine(3)
    y = (net(x) > 0).long().numpy()
    np.savez(tmp_path / "multi.npz", x=x.numpy(), y=y, classes=np.array(NAMES))
    np.savez(tmp_path / "one.npz", x=x.numpy(), y=(affine(1)(x) > 0).numpy())
    (tmp_path / "own.py").write_text(
        "from tests.unit.test_two_class import Squashed, affine\n"
        "def three():\n    return affine(3)\n"
        "def squashed():\n    return Squashed(affine(3))\n"
        "def one():\n    return Squashed(affine(1), flat=True)\n"
    )
    return tmp_path


def optimum(net: Any, x: Tensor) -> Tensor:
    """Return the distance in Linf at which each output of an affine network changes its sign, (n, L)."""
    return (net(x).abs() / net.weight.abs().sum(1)).detach()


@pytest.mark.parametrize(("model", "label"), [("squashed", None), ("three", "sign")])
def test_labels_of_a_file_are_audited_at_their_optimum(home: Path, model: str, label: str | None) -> None:
    distance = optimum(affine(3), samples(N))
    which = distance.amin(1) if label is None else distance[:, 2]
    eps = float(which.median()) * 1.001
    chosen = () if label is None else ("--label", label)
    done = run(
        home, "audit", "--model", f"own.py:{model}", "--data", "multi.npz", "--threat", f"linf:{eps}", *QUICK, *chosen
    )
    record = json.loads(done.stdout)
    assert record["clean_accuracy"]["value"] == 1
    assert record["robust_accuracy"]["value"] == pytest.approx(float((which > eps).double().mean()))
    said = "a change of any of them counts" if label is None else "label sign alone counts"
    assert any(said in text for text in record["warnings"])
    assert record["options"].get("label") == label
    if label == "sign":
        assert record["classes"] == ["not sign", "sign"]


def test_one_output_and_truth_values_of_a_file(home: Path) -> None:
    distance = optimum(affine(1), samples(N))[:, 0]
    eps = float(distance.median()) * 1.001
    done = run(home, "audit", "--model", "own.py:one", "--data", "one.npz", "--threat", f"linf:{eps}", *QUICK)
    assert json.loads(done.stdout)["robust_accuracy"]["value"] == pytest.approx(float((distance > eps).double().mean()))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--label", "sing"), "--label sing is no label; did you mean sign?; there are car, tree, sign, or any"),
        (("--label", "3"), "--label 3 is no label; there are car, tree, sign, or any"),
        (("--data", "digits", "--label", "3"), "--label 3 is for data with several labels per sample"),
        (("--model", "own.py:one"), "unfooled.two_class"),
    ],
)
def test_labels_that_do_not_exist(home: Path, words: tuple[str, ...], says: str) -> None:
    done = run(home, "audit", "--model", "own.py:three", "--data", "multi.npz", "--threat", "linf:0.1", *words, code=2)
    assert says in done.stderr


def test_attack_explain_and_certify_take_them(home: Path) -> None:
    given = ("--model", "own.py:three", "--data", "multi.npz", "--label", "sign", "--device", "cpu", "--json")
    eps = float(optimum(affine(3), samples(N))[:, 2].median()) * 1.001
    attacked = json.loads(run(home, "attack", *given, "--threat", f"linf:{eps}", "--attack", "pgd-margin").stdout)
    assert attacked["robust_accuracy"]["value"] == pytest.approx(0.5)
    run(home, "explain", *given, "--method", "saliency", "--n", "2", "--out", "maps")
    proved = json.loads(run(home, "certify", *given, "--threat", f"linf:{eps}").stdout)
    assert proved["n"] == N


def test_one_hot_rows_are_refused_unless_stated(tmp_path: Path) -> None:
    y = np.eye(3)[np.arange(9) % 3]
    np.savez(tmp_path / "hot.npz", x=samples(9).numpy(), y=y)
    with pytest.raises(BadInput, match=r"look one-hot, save y.argmax\(1\), or state .* label='any'"):
        Inputs(affine(3), tmp_path / "hot.npz").load("cpu")
    loaded = Inputs(affine(3), tmp_path / "hot.npz", label="any").load("cpu")
    assert loaded.y.shape == (9,)
    with pytest.raises(BadInput, match=r"save y.argmax\(1\)$"):
        uf.load_data(tmp_path / "hot.npz")
    with pytest.raises(BadInput, match="several labels per sample are for the audit"):
        uf.load_data((samples(9), np.ones((9, 3))))
    assert uf.load_data((samples(9), np.ones((9, 3))), several=True)[1].shape == (9, 3)


def test_few_samples_do_not_make_labels_one_hot(tmp_path: Path) -> None:
    y = np.eye(3, dtype=int)[np.arange(9) % 3]
    y[8] = 1
    np.savez(tmp_path / "few.npz", x=samples(9).numpy(), y=y)
    assert Inputs(affine(3), tmp_path / "few.npz", n=3).load("cpu").y.shape == (3,)


def test_names_put_labels_into_the_order_of_the_outputs(home: Path, tmp_path: Path) -> None:
    net, x = affine(3), samples(N)
    model = uf.Classifier(net, classes=["sign", "car", "tree"])
    y = (net(x) > 0).long()[:, [1, 2, 0]].numpy()  # columns car, tree, sign of the file
    np.savez(tmp_path / "named.npz", x=x.numpy(), y=y, classes=np.array(NAMES))
    (tmp_path / "order.txt").write_text("sign\ncar\ntree\n")
    for given in (
        Inputs(model, tmp_path / "named.npz"),
        Inputs(net, tmp_path / "named.npz", labels=tmp_path / "order.txt"),
    ):
        loaded = given.load("cpu")
        assert torch.equal(loaded.model(loaded.x).argmax(1), loaded.y)
    for label in ("tree", "2", 2):
        one = Inputs(model, tmp_path / "named.npz", label=label).load("cpu")
        assert torch.equal(one.y, (net(x)[:, 2] > 0).long())
    with pytest.raises(BadInput, match="the model has 4 labels, and named 3 per sample, of which none is 'sky'"):
        Inputs(uf.Classifier(affine(4), classes=[*NAMES, "sky"]), tmp_path / "named.npz").load("cpu")
    with pytest.raises(BadInput, match="has 2 labels per sample, and 3 names in classes"):
        np.savez(tmp_path / "two.npz", x=x.numpy(), y=y[:, :2], classes=np.array(NAMES))
        load_dataset(tmp_path / "two.npz", several=True)


def test_places_of_many_rows_are_those_of_few() -> None:
    y = torch.randint(0, 2, (300, 4), generator=torch.Generator().manual_seed(0))
    model, classes, names = multi_label(lambda z: z, y, probabilities=False)
    assert torch.equal(model(2.0 * y - 1).argmax(1), classes)
    assert [names[int(k)] for k in classes[:20]] == [
        "+".join(str(k) for k in range(4) if row[k]) or "none" for row in y[:20].tolist()
    ]


def pictures(folder: Path, n: int = 6) -> None:
    (folder / "photos").mkdir()
    for k in range(n):
        pixels = np.full((4, 4, 3), 40 * k, np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{k}.png")


def test_images_of_a_csv_file(tmp_path: Path) -> None:
    pictures(tmp_path)
    several = ["image,dark,bright", *(f"photos/{k}.png,{int(k < 4)},{int(k > 2)}" for k in range(6))]
    (tmp_path / "several.csv").write_text("\n".join(several))
    data = load_dataset(tmp_path / "several.csv", several=True)
    assert data.x.shape == (6, 3, 4, 4)
    assert data.y.tolist() == [[1, 0]] * 3 + [[1, 1]] + [[0, 1]] * 2
    assert data.classes == ["dark", "bright"]
    (tmp_path / "single.csv").write_text(
        "\n".join(["image,kind", *(f"photos/{k}.png,{'ab'[k % 2]}" for k in range(6))])
    )
    single = load_dataset(tmp_path / "single.csv")
    assert [single.classes[k] for k in single.y] == list("ababab")
    assert float(single.x[5, 0, 0, 0]) == pytest.approx(200 / 255)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,a,b\nphotos/0.png,1,2\n", "the column 'b' of .* is no label"),
        ("image,a,b\nphotos/9.png,1,0\n", "and there is no such file"),
        ("image,a,b\n../0.png,1,0\n", "images lie below its folder"),
        ("a,b\n1,0\n", "lists no images with labels"),
        ("image\nphotos/0.png\n", "lists no images with labels"),
    ],
)
def test_csv_files_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    pictures(tmp_path, 1)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(BadInput, match=says):
        load_dataset(tmp_path / "list.csv", several=True)


def test_a_black_box_of_several_labels(home: Path) -> None:
    weight, bias = (part.detach().numpy() for part in affine(3).parameters())
    scores = uf.BlackBox(lambda a: 1 / (1 + np.exp(-(a @ weight.T + bias))), classes=3)
    loaded = Inputs(scores, home / "multi.npz").load("cpu")
    assert torch.equal(loaded.model(loaded.x).argmax(1), loaded.y)
