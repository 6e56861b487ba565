"""A single output, and several labels per sample, audited as what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import unfooled as uf
from unfooled.core.errors import BadInput, OneOutput
from unfooled.core.goals import read_logits
from unfooled.core.losses import margin
from unfooled.core.model.calls import noticing
from unfooled.core.model.two_class import multi_label, two_class

PLAN = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=8, explain_n=1, gallery=1, floor=2000, reasons=None)


def affine(outputs: int, d: int = 12) -> nn.Linear:
    net = nn.Linear(d, outputs)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net.weight.copy_(torch.randn(outputs, d, generator=generator))
        net.bias.copy_(-net.weight.sum(1) / 2)
    return net.eval()


def samples(n: int = 24, d: int = 12) -> Tensor:
    return 0.3 + 0.4 * torch.rand(n, d, generator=torch.Generator().manual_seed(2))


class Squashed(nn.Module):
    """A sigmoid behind a network."""

    def __init__(self, net: nn.Module, *, flat: bool = False) -> None:
        super().__init__()
        self.net, self.flat = net, flat

    def forward(self, x: Tensor) -> Tensor:
        p = self.net(x).sigmoid()
        return p[:, 0] if self.flat else p


@pytest.mark.parametrize("form", ["logit", "flat logit", "probability", "flat probability"])
def test_single_output_has_the_optimum_of_its_logit(form: str) -> None:
    net, x = affine(1), samples()
    z = net(x)[:, 0].detach()
    y = (z > 0).long()
    model: Any = {
        "logit": net, "flat logit": lambda a: net(a)[:, 0], "probability": Squashed(net),
        "flat probability": Squashed(net, flat=True),
    }[form]  # fmt: skip
    distance = z.abs() / net.weight.detach().abs().sum()  # in Linf, of an affine function
    eps = float(distance.median()) * 1.001
    summary = uf.audit(model, x, y, uf.Linf(eps), plan=PLAN)
    assert summary.clean_accuracy.value == 1
    assert summary.robust_accuracy.value == pytest.approx(float((distance > eps).double().mean()))
    kind = "a probability" if "probability" in form else "a logit"
    assert any(f"single output, which was taken for {kind} of the second" in w for w in summary.warnings)


def test_single_output_is_a_model_of_two_classes() -> None:
    net, x = affine(1), samples(6)
    with noticing():
        model = two_class(net, x)
        squashed = two_class(Squashed(net), x)
    z = net(x)
    assert torch.allclose(model(x), torch.cat([-z, z], 1) / 2)
    assert torch.allclose(squashed(x), model(x), atol=1e-4)
    with pytest.raises(OneOutput, match=r"unfooled\.two_class"):
        read_logits(net, x)
    with pytest.raises(BadInput, match="has 3 outputs"):
        two_class(affine(3), x)
    with pytest.raises(BadInput, match="give x"):
        two_class(net)


def test_logits_that_lie_between_0_and_1_are_told_by_the_labels() -> None:
    x = samples(8)
    y = torch.tensor([0, 1] * 4)
    small = torch.where(y == 1, 0.3, 0.1)[:, None]  # as probabilities, all would be of class 0

    with noticing() as said:
        model = two_class(lambda a: small[: len(a)], x, torch.ones(8, dtype=torch.long))
    assert "a logit" in said[0]
    assert model(x).argmax(1).tolist() == [1] * 8


@pytest.mark.parametrize("probabilities", [False, True])
def test_any_label_changed(probabilities: bool) -> None:
    net, x = affine(4), samples()
    z = net(x).detach()
    y = (z > 0).float()
    model = Squashed(net) if probabilities else net
    distance = (z.abs() / net.weight.detach().abs().sum(1)).amin(1)
    eps = float(distance.median()) * 1.001
    summary = uf.audit(model, x, y, uf.Linf(eps), plan=PLAN, classes=["cat", "dog", "sky", "sea"])
    assert summary.clean_accuracy.value == 1
    assert summary.robust_accuracy.value == pytest.approx(float((distance > eps).double().mean()))
    assert any("have 4 labels; a change of any of them counts" in w for w in summary.warnings)
    assert "none" in summary.classes or any("+" in name for name in summary.classes)


def test_classes_are_right_exactly_where_all_labels_are() -> None:
    net, x = affine(5), samples(200)
    z = net(x).detach()
    y = (z > 0).long()
    y[::3, 1] ^= 1
    with noticing():
        model, classes, names = multi_label(net, y, x)
    right = ((z > 0).long() == y).all(1)
    logits = model(x).detach()
    assert torch.equal(logits.argmax(1) == classes, right)
    weakest = (torch.where(y == 1, z, -z)).amin(1)
    assert torch.allclose(margin(logits, classes)[right], -weakest[right], atol=1e-4)
    assert names[int(classes[1])] == "+".join(str(k) for k in range(5) if y[1, k]) or "none"


def test_a_chosen_label() -> None:
    net, x = affine(4), samples(10)
    y = (net(x) > 0).long()
    with noticing():
        model, classes, names = multi_label(net, y, x, label=2, names=["a", "b", "c", "d"])
    z = net(x)[:, 2]
    assert names == ["not c", "c"]
    assert torch.equal(classes, y[:, 2])
    logits = model(x)
    assert torch.allclose(logits[:, 1] - logits[:, 0], z, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "options", "sentence"),
    [
        (torch.tensor([[0, 2]] * 4), {}, "of 0 and 1"),
        (torch.zeros(4, 3), {}, "has 2 outputs, and y 3 labels"),
        (torch.zeros(4, 2), {"label": 2}, "label is 2; there are 2"),
        (torch.zeros(4, 2), {"names": ["a"]}, "1 names for 2 labels"),
    ],
)
def test_labels_that_are_refused(y: Tensor, options: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        multi_label(affine(2), y, samples(4), **options)


def test_too_many_sets_of_labels_ask_for_one() -> None:
    y = torch.randint(0, 2, (600, 60), generator=torch.Generator().manual_seed(0))
    with pytest.raises(BadInput, match="choose one label: label=0"):
        multi_label(affine(60), y, samples(600))


def test_single_output_from_a_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(affine(1).state_dict(), tmp_path / "net.pt")
    (tmp_path / "mine.py").write_text(
        "import torch\ndef build():\n    net = torch.nn.Linear(12, 1)\n"
        f"    net.load_state_dict(torch.load(r'{tmp_path / 'net.pt'}', weights_only=True))\n    return net\n"
    )
    x = samples(8)
    y = (affine(1)(x)[:, 0] > 0).long()
    loaded = uf.workflows.Inputs(f"{tmp_path / 'mine.py'}:build", (x, y)).load("cpu", seed=0)
    assert torch.equal(loaded.model(x).argmax(1), y)
    assert any("single output" in note for note in loaded.warnings)


def test_one_output_cannot_tell_three_classes() -> None:
    x = torch.rand(6, 4)
    with pytest.raises(BadInput, match=r"one output, which can tell two classes, and labels lie in \[0, 2\]"):
        two_class(lambda z: z[:, :1], x, torch.tensor([0, 1, 2, 0, 1, 2]))


class Pairs(Dataset[Any]):
    """Samples with several labels each, one by one."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.x[row], self.y[row]


