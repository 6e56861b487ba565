"""Columns of a table and attributes of a concept network: matched by name; images that AUC is computed on; folders."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.attribute_images import HALVES, write_attributes
from torch import Tensor, nn

from unfooled import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.counterfactuals.records import CounterfactualRecord
from unfooled.counterfactuals.spaces import AucRows
from unfooled.data import load_dataset
from unfooled.data.formats.folders import decode
from unfooled.models import load_model
from unfooled.report.sections.counterfactual import auc_text
from unfooled.workflows import AttributeFiles, Inputs, LossOptions, Network, Recipe, counterfactual, train
from unfooled.workflows.concepts import image_keys, match_columns


class Regions(nn.Module):
    """Attribute logits: how bright each part of the image is, in the order of `HALVES`."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = torch.zeros(3, 8, 8)
        for mask, part in zip(self.masks, HALVES.values(), strict=True):
            mask[part] = 1.0
        self.unmix = torch.linalg.inv(torch.einsum("ihw,jhw->ij", self.masks, self.masks))
        self.head = nn.Linear(3, 3)
        self.head.weight.data = torch.tensor([[2.0, 0.5, 0.0], [0.0, 2.0, 1.0], [-1.0, 0.0, 2.5]])
        self.head.bias.data = torch.tensor([0.0, 0.1, 0.2])

    def encode(self, x: Tensor) -> Tensor:
        sums = torch.einsum("bchw,ihw->bi", x - 0.15, self.masks)
        return 10 * (sums @ self.unmix.T - 0.15)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encode(x))
        return logits


def network(**facts: Any) -> Classifier:
    return Classifier(Regions(), **facts).eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns")
    write_attributes(folder / "photos" / "train" / "a", 40)
    return folder


def rows_of(home: Path) -> list[dict[str, str]]:
    with (home / "photos" / "train" / "a" / "attributes.csv").open() as lines:
        return list(csv.DictReader(lines))


def table(home: Path, columns: dict[str, str], *, under: str = "photos/train/a", rows: int = 40) -> Path:
    """Write a table with other columns, name -> part or value, and paths below the folder `home`."""
    path = home / f"{len(list(home.iterdir()))}.csv"
    lines = [",".join(["path", *columns])]
    for row in rows_of(home)[:rows]:
        place = f"{under}/{row['path']}".removeprefix("/")
        lines.append(",".join([place, *(row.get(part, part) for part in columns.values())]))
    path.write_text("\n".join(lines) + "\n")
    return path


def ask(home: Path, model: Any, place: Path, **options: Any) -> CounterfactualRecord:
    data = options.pop("data", home / "photos" / "train" / "a" / "03.png")
    source = AttributeFiles(place, options.pop("images", None))
    return counterfactual(Inputs(model, data, n=2), source, steps=3, out=home / "out", **options)


ORDER = {name: name for name in HALVES}


@pytest.mark.parametrize("names", [("middle", "top", "left"), ("left", "top", "middle")])
def test_columns_are_matched_by_name(home: Path, names: tuple[str, ...]) -> None:
    model = network(attributes=list(HALVES))
    plain = ask(home, model, table(home, ORDER))
    other = ask(home, model, table(home, {name: name for name in names}))
    assert other.kind == plain.kind == "concept"
    assert all(fact.auc == 1.0 for fact in other.attributes)
    assert other.results == plain.results
    assert not [w for w in other.warnings if "order" in w]


