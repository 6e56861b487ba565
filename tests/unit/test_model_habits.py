"""Models that write into their input, and models whose logits are one of several outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unfooled import QUICK, BadInput, Linf, Plan, attacks, audit, explanations, load_data
from unfooled.core.goals import read_logits
from unfooled.core.model import Classifier, logits_from
from unfooled.core.model.calls import copied, noticing
from unfooled.evaluation.checks.subject import inspect_model
from unfooled.training import Batches, Fast, Madry, Standard, Trades, train


def net() -> nn.Module:
    """A small convolutional network that has learnt a little of the digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 10))
    x, y = load_data("digits", split="train", n=300)
    o = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        o.zero_grad()
        nn.functional.cross_entropy(model(x / 0.5 - 0.6), y).backward()
        o.step()
    return model.eval()


NET = net()
X, Y = load_data("digits", n=12)


class Clean(nn.Module):
    """The same computation, written out of place."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NET

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.3) / 0.5)


class InPlace(Clean):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.3).div_(0.5))


class ThroughView(Clean):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        flat[:] = (flat - 0.3) / 0.5
        return self.net(x)


class ThroughData(Clean):
    def forward(self, x: Tensor) -> Tensor:
        x.data.sub_(0.3)
        return self.net(x / 0.5)


WRITERS = [InPlace, ThroughView, ThroughData]
THREAT = Linf(0.1)
USES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "pgd": lambda m, x: attacks.pgd(m, x, Y, THREAT, steps=4),
    "square": lambda m, x: attacks.square(m, x, Y, THREAT, steps=30),
    "ddn": lambda m, x: attacks.ddn(m, x, Y, 2, steps=5),
    "hop_skip_jump": lambda m, x: attacks.hop_skip_jump(m, x, Y, 2, steps=60),
    "saliency": lambda m, x: explanations.saliency(m, x, Y),
    "integrated_gradients": lambda m, x: explanations.integrated_gradients(m, x, Y, steps=3),
    "grad_cam": lambda m, x: explanations.grad_cam(m, x, Y),
}


@pytest.mark.filterwarnings("ignore:The model writes")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", WRITERS)
def test_a_model_that_writes_gives_what_the_same_model_out_of_place_gives(kind: type[Clean], use: str) -> None:
    x = X.clone()
    value = USES[use](kind().eval(), x)
    assert torch.equal(x, X)
    assert torch.allclose(value, USES[use](Clean().eval(), X.clone()), atol=1e-6)


def test_writing_is_said_once_and_is_a_warning_of_the_audit() -> None:
    model = InPlace().eval()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        attacks.pgd(model, X, Y, THREAT, steps=2)
        explanations.saliency(model, X, Y)
    assert [str(w.message).split(";")[0] for w in seen] == ["The model writes into its input"]
    for subject in (model, InPlace().eval()):
        assert ["writes into its input" in w for w in inspect_model(subject, X, Y).warnings] == [True]
    assert not inspect_model(Clean().eval(), X, Y).warnings


class Late(Clean):
    """Write from the third call on, as autograd counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def write(self, x: Tensor) -> Tensor:
        return x.detach().sub_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net((self.write(x) if self.calls > 2 and not x.requires_grad else x - 0.3) / 0.5)


class LateThroughNumpy(Late):
    """Write through an array, which autograd does not count."""

    def write(self, x: Tensor) -> Tensor:
        view = x.detach().numpy()
        view -= 0.3
        return torch.from_numpy(view)


@pytest.mark.filterwarnings("ignore:The model writes")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", [Late, LateThroughNumpy])
def test_a_model_that_writes_later_gives_what_the_same_model_out_of_place_gives(kind: type[Clean], use: str) -> None:
    x = X.clone()
    value = USES[use](kind().eval(), x)
    assert torch.equal(x, X)
    assert torch.allclose(value, USES[use](Clean().eval(), X.clone()), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The model writes")
def test_points_stay_in_the_threat_where_a_model_writes_only_to_some_values() -> None:
    class Some(Clean):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) < len(X):  # the first call sees all samples
                x.data[:, :, 0, 0] = 0.9
            return super().forward(x)

    z = attacks.pgd(Some().eval(), X, Y, THREAT, steps=4)
    assert float((z - X).abs().max()) <= 0.1 + 1e-6


