"""Networks in half precision: they get their input in it, and everything computed from the logits is float32."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unfooled as uf
from unfooled.attacks import alma, fgsm, pgd, square
from unfooled.certification import certify
from unfooled.core.goals import read_logits
from unfooled.core.model import Classifier, bind, noticing, run
from unfooled.core.model.calls import habits_of, half_of
from unfooled.core.model.encoder import Encoder
from unfooled.data import load_data
from unfooled.evaluation.checks.before import rounding
from unfooled.explanations import grad_cam, integrated_gradients, lime_map, saliency
from unfooled.training import Batches, Standard, train
from unfooled.workflows.inputs import Inputs

KINDS = (torch.float16, torch.bfloat16)
PLAN = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=2, explain_n=1, reasons=None)
X, Y = load_data("digits", n=8)


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 10))


class Mixed(nn.Module):
    """A trunk in half precision with a head in single."""

    def __init__(self, net: nn.Sequential, kind: torch.dtype) -> None:
        super().__init__()
        self.trunk, self.head = net[:-1].to(kind), net[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).float())


class Auto(nn.Module):
    """A network that computes in bfloat16 inside, and returns it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


@pytest.fixture(scope="module")
def trained() -> dict[str, nn.Sequential]:
    nets = {}
    x, y = load_data("digits", split="train")
    for make in (conv, mlp):
        torch.manual_seed(0)
        net = make()
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(2):
            for i in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[i]), y[i]).backward()
                optimizer.step()
        nets[make.__name__] = net.eval()
    return nets


def variants(net: nn.Sequential, kind: torch.dtype) -> dict[str, Any]:
    own = copy.deepcopy(net).to(kind)
    return {
        "all": own,
        "mixed": Mixed(copy.deepcopy(net), kind).eval(),
        "classifier": Classifier(copy.deepcopy(own)).eval(),
        "function": lambda z: own(z * 1.0),
        "auto": Auto(net).eval(),
    }


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("name", ["conv", "mlp"])
def test_logits_points_and_maps_are_float32(trained: dict[str, nn.Sequential], name: str, kind: torch.dtype) -> None:
    net, threat = trained[name], uf.Linf(0.1)
    clean = net(X).detach()
    for form, model in variants(net, kind).items():
        for x in (X, X.to(kind)):
            if form == "auto" and x is not X:
                continue
            with torch.no_grad():
                logits = read_logits(model, x.float(), Y)
            assert logits.dtype == torch.float32
            torch.testing.assert_close(logits, clean, atol=0.03 * float(clean.abs().max()), rtol=0)
            wide, points = x.float(), pgd(model, x, Y, threat, steps=5)
            assert points.dtype == torch.float32
            assert float((points - wide).abs().max()) <= 0.1 + 1e-7
            assert float(points.min()) >= 0
            assert float(points.max()) <= 1
            verdict = uf.verify(model, x, Y, points, threat)
            assert bool(verdict.inside.all())
            assert not bool(verdict.undefined.any())
            expected = uf.verify(net, wide, Y, pgd(net, wide, Y, threat, steps=5), threat)
            assert int((verdict.success != expected.success).sum()) <= 1
            for explain in (saliency, integrated_gradients):
                attribution = explain(model, x, Y)
                assert attribution.dtype == torch.float32
                assert bool(torch.isfinite(attribution).all())


def test_other_attacks_and_maps_take_half_samples_too(trained: dict[str, nn.Sequential]) -> None:
    model = copy.deepcopy(trained["conv"]).half()
    x = X.half()
    for attack in (fgsm, partial(square, steps=20)):
        assert attack(model, x, Y, uf.Linf(0.1)).dtype == torch.float32
    assert alma(model, x, Y, 2, steps=10).dtype == torch.float32
    for explain in (grad_cam, lime_map):
        assert explain(model, x[:1], Y[:1]).dtype == torch.float32
    assert Encoder(model, "0")(X).dtype == torch.float32
    assert Classifier(model).features(X, "0").dtype == torch.float32
    got, expected = (
        uf.robust_accuracy(m, z, Y, uf.Linf(0.05), attack=fgsm) for m, z in ((model, x), (trained["conv"], X))
    )
    assert got == expected


