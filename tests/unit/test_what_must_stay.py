"""Attributes that must stay: what pixels do to them, how it is said, and which of them are in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.attribute_images import write_attributes
from tests.unit.test_attribute_columns import Regions, table
from torch import Tensor

from unfooled import BadInput
from unfooled.cli.counterfactual import print_record, whole_flips
from unfooled.core.model.classifier import Classifier
from unfooled.counterfactuals.records import Counterfactual, CounterfactualRecord, Outcome
from unfooled.workflows import Inputs, counterfactual, counterfactuals


class Bound(Regions):
    """The second attribute is read where the first is; no pixel changes one alone."""

    def encode(self, x: Tensor) -> Tensor:
        e = super().encode(x)
        return torch.stack([e[:, 0], e[:, 0] + 0.02 * e[:, 1], e[:, 2]], 1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stay")
    write_attributes(folder / "photos" / "train" / "a", 40)
    return folder


def ask(home: Path, net: Regions, columns: dict[str, str], **options: Any) -> CounterfactualRecord:
    model = Classifier(net, classes=["one", "two", "three"], attributes=list(columns)).eval()
    data = home / "photos" / "train" / "a"
    steps = options.pop("steps", 40)
    return counterfactual(Inputs(model, data, n=12), table(home, columns), steps=steps, out=home / "out", **options)


PLAIN = {"top": "top", "left": "left", "middle": "middle"}
TWICE = {"top": "top", "again": "top", "middle": "middle"}


def drift(record: CounterfactualRecord, name: str) -> list[float]:
    rows = [row for one in record.results if one.outcome == Outcome.DONE for row in one.rows]
    return [abs(row.reached or 0.0) for row in rows if row.name == name]


def test_pixels_leave_what_must_stay_where_they_can(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ask(home, Regions(), PLAIN, keep=["left"])
    monkeypatch.setattr(counterfactuals, "STAY", 1.0)
    loose = ask(home, Regions(), PLAIN, keep=["left"])
    assert len(drift(record, "left")) >= len(drift(loose, "left")) > 5
    assert max(drift(record, "left")) < 0.5 * max(drift(loose, "left"))
    done = [one for one in record.results if one.outcome == Outcome.DONE]
    assert all(row.stays is (row.name == "left" or None) for one in done for row in one.rows)
    assert all("What must stay does, within 0." in one.sentence for one in done)
    assert all(row.asked == 0 for one in done for row in one.rows if row.name == "left")
    free = ask(home, Regions(), PLAIN)
    assert all(row.stays is None for one in free.results for row in one.rows)
    assert not any("must stay" in one.sentence for one in free.results)


def test_what_moves_although_it_must_stay_is_said_to(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The image is found all the same: by a second search, in which the attribute weighs as others do."""
    net = Bound()
    net.head.weight.data = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    record = ask(home, net, TWICE, keep=["again"], target="two")
    moved = [one for one in record.results if any(row.stays is False for row in one.rows)]
    assert moved and all(one.outcome == Outcome.DONE for one in moved)
    assert record.tolerance == 0.25
    for one in moved:
        row = next(row for row in one.rows if row.stays is False)
        assert row.name == "again"
        assert abs(row.reached or 0.0) > 0.25 or row.before * (row.achieved or 0.0) < 0
        assert f"It does not leave what must stay: again {row.reached:+.2f} switches." in one.sentence
    html = (home / "out" / "counterfactual.html").read_text()
    assert html.count("must stay, and does not") == len(moved)
    assert "weighs ten times as much" in html
    print_record(record, home / "out")
    printed = capsys.readouterr().out
    assert "again (must stay)" in printed
    assert "does not leave what must stay" in printed


def test_an_attribute_that_crosses_its_boundary_does_not_stay() -> None:
    from unfooled.workflows.counterfactual_answers import _stays

    assert _stays(0.5, 0.2, 0.0) and _stays(-0.5, -0.2, 0.0)
    assert not _stays(0.5, 0.3, 0.0)
    assert not _stays(0.1, -0.15, 0.0)  # little, but over the boundary
    assert not _stays(0.4, 0.2, 0.5)