class Listed(IterableDataset[Any]):
    """Samples with lists of labels, in order only."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        return ((a, b.tolist()) for a, b in zip(self.x, self.y, strict=True))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
@pytest.mark.parametrize(
    "kind", ["set", "loader", "lists", "streamed lists", "as many as labels", "own collate", "tensors"]
)
def test_data_sets_with_several_labels(kind: str, dtype: torch.dtype) -> None:
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    head = nn.Linear(16, 3)
    net = nn.Sequential(nn.Flatten(), head).eval()
    with torch.no_grad():
        head.weight.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))
        head.bias.copy_(-0.5 * head.weight.sum(1))
        y = (net(x) > 0).to(dtype)
    assert len({int(row.sum()) for row in y}) > 1
    pairs = Pairs(x, y)
    sources: dict[str, Any] = {
        "set": pairs, "loader": DataLoader(pairs, 5), "tensors": TensorDataset(x, y),
        "lists": DataLoader([(a, b.tolist()) for a, b in zip(x, y, strict=True)], 3),  # type: ignore[arg-type]
        "streamed lists": DataLoader(Listed(x, y), 5),
        "as many as labels": DataLoader(Listed(x, y), 3),
        "own collate": DataLoader(pairs, 5, collate_fn=lambda items: tuple(map(torch.stack, zip(*items, strict=True)))),
    }  # fmt: skip
    threat = uf.Linf(0.02)
    found = uf.robust_accuracy(net, sources[kind], None, threat)
    assert found == uf.robust_accuracy(net, x, y.long(), threat)
    changed = (net(x).abs() <= 0.02 * head.weight.abs().sum(1)).any(1)  # exact for a linear network, but for the box
    assert 0 < (found.value or 0) < 1
    assert (found.value or 0) >= 1 - float(changed.double().mean())


def test_rows_that_look_one_hot_are_classes_written_otherwise() -> None:
    x = torch.rand(6, 4)
    y = nn.functional.one_hot(x.argmax(1), 4)
    for call in (uf.audit, uf.robust_accuracy):
        with pytest.raises(BadInput, match=r"looks one-hot; give the classes, y\.argmax\(1\)"):
            call(lambda z: z, x, y, uf.Linf(0.1))
