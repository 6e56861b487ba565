"""Training of concept models from names and files: shapes, a folder with a table, options, and what cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unfooled.cli.train import print_record
from unfooled.core.errors import BadInput
from unfooled.data.made.shapes import ATTRIBUTES
from unfooled.models import load_model
from unfooled.models.nets.concept_cnn import ConceptCnn
from unfooled.training import ConceptBall, ConceptLoss, ConceptMadry, ConceptMargin, ConceptStability
from unfooled.workflows import LossOptions, Network, Recipe, catalog, train
from unfooled.workflows.concepts import attribute_auc, head_weights
from unfooled.workflows.losses import make_loss
from unfooled.workflows.training import TrainingRecord

NET = Network("concept-cnn")
SHORT = Recipe(epochs=1, n=32, batch=16, watch=0)


def test_shapes_have_attributes_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "a.pt"
    record = train("shapes:0.9", "concept", network=NET, recipe=SHORT, out=out)
    assert record.attributes == list(ATTRIBUTES) and record.left_out == []
    assert set(record.not_learnt) <= set(ATTRIBUTES) and record.not_learnt  # one epoch
    assert all(0 <= area < 0.95 for area in record.not_learnt.values())
    net = load_model(out)
    assert net.module.encode(torch.rand(1, 3, 32, 32)).shape == (1, 26)  # type: ignore[union-attr, operator]
    assert torch.load(out, weights_only=True)["attributes"] == list(ATTRIBUTES)
    again = train("shapes:0.9", "concept", network=NET, recipe=SHORT, out=out)
    assert again.trained == 0 and again.not_learnt == pytest.approx(record.not_learnt)


def test_the_weights_of_a_sparse_head_are_counted(tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=3, lr=0.03)
    counted = []
    for sparse in (None, 1.0):
        out = tmp_path / f"{sparse}.pt"
        record = train("shapes:0.9", "concept", options=LossOptions(sparse=sparse), network=NET, recipe=recipe, out=out)
        size = load_model(out).module.head.weight.abs()  # type: ignore[union-attr, operator]
        assert record.head_weights == (int((size > 1e-3 * size.max()).sum()), size.numel())
        counted.append(record.head_weights[0])
    assert counted[1] <= counted[0]
    net = ConceptCnn((3, 32, 32), 4, attributes=3)
    with torch.no_grad():
        net.head.weight.zero_()
        assert head_weights(net, 3) == (0, 12)
        net.head.weight[0] = torch.tensor([1.0, -0.5, 1e-4])
    assert head_weights(net, 3) == (2, 12)
    assert train("digits", recipe=SHORT, out=tmp_path / "d.pt").head_weights is None


def test_the_terminal_counts_the_weights_of_a_sparse_head(capsys: pytest.CaptureFixture[str]) -> None:
    record = TrainingRecord(
        out="a.pt", epochs=1, loss="concept", threat=None, trained=1, held_out_accuracy=None, stopped=None,
        head_weights=(7, 12),
    )  # fmt: skip
    print_record(record, quiet=False, sparse=True)
    assert "weights of the head that are not 0: 7 of 12" in capsys.readouterr().out
    print_record(record, quiet=False)
    assert "7 of 12" not in capsys.readouterr().out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos of two classes, and a table of their attributes."""
    root, rows = tmp_path / "photos", ["path,bright,red,paper"]
    for k in range(12):
        file = root / ("train" if k < 8 else "test") / ("light" if k % 2 else "dark") / f"{k}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((16, 16, 3), 200 if k % 2 else 50, np.uint8)
        pixels[..., 1:] = pixels[..., 1:] // (1 + k // 2 % 2)
        Image.fromarray(pixels).save(file)
        rows.append(f"{file.relative_to(root).as_posix()},{k % 2},{'' if k == 3 else k // 2 % 2},1")
    (tmp_path / "photos.csv").write_text("\n".join(rows))
    return root


