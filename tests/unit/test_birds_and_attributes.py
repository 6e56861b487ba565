"""Attributes of birds in the official format, the class table, simulated birds, and a user's CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.core.errors import BadInput
from unfooled.data import load_birds, load_class_table, read_attributes, simulate_birds
from unfooled.data.formats import birds
from unfooled.data.formats.attributes import names_of_constant

NAMES = "1 has_bill::curved\n2 has_bill::needle\n3 has_wing::grey\n"
# image, attribute, present, certainty, seconds; some official lines have a field more.
VOTES = """1 1 1 4 2.5
1 2 0 4 1.0
1 3 1 2 0.5
2 1 0 3 1.1
2 2 1 3 0 1.1
2 3 0 1 2.2
3 1 0 4 0.7
3 2 0 1 3.1
3 3 1 3 0.2
"""


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Three images of two classes in CUB's own format."""
    root = tmp_path / "CUB_200_2011"
    names = ["001.Albatross/a.jpg", "001.Albatross/b.jpg", "002.Wren/c.jpg"]
    for k, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((10, 20, 3), 100 * k, np.uint8)).save(root / "images" / name)
    text = {
        "images.txt": "".join(f"{k} {name}\n" for k, name in enumerate(names, 1)),
        "image_class_labels.txt": "1 1\n2 1\n3 2\n",
        "train_test_split.txt": "1 1\n2 1\n3 0\n",
        "classes.txt": "1 001.Albatross\n2 002.Wren\n",
        "attributes/image_attribute_labels.txt": VOTES,
        "attributes/class_attribute_labels_continuous.txt": "50.0 100 0\n12.5 0 80\n",
        "parts/parts.txt": "1 back\n2 left eye\n",
        "parts/part_locs.txt": "1 1 3.0 4.0 1\n1 2 0.0 0.0 0\n2 1 5.5 6.0 1\n3 2 7 8 1\n",
    }
    for name, content in text.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (tmp_path / "attributes.txt").write_text(NAMES)
    return root


def test_the_official_folder_is_read(cub: Path) -> None:
    data = load_birds(cub)
    assert len(data) == 3
    assert data.y.tolist() == [0, 0, 1] and data.train.tolist() == [True, True, False]
    assert data.classes == ("001.Albatross", "002.Wren")
    assert data.names == ("has_bill::curved", "has_bill::needle", "has_wing::grey")
    assert data.groups == {"has_bill": [0, 1], "has_wing": [2]}
    assert data.attributes.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]
    assert data.part_names == ("back", "left eye")
    assert data.parts[0].tolist() == [[3, 4, 1], [0, 0, 0]] and torch.isnan(data.parts[1, 1]).all()
    x = data.images(torch.tensor([2, 0]), 8)
    assert x.shape == (2, 3, 8, 8)
    assert x.mean((1, 2, 3)).tolist() == pytest.approx([200 / 255, 0.0], abs=0.01)


def test_soft_and_class_level_attributes(cub: Path) -> None:
    soft = load_birds(cub, soft=True).attributes
    assert soft.tolist() == [[1, 0, 0.5], [0.25, 0.75, 0], [0, 0, 0.75]]
    table = load_birds(cub, class_level=True).attributes
    assert table.tolist() == [[0.5, 1, 0], [0.5, 1, 0], [0.125, 0, pytest.approx(0.8)]]
    (cub / "attributes" / "image_attribute_labels.txt").unlink()
    assert torch.equal(load_birds(cub, class_level=True).attributes, table)
    with pytest.raises(BadInput, match=r"no file .*image_attribute_labels.txt.*class_level=True"):
        load_birds(cub)
    assert load_class_table(cub).percent.tolist() == [[50, 100, 0], [12.5, 0, pytest.approx(80)]]
    (cub / birds.TABLE).unlink()
    with pytest.raises(BadInput, match=r"^there is no file .*class_attribute_labels_continuous.txt"):
        load_birds(cub, class_level=True)


def test_unasked_attributes_are_unknown(cub: Path) -> None:
    path = cub / "attributes" / "image_attribute_labels.txt"
    path.write_text(VOTES.split("\n", 1)[1])
    assert torch.isnan(load_birds(cub).attributes[0, 0]) and torch.isnan(load_birds(cub, soft=True).attributes[0, 0])