@pytest.mark.parametrize(("name", "form", "kind"), [("conv", "all", KINDS[1]), ("mlp", "mixed", KINDS[0])])
def test_the_verdict_is_that_of_the_float32_network(
    trained: dict[str, nn.Sequential], name: str, form: str, kind: torch.dtype
) -> None:
    net = trained[name]
    expected = uf.audit(net, X, Y, uf.Linf(0.1), plan=PLAN)
    x = X.half() if form == "mixed" else X
    got = uf.audit(variants(net, kind)[form], x, Y, uf.Linf(0.1), plan=PLAN)
    assert got.verdict == expected.verdict
    assert got.clean_accuracy == expected.clean_accuracy
    assert got.robust_accuracy.value == pytest.approx(expected.robust_accuracy.value, abs=1.01 / len(X))
    assert any(f"has {str(kind).removeprefix('torch.')} weights" in text for text in got.warnings)


def test_a_classifier_normalises_before_the_input_is_narrowed(trained: dict[str, nn.Sequential]) -> None:
    net = copy.deepcopy(trained["mlp"]).bfloat16()
    model = Classifier(net, mean=0.3, std=0.2)
    with torch.no_grad():
        assert torch.equal(read_logits(model, X), net(((X - 0.3) / 0.2).bfloat16()).float())


def test_the_door_follows_the_weights(trained: dict[str, nn.Sequential]) -> None:
    net = copy.deepcopy(trained["conv"])
    with torch.no_grad():
        clean = read_logits(net, X)
        first = read_logits(net.half(), X)
        assert not torch.equal(first, clean)
        assert torch.equal(read_logits(net, X), first)
        twin = copy.deepcopy(net).double()
        assert read_logits(twin, X.double()).dtype == torch.float64
        assert torch.equal(read_logits(net.bfloat16(), X), net(X.bfloat16()).float())
        assert read_logits(net.float(), X).dtype == torch.float32
        torch.testing.assert_close(read_logits(net, X), net(X))


def test_a_network_that_casts_by_itself_gets_its_input_as_it_is() -> None:
    seen = []

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3).half()

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return self.head(((x - 0.5) / 0.25).flatten(1).half())

    with torch.no_grad():
        assert run(Own().eval(), X).dtype == torch.float16
    assert seen == [torch.float32]


def test_a_half_network_that_writes_into_its_input_is_noticed() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 3).half()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x.sub_(0.5).flatten(1))

    x, model = X.clone(), Writes().eval()
    with noticing() as notes, torch.no_grad():
        read_logits(model, x)
    assert len(notes) == 1
    assert torch.equal(x, X)


def test_a_second_input_is_narrowed_with_the_first_and_the_numbers_of_samples_are_not() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(66, 3)

        def forward(self, image: Tensor, meta: Tensor, place: Tensor) -> Tensor:
            return self.head(torch.cat([image.flatten(1), meta, place[:, None].to(image)], 1))

    torch.manual_seed(0)
    net, meta, place = Two().eval(), torch.rand(8, 1), torch.arange(8)
    exact = net(X, meta, place).detach()
    bound = bind(net.half(), attacked="image", meta=meta, place=place)
    with torch.no_grad():
        got = read_logits(bound, bound.pack(X))
    torch.testing.assert_close(got, exact, atol=0.02, rtol=0)


def test_checks_allow_for_the_precision(trained: dict[str, nn.Sequential]) -> None:
    logits = torch.tensor([[1.0, -2.0]])
    for kind, part in ((torch.float16, 5e-3), (torch.bfloat16, 3e-2), (torch.float32, 1e-4)):
        model = copy.deepcopy(trained["mlp"]).to(kind)
        assert half_of(model) == (None if kind == torch.float32 else kind)
        assert rounding(logits, model) == pytest.approx(2 * part)
    auto = Auto(trained["mlp"]).eval()
    assert half_of(auto) is None
    with torch.no_grad():
        read_logits(auto, X)
    assert half_of(auto) == torch.bfloat16
    assert habits_of(auto).enters is None  # type: ignore[union-attr]


def test_what_is_not_possible_is_refused_with_the_mend(trained: dict[str, nn.Sequential]) -> None:
    model = copy.deepcopy(trained["mlp"]).half()
    with pytest.raises(uf.BadInput, match=r"computes in float16, whose rounding no bound covers.*model\.float\(\)"):
        certify(model, X[:2], Y[:2], uf.Linf(0.01))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(uf.BadInput, match=r"has float16 weights, too coarse .* train model\.float\(\)"):
        next(train(model, Batches(X, Y), Standard(), optimizer, epochs=1))


def test_commands_load_a_half_model(trained: dict[str, nn.Sequential]) -> None:
    for kind in KINDS:
        loaded = Inputs(copy.deepcopy(trained["conv"]).to(kind), "digits", n=4).load("cpu")
        assert loaded.x.dtype == torch.float32