def test_names_are_compared_as_those_of_classes(home: Path) -> None:
    record = ask(home, network(attributes=["Top", "left", "the_middle"]), table(home, {
        "the middle": "middle", "LEFT": "left", "top": "top",
    }))  # fmt: skip
    assert [fact.name for fact in record.attributes] == ["top", "LEFT", "the middle"]
    assert match_columns(["a-b", "a b"], ["a b", "a-b"], (), "t.csv") == [1, 0]  # names that differ by hyphens alone


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"top": "top", "left": "left"}, "the table lacks middle; the table has top, left, the network top, left, mid"),
        ({**ORDER, "luck": "top"}, "the table has luck, which the network does not know; the table has top, left, mid"),
        ({"top": "top", "left": "left", "centre": "middle"}, "lacks middle and has centre, which the network does not"),
    ],
)
def test_half_a_match_is_refused_with_both_lists(home: Path, columns: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        ask(home, network(attributes=list(HALVES)), table(home, columns))
    assert said in str(refused.value)
    assert "the columns of " in str(refused.value)


def test_columns_that_no_training_could_use_are_passed_over(home: Path) -> None:
    """Constant in training, or constant in the table; to keep one is refused, since the network has no logit of it."""
    model = network(attributes=list(HALVES), left_out=["luck"])
    place = table(home, {"always": "1", "luck": "top", **ORDER})
    assert ask(home, model, place).results == ask(home, model, table(home, ORDER)).results
    with pytest.raises(BadInput, match="keep is 'luck', of which the network has no attribute logit"):
        ask(home, model, place, keep=["luck"])


def test_without_names_the_position_is_assumed_and_said(home: Path) -> None:
    record = ask(home, network(), table(home, ORDER))
    assert record.kind == "concept"
    assert record.warnings[0] == (
        "The network does not state the names of its attributes. Their order is assumed to be that of the columns: "
        "top, left, middle."
    )


def test_other_attributes_get_probes(home: Path) -> None:
    record = ask(home, network(attributes=["a", "b", "c"]), table(home, ORDER))
    assert record.kind == "probes"
    assert record.warnings[0].startswith("No column of the table (top, left, middle) has the name of an attribute of")
    with pytest.raises(BadInput, match="states the names of 2 attributes, and has 3 attribute logits"):
        ask(home, network(attributes=["top", "left"]), table(home, ORDER))


def keys(home: Path, rows: int) -> Tensor:
    files = [home / "photos" / "train" / "a" / row["path"] for row in rows_of(home)[:rows]]
    return image_keys(torch.from_numpy(decode(files, None, None)))


def test_auc_is_that_of_images_that_the_network_was_not_trained_on(home: Path) -> None:
    """It is 1 on the first 20 images, and poor on the other 20, whose attributes are drawn anew."""
    place, rows = home / "mixed.csv", rows_of(home)
    luck = torch.rand(20, generator=torch.Generator().manual_seed(0)) > 0.5
    lines = [f"photos/train/a/{r['path']},{r['top']},{r['left']},{r['middle']}" for r in rows[:20]]
    lines += [
        f"photos/train/a/{r['path']},{int(on)},{r['left']},{r['middle']}"
        for r, on in zip(rows[20:], luck, strict=True)
    ]  # fmt: skip
    place.write_text("\n".join(["path,top,left,middle", *lines]))
    trained = ask(home, network(attributes=list(HALVES), trained_on=keys(home, 20)), place)
    facts = {fact.name: fact for fact in trained.attributes}
    assert {fact.auc_rows for fact in trained.attributes} == {AucRows.HELD_OUT}
    assert (facts["left"].auc, facts["middle"].auc) == (1.0, 1.0)
    assert (facts["top"].auc or 1.0) < 0.7 and not facts["top"].usable
    assert auc_text(trained) == "AUC is on images of the table that the network was not trained on."
    unknown = ask(home, network(attributes=list(HALVES)), place)
    assert next(fact.auc or 0.0 for fact in unknown.attributes if fact.name == "top") > (facts["top"].auc or 1.0) + 0.1


@pytest.mark.parametrize("rows", [36, 40])
def test_auc_of_training_images_is_said_to_be(home: Path, rows: int) -> None:
    place = table(home, ORDER)
    record = ask(home, network(attributes=list(HALVES), trained_on=keys(home, rows)), place)
    assert {fact.auc_rows for fact in record.attributes} == {AucRows.TRAINING}
    start = "All 40" if rows == 40 else "36 of the 40"
    assert any(warning.startswith(f"{start} images of the table are training images") for warning in record.warnings)
    assert "training images" in (home / "out" / "counterfactual.html").read_text()
    unknown = ask(home, network(attributes=list(HALVES)), place)
    assert {fact.auc_rows for fact in unknown.attributes} == {AucRows.UNKNOWN}
    assert any("may be of training images" in warning for warning in unknown.warnings)
    probes = ask(home, network(attributes=["a", "b", "c"]), place)
    assert {fact.auc_rows for fact in probes.attributes} == {AucRows.HELD_OUT}


def test_training_stores_what_is_needed(home: Path, tmp_path: Path) -> None:
    """Names, constant columns, training images; further training takes the columns of a table in any order."""
    for part, first in (("light", 0), ("dark", 12)):
        (tmp_path / "photos" / "train" / part).mkdir(parents=True)
        for row in rows_of(home)[first : first + 12]:
            source = home / "photos" / "train" / "a" / row["path"]
            (tmp_path / "photos" / "train" / part / row["path"]).write_bytes(source.read_bytes())
    lines = [f"train/{'light' if k < 12 else 'dark'}/{r['path']},{r['left']},1,{r['top']}"
             for k, r in enumerate(rows_of(home)[:24])]  # fmt: skip
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("\n".join(["path,left,paper,top", *lines]))
    turned = [",".join([line.split(",")[0], *reversed(line.split(",")[1:])]) for line in lines]
    two.write_text("\n".join(["path,top,paper,left", *turned]))
    options, short = LossOptions(attributes=one), Recipe(epochs=1, batch=8)
    train(tmp_path / "photos", "concept", options=options, network=Network("concept-cnn"), recipe=short,
          out=tmp_path / "a.pt")  # fmt: skip
    net = load_model(tmp_path / "a.pt")
    assert (net.attributes, net.left_out) == (["left", "top"], ["paper"])
    assert net.trained_on is not None
    x = load_dataset(tmp_path / "photos", split="train").x
    assert sorted(net.trained_on.tolist()) == sorted(image_keys(x).tolist())
    again = train(
        tmp_path / "photos", "concept", options=LossOptions(attributes=two), recipe=short, out=tmp_path / "b.pt",
        network=Network("concept-cnn", model=tmp_path / "a.pt"),
    )  # fmt: skip
    assert again.attributes == ["left", "top"]
    (tmp_path / "three.csv").write_text(two.read_text().replace("left", "right"))
    with pytest.raises(BadInput, match="lacks left and has right, which the network does not know"):
        train(tmp_path / "photos", "concept", options=LossOptions(attributes=tmp_path / "three.csv"), recipe=short,
              network=Network("concept-cnn", model=tmp_path / "a.pt"), out=tmp_path / "c.pt")  # fmt: skip


def test_what_other_programs_store_under_these_names_is_passed_over(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))\n"
    )
    for entry in (3, {"a": 1}, [1, 2], "x", torch.zeros(3)):
        stored = {"model": net.state_dict(), "attributes": entry, "left_out": entry, "trained_on": entry}
        torch.save(stored, tmp_path / "w.pt")
        read = load_model(tmp_path / "w.pt", f"{tmp_path / 'net.py'}:make")
        assert (read.attributes, read.left_out, read.trained_on) == (None, [], None)