def test_denoised_attributes_are_votes_of_the_training_images(cub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Albatross: curved 1 : 1, a tie, present; needle 1 : 1; grey 1 present, the absence was not visible: present.
    # Wren has no training image: all ties, present.
    monkeypatch.setattr(birds, "MIN_CLASSES", 2)
    data = load_birds(cub, denoised=True)
    assert data.attributes.tolist() == [[1, 1, 1]] * 3 and len(data.names) == 3
    path = cub / "attributes" / "image_attribute_labels.txt"
    path.write_text(VOTES.replace("1 1 1 4 2.5", "1 1 0 4 2.5"))  # 0 : 2
    data = load_birds(cub, denoised=True)
    assert data.names == ("has_bill::needle", "has_wing::grey")
    path.write_text(VOTES.replace("2 3 0 1 2.2", "2 3 0 2 2.2").replace("1 3 1 2 0.5", "1 3 0 2 0.5"))
    assert load_birds(cub, denoised=True).names == ("has_bill::curved", "has_bill::needle")
    monkeypatch.setattr(birds, "MIN_CLASSES", 10)
    with pytest.raises(BadInput, match="no attribute is present in 10 classes"):
        load_birds(cub, denoised=True)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("images.txt", None, "no file .*images.txt"),
        ("classes.txt", None, "no file .*classes.txt"),
        ("classes.txt", "1 a\n", "classes 1 to 2, and there are 1 classes"),
        ("images.txt", "2 a.jpg\n", r"line 1 of .*images.txt is '2 a.jpg'; it must be 1 and a name"),
        ("train_test_split.txt", "1 1\n", "1 lines for 3 images"),
        ("train_test_split.txt", "1 x\n2 1\n3 1\n", "not a whole number"),
        ("attributes/image_attribute_labels.txt", "1 1 a b\n", "begin with four whole numbers"),
        ("attributes/image_attribute_labels.txt", "1 1\n", "begin with four whole numbers"),
        ("attributes/image_attribute_labels.txt", "", "is empty"),
        ("attributes/image_attribute_labels.txt", "4 1 1 1\n", r"they lie in \[1, 1, 0, 1\] to \[3, 3, 1, 4\]"),
        ("attributes/image_attribute_labels.txt", "1 1 1 5\n", "certainty"),
        ("parts/part_locs.txt", "1 3 1 1 1\n", "line 1 of .*image, part, x, y, visible"),
        ("parts/part_locs.txt", "1 1 1 1 1\n1 2 nan inf 1\n", "line 2 of .*part_locs.txt is '1 2 nan inf 1'"),
        ("train_test_split.txt", "1 1\n2 7\n3 1\n", "line 2 of .*train_test_split.txt has the split 7"),
        ("images.txt", "1 a.jpg\n2 ../../x.jpg\n3 b.jpg\n", r"line 2 of .*images.txt is '../../x.jpg', outside of"),
        ("images.txt", "1 /etc/x.jpg\n2 a.jpg\n3 b.jpg\n", r"line 1 of .*images.txt is '/etc/x.jpg', outside of"),
        (
            "attributes/image_attribute_labels.txt",
            "".join(VOTES.splitlines(True)[:4]),
            "ends at vote 4 without one on image 3 .*truncated",
        ),
        (
            "attributes/image_attribute_labels.txt",
            "".join(VOTES.splitlines(True)[:-1]),
            "ends at vote 8, within image 3: it has 2 of 3 attributes, .*truncated",
        ),
        (
            "attributes/image_attribute_labels.txt",
            VOTES + "1 1 0 4 2.5\n",
            "vote 10 of .*labels.txt contradicts vote 1 on attribute 1 of image 1",
        ),
    ],
)
def test_a_damaged_folder_is_refused(cub: Path, file: str, content: str | None, sentence: str) -> None:
    (cub / file).unlink() if content is None else (cub / file).write_text(content)
    with pytest.raises(BadInput, match=sentence):
        load_birds(cub)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("1 2 3\n", r"table of \(1, 3\) for 2 classes"), ("1 2 x\n1 2 3\n", "damaged"), ("1 2 3\n1 2 101\n", "outside")],
)
def test_a_damaged_class_table_is_refused(cub: Path, content: str, sentence: str) -> None:
    (cub / "attributes" / "class_attribute_labels_continuous.txt").write_text(content)
    with pytest.raises(BadInput, match=sentence):
        load_birds(cub, class_level=True)
    with pytest.raises(BadInput, match="exclude each other"):
        load_birds(cub, class_level=True, soft=True)