def test_a_later_write_is_said_once() -> None:
    model, x = Late().eval(), X.clone()
    with noticing() as notes:
        for _ in range(4):
            logits_from(model, x)
    assert ["writes into its input" in note for note in notes] == [True]
    assert torch.equal(x, X)


class OnGrid(Clean):
    """Round the input to the grid of clean samples, by a write that autograd does not count."""

    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(16).round_().div_(16)
        return super().forward(x)


class OnGridThroughNumpy(Clean):
    def forward(self, x: Tensor) -> Tensor:
        view = x.detach().numpy()
        view[...] = (view * 16).round() / 16
        return super().forward(x)


class ForGradients(Clean):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.data = (x.data * 16).round() / 16
        return super().forward(x)


@pytest.mark.parametrize("kind", [OnGrid, OnGridThroughNumpy, ForGradients])
def test_a_write_that_is_not_counted_is_said_where_it_changes_no_clean_sample(kind: type[Clean]) -> None:
    model, x = kind().eval(), X.clone()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with torch.no_grad():
            read_logits(model, x)
        attacks.pgd(model, x, Y, THREAT, steps=10)
    assert ["writes into its input" in str(w.message) for w in seen] == [True]
    assert torch.equal(x, X)
    plan = Plan(effort=QUICK, nearest_budget=100, nearest_n=1, explain_n=1, reasons=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = audit(kind().eval(), X[:4], Y[:4], THREAT, plan=plan) if kind is OnGrid else None
    assert found is None or sum("writes into its input" in text for text in found.warnings) == 1


class Small(nn.Module):
    """A network to train."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Any:
        return self.head((x.flatten(1) - 0.3) / 0.5)


class SmallInPlace(Small):
    def forward(self, x: Tensor) -> Any:
        return self.head(x.sub_(0.3).div_(0.5).flatten(1))


class SmallThroughNumpy(Small):
    def forward(self, x: Tensor) -> Any:
        view = x.detach().numpy()
        view -= 0.3
        return self.head(x.flatten(1) / 0.5)


class SmallFeaturesFirst(Small):
    def forward(self, x: Tensor) -> Any:
        return x.flatten(1), super().forward(x)


class SmallDict(Small):
    def forward(self, x: Tensor) -> Any:
        return {"hidden": x.flatten(1), "logits": super().forward(x)}


@pytest.mark.filterwarnings("ignore:The model")
@pytest.mark.parametrize("loss", [Standard(), Trades(THREAT, steps=2), Madry(THREAT, steps=2), Fast(THREAT)], ids=str)
@pytest.mark.parametrize("kind", [SmallInPlace, SmallThroughNumpy, SmallFeaturesFirst, SmallDict])
def test_training_reads_a_network_as_the_attacks_do(kind: type[Small], loss: Any) -> None:
    def weights(build: type[Small]) -> tuple[Tensor, float | None]:
        torch.manual_seed(0)
        model, x, held_out = build(), X.clone(), X.clone()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        *_, last = train(model, Batches(x, Y, size=6), loss, optimizer, epochs=2, held_out=(held_out, Y))
        assert torch.equal(x, X)
        assert torch.equal(held_out, X)
        return model.head.weight.detach(), last.accuracy

    (weight, accuracy), (expected, right) = weights(kind), weights(Small)
    assert torch.allclose(weight, expected, atol=1e-6)
    assert accuracy == right


def test_outputs_of_a_network_to_train_that_cannot_be_told_apart_are_refused_before_the_first_step() -> None:
    class Two(Small):
        def forward(self, x: Tensor) -> Any:
            z = super().forward(x)
            return z, z.flip(1)

    model = Two()
    before = model.head.weight.detach().clone()
    with pytest.raises(BadInput, match=r"output\[0\] \(2, 10\), output\[1\] \(2, 10\) they are is not clear"):
        next(train(model, Batches(X, Y), Standard(), torch.optim.SGD(model.parameters(), 0.1), epochs=1))
    assert torch.equal(model.head.weight, before)


class Several(nn.Module):
    """Features and logits in a form of one's own."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.clean, self.form = Clean(), form

    def forward(self, x: Tensor) -> Any:
        z = self.clean(x)
        return self.form(torch.cat([x.flatten(1), x.flatten(1)], 1), z)


class Bag:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


class Slots:
    __slots__ = ("embedding", "head")

    def __init__(self, embedding: Tensor, head: Tensor) -> None:
        self.embedding, self.head = embedding, head


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "features first": (lambda f, z: (f, z), "output[1]"),
    "a list": (lambda f, z: [f, z], "output[1]"),
    "nested": (lambda f, z: (f, (f, z)), "output[1][1]"),
    "a dict": (lambda f, z: {"embedding": f, "scores": z}, "output['scores']"),
    "an object": (lambda f, z: Bag(embedding=f, head=z), "output.head"),
    "an object with slots": (Slots, "output.head"),
    "another head": (lambda f, z: (z.roll(1, 1), z), "output[1]"),
    "one in a dict": (lambda f, z: {"scores": z}, ""),
    "logits first": (lambda f, z: (z, f), ""),
    "a loss first": (lambda f, z: (f.mean(), z), "output[1]"),
    "and probabilities": (lambda f, z: (z.softmax(1), z), "output[1]"),
    "then probabilities": (lambda f, z: (z, z.softmax(1)), "give the same probabilities; output[0] was taken"),
    "twice": (lambda f, z: (z, z), "output[0] and output[1] give the same probabilities; output[0] was taken"),
    "twice in a dict": (lambda f, z: {"a": f, "b": z, "c": z}, "output['b'] and output['c'] give the same"),
    "named": (lambda f, z: {"embedding": f, "logits": z}, ""),
}


