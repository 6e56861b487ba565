"""Class names of data, models and labels, matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unfooled import BadInput, Classifier, load_data
from unfooled.data import load_dataset
from unfooled.data.classes import for_model
from unfooled.data.dataset import Dataset
from unfooled.workflows.inputs import Inputs

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def data(classes: Sequence[str], y: Sequence[int], *, by_name: bool = True) -> Dataset:
    """Samples with these classes."""
    x = torch.zeros(len(y), 1, 2, 2)
    return Dataset(x, torch.tensor(y), list(classes), "zoo", "all", torch.arange(len(y)), (), by_name)


def folder(root: Path, names: Sequence[str]) -> Path:
    """A folder of one image a class."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        Image.fromarray(np.full((2, 2), 20 * k, np.uint8)).save(root / name / "a.png")
    return root


def model(classes: Sequence[str] | None, outputs: int) -> Classifier:
    """A model that knows its classes."""
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, outputs)), classes=classes).eval()


@pytest.mark.parametrize(
    ("classes", "known", "expected"),
    [
        (["bird", "Dog", "ship"], TEN, [2, 5, 8]),
        (["dog", "bird"], TEN[::-1], [4, 7]),
        (["tench", "great white shark"], ["cock", "tench, Tinca tinca", "great_white_shark, white shark"], [1, 2]),
        (["t-shirt", "Ankle_boot"], ["trouser", "T shirt", "ankle-boot"], [1, 2]),
        (["0", "1", "10", "2"], ["0", "1", "10", "2"], [0, 1, 2, 3]),
        (["10", "2"], ["0", "1", "10", "2"], [2, 3]),
        (["2", "4", "7"], None, [2, 4, 7]),
        (["2", "4", "7"], [f"LABEL_{k}" for k in range(10)], [2, 4, 7]),
        (["0", "1", "2"], TEN, [0, 1, 2]),
        (["a", "b", "c"], None, None),
    ],
)
def test_classes_are_matched_by_name(classes: list[str], known: list[str] | None, expected: list[int] | None) -> None:
    outputs = len(known) if known else 10 if expected else 3
    result = for_model(data(classes, range(len(classes))), known, outputs)
    assert result.y.tolist() == (expected or list(range(len(classes))))
    if known == TEN:
        assert result.classes == TEN


def test_a_class_without_samples_needs_no_match() -> None:
    assert for_model(data(["bird", "unicorn"], [0, 0]), TEN, 10).y.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("classes", "known", "outputs", "words"),
    [
        (
            ["bird", "unicorn"],
            TEN,
            10,
            r"1 of the 2 .*'unicorn'; the data have bird, unicorn, the model air",
        ),
        (["Vogel", "Hund"], TEN, 10, r"2 of the 2 .*the data have Vogel, Hund, the model airplane"),
        (["bird", "crane"], ["crane", "bird", "crane"], 3, r"more than once, the first is 'crane'"),
        (["bird", "dog"], None, 10, r"2 classes \(bird, dog\) and the model 10 outputs without names"),
        (["2", "4"], None, 20, r"2 classes \(2, 4\) and the model 20 outputs"),
        (["5", "10"], None, 10, r"'10'; the data have 5, 10, the model 0, 1"),
    ],
)
def test_a_conflict_or_half_a_match_is_refused(
    classes: list[str], known: list[str] | None, outputs: int, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        for_model(data(classes, range(len(classes))), known, outputs)


def test_labels_that_contradict_the_model_are_refused() -> None:
    def labelled(names: list[str]) -> list[int]:
        return for_model(data(names, [0, 1], by_name=False), TEN, 10, labels=True).y.tolist()

    assert labelled(TEN) == labelled([f"Klasse {name}x" for name in TEN]) == [0, 1]
    with pytest.raises(BadInput, match=r"number 0: the labels .* are truck, .* the model's airplane"):
        labelled(TEN[::-1])
    with pytest.raises(BadInput, match=r"number 3: .*unicorn"):
        labelled([*TEN[:3], "unicorn", *TEN[4:]])


def test_an_order_that_the_source_states_stays_for_a_model_without_names() -> None:
    assert for_model(data(["b", "a"], [0, 1], by_name=False), None, 10).y.tolist() == [0, 1]
    assert [load_dataset((np.zeros((2, 3)), y)).sorted for y in ([0, 1], ["a", "b"])] == [False, True]


def test_a_folder_with_some_classes_is_read_in_the_order_of_the_model(tmp_path: Path) -> None:
    root = folder(tmp_path / "zoo", ["ship", "bird", "dog"])
    loaded = Inputs(model(TEN, 10), root).load("cpu")
    assert sorted(loaded.y.tolist()) == [2, 5, 8] and loaded.classes == TEN
    (tmp_path / "names.txt").write_text("\n".join(TEN[::-1]))
    assert sorted(Inputs(model(None, 10), root, labels=tmp_path / "names.txt").load("cpu").y.tolist()) == [1, 4, 7]
    with pytest.raises(BadInput, match="name the classes differently"):
        Inputs(model(TEN, 10), root, labels=tmp_path / "names.txt").load("cpu")
    with pytest.raises(BadInput, match="10 outputs without names"):
        Inputs(model(None, 10), root).load("cpu")
    assert Inputs(model(None, 3), root).load("cpu").classes == ["bird", "dog", "ship"]


def test_numbers_never_overrule_names() -> None:
    net = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), classes=TEN).eval()
    assert Inputs(net, "digits", n=4).load("cpu").classes == TEN


def test_folders_of_systems_are_no_classes(tmp_path: Path) -> None:
    root = folder(tmp_path / "zoo", ["bird", "dog", "__MACOSX", "@eaDir", ".hidden", "System Volume Information"])
    (root / "dog" / "__MACOSX").mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(root / "dog" / "__MACOSX" / "b.png")
    whole = load_dataset(root)
    assert whole.classes == ["bird", "dog"] and len(whole.x) == 2
    assert len(load_data(root)[1]) == 2