def test_the_class_table_of_the_data_folder() -> None:
    if not (Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "cub200" / "cub_meta.npz").is_file():
        pytest.skip("needs cub200 in UNFOOLED_DATA")
    table = load_class_table()
    assert table.percent.shape == (200, 312) and len(table.y) == 11_788 and int(table.train.sum()) == 5994
    present = table.present()
    assert int(present.any(0).sum()) == 188
    assert int((present.sum(0) >= 10).sum()) == 108
    assert len(present.unique(dim=0)) == 200
    assert len(table.groups) == 28
    drawn = simulate_birds(table.percent, table.y[:500], seed=1)
    expected = table.percent[table.y[:500]] / 100
    assert abs(float((drawn - expected).mean())) < 0.01


def test_a_folder_without_the_class_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cub_meta\.npz, and is not there"):
        load_class_table(tmp_path)


def test_simulated_birds_follow_the_percentages() -> None:
    percent = torch.tensor([[0.0, 25.0, 100.0], [50.0, 75.0, 0.0]])
    y = torch.arange(4000) % 2
    a = simulate_birds(percent, y, seed=3)
    assert set(a.unique().tolist()) == {0.0, 1.0}
    for k in range(2):
        assert torch.allclose(a[y == k].mean(0), percent[k] / 100, atol=0.04)
    assert torch.equal(simulate_birds(percent, y[:10], seed=3), a[:10])
    assert not torch.equal(simulate_birds(percent, y, seed=4), a)
    one = a[y == 1]
    assert abs(float(torch.corrcoef(one[:, :2].T)[0, 1])) < 0.08
    for bad, labels, sentence in (
        (percent + 1, y, "percentages"), (percent, y + 1, "labels"), (percent[0], y, "must be"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=sentence):
            simulate_birds(bad, labels)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_of_attributes_is_read_and_paired(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv", "striped,path,wings,even\n1,cats/1.png,,1\nno,dogs/2.png,0.25,1\n,photos/dogs/3.png,1,\n"
    )
    table = read_attributes(path)
    assert table.names == ("striped", "wings", "even") and table.constant == ("even",)
    root = tmp_path / "photos"
    files = [root / "dogs/2.png", root / "cats/1.png", root / "dogs/3.png"]
    values = table.of(files, root)
    assert torch.equal(values.nan_to_num(9), torch.tensor([[0, 0.25, 1], [1, 9, 1], [9, 1, 9]]))
    with pytest.raises(BadInput, match=r"1 of 2 images below .* have no row in .*, such as cats/4.png; did you mean"):
        table.of([files[0], root / "cats/4.png"], root)
    assert table.column("wings") == 1
    with pytest.raises(BadInput, match=r"no attribute 'wing' in .*did you mean wings"):
        table.column("wing")
    assert names_of_constant(torch.tensor([[1.0, float("nan"), 0.0], [1.0, float("nan"), 1.0]]), "abc") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "there is no file"),
        ("", "has the columns none"),
        ("file,a\n1,2\n", "has the columns file, a; it needs path"),
        ("path\nx.png\n", "it needs path and one for each attribute"),
        ("path,a,a\nx.png,1,1\n", "column 'a' twice"),
        ("path,a,\nx.png,1,1\n", "column 3 of .* has no name"),
        ("path,a\n", "has no rows"),
        ("path,a\nx.png,1,0\n", "line 2 of .* has 3 fields for 2 columns"),
        ("path,a\nx.png,1\n,1\n", "line 3 of .* names no file"),
        ("path,a\nx.png,1\n./x.png,1\n", "line 3 of .* names x.png again"),
        ("path,a\nx.png,maybe\n", "line 2 of .* holds 'maybe'; attributes lie in"),
        ("path,a\nx.png,nan\n", "holds 'nan'"),
        ("path,a\nx.png,2\n", "holds '2'"),
        ('path,a\n"x.png,1\n', "is no CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, sentence: str) -> None:
    path: Any = tmp_path / "a.csv"
    if text is not None:
        write(path, text)
    with pytest.raises(BadInput, match=sentence):
        read_attributes(path)