@pytest.mark.parametrize(
    ("under", "data", "images"),
    [
        ("", "photos/train/a/03.png", None),  # the folder of the photo
        ("train/a", "photos/train/a/03.png", None),  # the folder of all images, of which the photo is one
        ("a", "photos/train/a", None),
        ("train/a", "photos", None),
        ("a", "photos/train/a/03.png", "photos/train"),
        ("photos/train/a", "photos/train/a/03.png", None),  # the folder of the table
    ],
)
def test_paths_are_below_the_folder_that_one_expects(home: Path, under: str, data: str, images: str | None) -> None:
    elsewhere = home / "tables" if under != "photos/train/a" else home
    elsewhere.mkdir(exist_ok=True)
    made = table(home, ORDER, under=under)
    place = made.rename(elsewhere / made.name)
    where = home / data if data.endswith(".png") else home / "photos" / "train" / "a"
    folder = None if images is None else home / images
    assert ask(home, network(attributes=list(HALVES)), place, data=where, images=folder).images == 40


def test_a_folder_that_is_named_is_the_only_one(home: Path) -> None:
    place = table(home, ORDER)
    with pytest.raises(BadInput, match=r"40 of 40 images of .* do not exist.* is the path below .*photos$"):
        ask(home, network(), place, images=home / "photos")
    with pytest.raises(BadInput, match=r"images is .*none, and there is no such folder"):
        ask(home, network(), place, images=home / "none")
    with pytest.raises(BadInput, match="or below the folder that images names"):
        ask(home, network(), table(home, ORDER, under="nowhere"))