@pytest.mark.parametrize("loss", ["concept", "concept-ball", "concept-margin", "concept-stability"])
def test_a_folder_is_paired_with_its_table(photos: Path, tmp_path: Path, loss: str) -> None:
    options = LossOptions(attributes=tmp_path / "photos.csv", weight=0.01 if "-m" in loss or "-s" in loss else None)
    record = train(photos, loss, options=options, network=NET, recipe=Recipe(epochs=2, batch=4), out=tmp_path / "a.pt")
    assert record.attributes == ["bright", "red"] and record.left_out == ["paper"]
    assert load_model(tmp_path / "a.pt").module.head.in_features == 2  # type: ignore[union-attr]
    (tmp_path / "short.csv").write_text("path,bright\ntrain/dark/0.png,0\n")
    with pytest.raises(BadInput, match=r"7 of 8 images below .* have no row in .*short.csv"):
        train(photos, loss, options=LossOptions(attributes=tmp_path / "short.csv"), network=NET, out=tmp_path / "b.pt")


def test_names_make_losses_with_their_options() -> None:
    assert {name for name in catalog.LOSSES if name.startswith("concept")} == {
        "concept", "concept-madry", "concept-ball", "concept-margin", "concept-stability",
    }  # fmt: skip
    joint: Any = make_loss("concept", None, LossOptions(label=0.5, attribute=0.2, sparse=0.1))
    assert isinstance(joint, ConceptLoss) and (joint.label, joint.attribute, joint.sparse) == (0.5, 0.2, 0.1)
    ball: Any = make_loss("concept-ball", None, LossOptions(rho=2.0))
    assert isinstance(ball, ConceptBall) and ball.rho == 2.0
    hard: Any = make_loss("concept-madry", "linf:0.1", LossOptions(attack_steps=3))
    assert isinstance(hard, ConceptMadry) and hard.steps == 3 and hard.threat.eps == 0.1
    margin: Any = make_loss("concept-margin", None, LossOptions(weight=0.2, label=0.4))
    assert isinstance(margin, ConceptMargin) and margin.weight == 0.2 and margin.base.label == 0.4  # type: ignore[attr-defined]
    both: Any = make_loss("concept-margin", "linf:0.1", LossOptions(base="concept-madry", attack_steps=2))
    assert isinstance(both.base, ConceptMadry) and both.base.steps == 2
    assert isinstance(make_loss("concept-stability"), ConceptStability)
    robust: Any = make_loss("concept", "linf:0.1", LossOptions(base="madry"))
    assert robust.base.threat.eps == 0.1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("digits", "concept"), "has no attributes of its own; give a table of them, attributes='table.csv'"),
        (("shapes", "concept-madry"), "needs an adversary"),
        (("shapes", "madry", "linf:0.1", LossOptions(label=0.5)), "takes no label"),
        (("shapes", "concept-margin", None, LossOptions(rho=0.5)), "takes no rho"),
        (("shapes", "concept", None, LossOptions(label=-1.0)), "label is -1"),
        (("digits", "concept", None, LossOptions(attributes="x.csv")), "is no folder of images"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(arguments: tuple[Any, ...], sentence: str, tmp_path: Path) -> None:
    data, loss, threat, options = (*arguments, None, None)[:4]
    with pytest.raises(BadInput, match=sentence):
        train(
            data,
            loss,
            threat=threat,
            options=options or LossOptions(),
            network=NET,
            recipe=SHORT,
            out=tmp_path / "a.pt",
        )


def test_other_networks_and_other_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="small-cnn has no head on attribute logits; give arch='concept-cnn'"):
        train("shapes", "concept", recipe=SHORT, out=tmp_path / "a.pt")
    loss = ConceptLoss(torch.zeros(5).long(), torch.rand(5, 2).round())
    with pytest.raises(BadInput, match="loss has 5 rows, and there are 32 samples"):
        train("shapes", loss, network=NET, recipe=SHORT, out=tmp_path / "a.pt")


def test_the_area_under_the_curve_counts_pairs() -> None:
    e = torch.tensor([[0.1, 1.0, 0.0], [0.4, 1.0, 1.0], [0.35, 1.0, 2.0], [0.8, 1.0, 3.0]])
    nan = float("nan")
    a = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 0, nan], [1, 1, nan]])
    areas = attribute_auc(e, a)
    assert areas[:2].tolist() == pytest.approx([0.75, 0.5])
    assert torch.isnan(areas[2])