def test_only_what_is_in_the_way_is_blamed(home: Path) -> None:
    """The second class needs more of the top or less of the left; the middle has nothing to do with it."""
    net = Regions()
    net.head.weight.data = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    net.head.bias.data = torch.tensor([0.0, -1.0, -90.0])
    record = ask(home, net, PLAIN, keep=["top", "middle"], target="two", steps=2)
    barred = [one for one in record.results if one.outcome == Outcome.INFEASIBLE]
    assert len(barred) > 3
    assert all(one.sentence.endswith("short; top must stay.") for one in barred)
    record = ask(home, net, PLAIN, keep=["middle"], target="three", steps=2)
    barred = [one for one in record.results if one.outcome == Outcome.INFEASIBLE]
    assert len(barred) == 12
    assert all("; middle must stay" in one.sentence for one in barred)
    record = ask(home, net, PLAIN, keep=["left"], target="three", steps=2)
    assert all(one.sentence.endswith("short; an edit goes at most 1 switch beyond the values of the table.")
               for one in record.results)  # fmt: skip


def test_two_that_are_in_the_way_together(home: Path) -> None:
    """Against two rivals at once, neither attribute helps alone."""
    net = Regions()
    net.head.weight.data = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    net.head.bias.data = torch.tensor([30.0, 30.0, 0.0])
    record = ask(home, net, PLAIN, keep=["top", "left"], target="three", steps=2)
    for one in record.results:
        assert one.outcome == Outcome.INFEASIBLE
        assert "top, left must stay" in one.sentence or "; top must" in one.sentence or "; left must" in one.sentence


def test_what_cannot_be_read_cannot_be_said_to_stay(home: Path) -> None:
    luck = home / "luck.csv"
    lines = table(home, PLAIN).read_text().splitlines()
    drawn = torch.rand(len(lines), generator=torch.Generator().manual_seed(1)) > 0.5
    luck.write_text("\n".join([lines[0] + ",luck", *(f"{a},{int(b)}" for a, b in zip(lines[1:], drawn, strict=False))]))
    model = Classifier(Regions(), attributes=["a", "b", "c"]).eval()
    data = home / "photos" / "train" / "a" / "03.png"
    record = counterfactual(Inputs(model, data), luck, keep=["luck"], steps=2, out=home / "out")
    assert "luck cannot be read off the network: whether it stays is not known." in record.warnings
    assert next(row.stays for row in record.results[0].rows if row.name == "luck") is None


def test_the_fewest_whole_attributes_are_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = ask(home, Regions(), PLAIN, steps=2)
    one = next(one for one in record.results if one.whole)
    print_record(record.model_copy(update={"results": [one]}), home / "out")
    assert f"Fewest whole attributes to flip: {', '.join(one.whole or [])}." in capsys.readouterr().out
    assert whole_flips(_with(one, whole=None)) == "No flips of whole attributes are enough."
    assert whole_flips(_with(one, whole_exact=False)).startswith("At most these whole attributes to flip: ")


@pytest.mark.parametrize(
    ("target", "number"), [("round_cool", 0), ("Round cool", 0), ("2", 2), (1, 1), ("rusty blackbird", 3), (None, None)]
)
def test_a_class_is_named_as_its_reader_would(target: str | int | None, number: int | None) -> None:
    from unfooled.workflows.counterfactuals import _class_of

    assert _class_of(target, ["round_cool", "a-b", "a b", "Rusty_Blackbird"]) == number
    for unknown in ("A b", "4", 4):  # two classes are called so, or none
        with pytest.raises(BadInput, match="there is no such class"):
            _class_of(unknown, ["round_cool", "a-b", "a b", "Rusty_Blackbird"])


def _with(one: Counterfactual, **fields: Any) -> Counterfactual:
    return one.model_copy(update=fields)