@pytest.mark.filterwarnings("ignore:The model returned")
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_logits_are_found_among_several_outputs(form: str, wrap: bool) -> None:
    build, place = FORMS[form]

    def fresh() -> nn.Module:
        return Classifier(Several(build)).eval() if wrap else Several(build).eval()

    plain = Clean().eval()
    for use in ("pgd", "saliency", "square"):
        assert torch.equal(USES[use](fresh(), X), USES[use](plain, X))
    model = fresh()
    subject = inspect_model(model, X, Y)
    assert subject.classes == 10
    assert [place in w for w in subject.warnings] == ([True] if place else [])
    assert torch.equal(read_logits(model, X[:1]), read_logits(plain, X[:1]))  # known by now, without labels
    assert torch.equal(read_logits(copied(model), X[:1]), read_logits(plain, X[:1]))


def test_sparse_logits_are_refused_with_the_mend() -> None:
    model = Several(lambda f, z: z.to_sparse()).eval()
    with pytest.raises(BadInput, match=r"layout torch.sparse_coo; return logits.to_dense"):
        attacks.pgd(model, X, Y, THREAT)


@pytest.mark.parametrize("wrap", [False, True])
def test_outputs_that_cannot_be_told_apart_are_refused_with_the_line_to_write(wrap: bool) -> None:
    def fresh(form: Callable[[Tensor, Tensor], Any]) -> nn.Module:
        return Classifier(Several(form)).eval() if wrap else Several(form).eval()

    two = fresh(lambda f, z: (z, 2 * z.roll(1, 0) * 0 + z * 3 + 0.1 * f[:, :10]))
    with pytest.raises(BadInput, match=r"output\[0\] \(12, 10\), output\[1\] \(12, 10\).*2 agree.*net\(x\)\[1\]"):
        attacks.pgd(two, X, Y, THREAT)
    none = fresh(lambda f, z: {"a": f, "b": -z})
    with pytest.raises(BadInput, match=r"output\['a'\] \(12, 128\).*none agrees.*lambda x: net\(x\)\['"):
        explanations.saliency(none, X, Y)
    with pytest.raises(BadInput, match="no labels to tell by"):
        read_logits(fresh(lambda f, z: (f, z)), X)
