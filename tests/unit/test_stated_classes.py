"""Class names that a checkpoint states under the keys of other programs, and names of other forms."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from unfooled import BadInput, load_model
from unfooled.core.class_names import plain_name
from unfooled.data.classes import read_names
from unfooled.workflows.inputs import Inputs

ORDER = ["ship", "cat", "dog", "bee"]
OTHER = ORDER[::-1]
TABLE = {name: k for k, name in enumerate(ORDER)}
TURNED = {k: name for k, name in enumerate(ORDER)}
FORMS: dict[str, dict[str, Any]] = {
    "class_to_idx": {"class_to_idx": TABLE},
    "shuffled class_to_idx": {"class_to_idx": dict(sorted(TABLE.items()))},
    "label2id": {"label2id": TABLE},
    "idx_to_class": {"idx_to_class": TURNED},
    "id2label": {"id2label": {str(k): name for k, name in TURNED.items()}},
    "class_names": {"class_names": ORDER},
    "labels": {"labels": tuple(ORDER)},
    "names by index": {"names": TURNED},
    "classes by name": {"classes": dict(sorted(TABLE.items()))},
    "classes as text": {"classes": ", ".join(ORDER)},
    "hyper parameters": {"hyper_parameters": {"lr": 0.1, "class_names": ORDER}},
    "two levels": {"meta": {"data": {"class_to_idx": TABLE}}},
    "config as text": {"config": json.dumps({"id2label": TURNED, "label2id": TABLE})},
    "of several, one that fits": {"names": ["a", "b"], "args": {"labels": ORDER}},
    "numbers beside names": {"classes": ["0", "1", "2", "3"], "names": ORDER},
    "twice the same": {"classes": ORDER, "class_to_idx": TABLE},
}


def net(outputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, outputs))


def factory(folder: Path) -> str:
    """Factory of `net`, as a file."""
    (folder / "arch.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Linear(9, 4))\n"
    )
    return f"{folder / 'arch.py'}:net"


def stored(folder: Path, entries: dict[str, Any], kind: str) -> Path:
    """Checkpoint with these entries."""
    path, state = folder / f"a.{kind}", net().state_dict()
    if kind == "safetensors":
        header = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
        save_file(state, path, metadata=header)
    else:
        torch.save({"state_dict": state, **entries}, path)
    return path


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("form", FORMS)
def test_class_names_are_read_from_every_usual_entry(tmp_path: Path, form: str, kind: str) -> None:
    assert load_model(stored(tmp_path, FORMS[form], kind), factory(tmp_path)).classes == ORDER


@pytest.mark.parametrize(
    "entries",
    [
        {"names": [f"column {k}" for k in range(64)], "labels": "labels.txt"},
        {"names": ["a", "b"], "labels": list(range(100)), "class_names": None},
        {"hyper_parameters": {"names": {"first": 0.5}}},
        {"a": {"b": {"c": {"names": ORDER}}}},
    ],
)
def test_other_lists_are_passed_over(tmp_path: Path, entries: dict[str, Any]) -> None:
    if "a" not in entries and len(entries.get("names", ())) == 64:
        entries = entries | {"num_classes": 4}
    assert load_model(stored(tmp_path, entries, "pt"), factory(tmp_path)).classes is None


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"classes": ORDER, "id2label": dict(enumerate(OTHER))}, r"classes has ship, cat.*id2label bee, dog"),
        ({"meta": {"labels": ORDER}, "args": {"names": OTHER}}, r"meta\.labels has ship.*args\.names bee"),
        ({"class_to_idx": {name: k + 1 for name, k in TABLE.items()}}, r"indices 1, 2, 3, 4; they must be 0"),
        ({"class_to_idx": {name: min(k, 2) for name, k in TABLE.items()}}, r"each once"),
        ({"id2label": {0: ["nested"]}}, "no table of class names"),
    ],
)
def test_lists_that_disagree_or_leave_gaps_are_refused(tmp_path: Path, entries: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_model(stored(tmp_path, entries, "pt"), factory(tmp_path))


def pictures(folder: Path) -> Path:
    """Folder of images of two of the classes."""
    for name in ("bee", "cat"):
        (folder / "zoo" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "zoo" / name / "1.png")
    return folder / "zoo"


def test_labels_follow_the_names_and_may_not_contradict_them(tmp_path: Path) -> None:
    path, arch, zoo = stored(tmp_path, {"class_to_idx": TABLE}, "pt"), factory(tmp_path), pictures(tmp_path)
    assert Inputs(str(path), zoo, arch=arch).load("cpu").y.tolist() == [3, 1]
    (tmp_path / "labels.txt").write_text("\n".join(OTHER))
    with pytest.raises(BadInput, match=r"are bee, dog, .*, the model's ship, cat"):
        Inputs(str(path), zoo, arch=arch, labels=tmp_path / "labels.txt").load("cpu")


@pytest.mark.parametrize("names", [["bee", "cat", "dog"], ["bee", "cat", "dog", "eel", "fox"]])
def test_names_for_some_of_the_outputs_only_are_refused(tmp_path: Path, names: list[str]) -> None:
    path, arch, zoo = stored(tmp_path, {"classes": names}, "pt"), factory(tmp_path), pictures(tmp_path)
    with pytest.raises(BadInput, match=rf"{len(names)} class names \(bee, .* and has 4 outputs"):
        Inputs(str(path), zoo, arch=arch).load("cpu")


def test_names_are_the_same_in_every_form_of_their_accents() -> None:
    for name in ("café", "Ångström", "ñandú"):
        assert plain_name(unicodedata.normalize("NFC", name)) == plain_name(unicodedata.normalize("NFD", name))
    assert plain_name("cafe") != plain_name("café")


@pytest.mark.parametrize("lines", [["[unknown]", "bee"], ["bee", "[unknown]"], ["{x}", "[y] z"], ["[UNK]", "[1]"]])
def test_names_in_brackets_are_no_json(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "a.txt").write_text("\n".join(lines))
    assert read_names(tmp_path / "a.txt") == [(line,) for line in lines]


@pytest.mark.parametrize("text", ["[1, 2", '["a",\n"b"', '{"a": 0,\n"b": }'])
def test_broken_json_stays_an_error(tmp_path: Path, text: str) -> None:
    for name in ("a.txt", "a.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadInput, match="not JSON"):
            read_names(tmp_path / name)
