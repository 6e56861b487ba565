"""Every broken defence and honest network: the wrapper is what it says, and the audit judges it as it should."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.conftest import points
from torch import nn

from unfooled.attacks.pgd import pgd
from unfooled.core.checks import check_mode
from unfooled.core.losses import margin
from unfooled.evaluation.audit.records import Summary
from unfooled.models import SmallCnn
from unfooled.studies.broken_defences import defences as d
from unfooled.studies.broken_defences import parts
from unfooled.studies.broken_defences.bench import DefenceBench
from unfooled.studies.broken_defences.cases import CASES, Case
from unfooled.studies.broken_defences.judging import audited, passes_suite
from unfooled.studies.broken_defences.networks import Ibp, bounds
from unfooled.studies.broken_defences.scale import SCALES

TINY = replace(SCALES["small"], n=40, epochs=5, arch=partial(SmallCnn, width=8))
BY_NAME = {case.name: case for case in CASES}
BROKEN = [case for case in CASES if case.kind == "broken"]
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)


@pytest.fixture(scope="session")
def bench() -> DefenceBench:
    return DefenceBench(TINY)


def test_the_suite_is_whole() -> None:
    assert [case.number for case in CASES] == list(range(1, 42))
    assert [case.number for case in CASES if case.kind == "refused"] == [28, 29, 30, 31, 32]
    assert [case.number for case in CASES if case.quiet] == [12, 13, 27]
    assert len({case.key for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.hides.endswith("."), case.name
        assert "\n" not in case.hides, case.name


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.key)
def test_it_predicts_as_its_network_does_and_has_no_robustness(case: Case, bench: DefenceBench) -> None:
    model, x, y, _ = bench.subject(case)
    net = bench.network(case.network)
    check_mode(model)
    state = torch.get_rng_state()
    with torch.no_grad():
        torch.manual_seed(0)
        votes = torch.stack([nn.functional.one_hot(model(x).argmax(1), 20) for _ in range(11 if case.random else 1)])
        plain = net(x).argmax(1)
    torch.set_rng_state(state)
    assert float((plain == y).double().mean()) >= 0.7  # 40 images, barely trained
    assert float((votes.sum(0).argmax(1) == plain).double().mean()) >= 0.85
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert bench.truth(case) <= 0.05


def gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """The gradient of the largest score; None where autograd has none."""
    leaf = x.clone().requires_grad_()
    scores = model(leaf)
    if not scores.requires_grad:
        return None
    return torch.autograd.grad(scores.amax(1).sum(), leaf, allow_unused=True)[0]


ZERO = ["eight levels", "dct rounding", "zero backward", "rounded scores", "step activation"]
NONE = ["thermometer code", "detached", "numpy hop", "labels only", "purifier", "argmax vote"]


@pytest.mark.parametrize("name", ZERO)
def test_the_gradient_is_zero(name: str, bench: DefenceBench) -> None:
    model, x, _, _ = bench.subject(BY_NAME[name])
    found = gradient(model, x)
    assert found is not None
    assert not found.any()


@pytest.mark.parametrize("name", NONE)
def test_there_is_no_gradient(name: str, bench: DefenceBench) -> None:
    model, x, _, _ = bench.subject(BY_NAME[name])
    assert gradient(model, x) is None


def test_false_gradients(bench: DefenceBench) -> None:
    net, x = bench.network("standard"), bench.test[0][:8]
    true = gradient(net, x)
    assert true is not None
    flipped = gradient(d.flipped_backward(net), x)
    assert flipped is not None
    assert torch.equal(flipped, -true)
    torch.testing.assert_close(gradient(d.tiny_gradient(net), x), true * 1e-20)
    with torch.random.fork_rng():
        noise = gradient(d.noise_backward(net), x)
    assert noise is not None
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), true.flatten()]))[0, 1])) < 0.3


def test_what_is_random_and_what_only_seems_so(bench: DefenceBench) -> None:
    x = bench.test[0][:8]
    for case in BROKEN:
        model = case.make(bench.network(case.network))
        with torch.no_grad(), torch.random.fork_rng():
            assert torch.equal(model(x), model(x)) != case.random, case.name
    noisy = d.hashed_noise(bench.network("standard"))
    with torch.no_grad():
        torch.testing.assert_close(noisy(x)[[3]], noisy(x[[3]]), rtol=1e-4, atol=1e-4)
        assert float((noisy(x) - noisy((x + 1e-6).clamp(0, 1))).abs().max()) > 0.05


def test_saturation_is_total(bench: DefenceBench) -> None:
    net, (x, y) = bench.network("standard"), bench.test
    x, y = x[:40], y[:40]
    right = net(x).argmax(1) == y
    x, y = x[right].requires_grad_(), y[right]
    for make in (d.large_logits, d.tanh_logits):
        loss = nn.functional.cross_entropy(make(net)(x), y, reduction="none")
        (g,) = torch.autograd.grad(loss.sum(), x)
        assert float((g.flatten(1).abs().amax(1) == 0).double().mean()) > 0.5, make.__name__
    twice = d.softmax_twice(net)(x)
    assert 0.08 < float(twice.detach().min()) < float(twice.detach().max()) < 0.24


def test_dct_of_whole_steps_is_kept() -> None:
    flat = torch.full((2, 1, 8, 8), 0.5)
    torch.testing.assert_close(parts.dct(flat, 0.2), flat)
    x = points(3, (1, 8, 8))
    torch.testing.assert_close(parts.dct(x, 1e-6), x, rtol=0, atol=1e-5)
    assert float((parts.dct(x, 0.2) - x).abs().max()) > 0.01


def test_thermometer_counts() -> None:
    x = torch.tensor([[[[0.0, 0.07, 0.5, 1.0]]]])
    assert parts.thermometer(x).sum(1).tolist() == [[[0.0, 1.0, 4.0, 8.0]]]
    soft = parts.thermometer(x, soft=True)
    assert float((soft - parts.thermometer(x)).abs().max()) <= 0.5


def test_the_detector_remembers(bench: DefenceBench) -> None:
    case = BY_NAME["query detector"]
    model, x, _, _ = bench.subject(case)
    before = model(x[:1])
    for _ in range(60):
        model(x[:1])
    assert bool((model(x[:1]) == 0).all())
    assert torch.equal(before, bench.network("standard")(x[:1]))
    assert torch.equal(bench.subject(case)[0](x[:1]), before)  # a fresh one has no memory


def test_what_cannot_be_judged(bench: DefenceBench) -> None:
    model, x, _, _ = bench.subject(BY_NAME["nan off grid"])
    assert bool(torch.isfinite(model(x)).all())
    assert bool(torch.isnan(model((x + 0.01).clamp(0, 1))).any(1).all())
    with pytest.raises(ValueError, match="training mode"):
        check_mode(bench.subject(BY_NAME["training mode"])[0])
    assert float(bench.subject(BY_NAME["eps in levels"])[3].eps) == 8
    model, x, y, threat = bench.subject(BY_NAME["undeclared reject"])
    assert model(x).shape[1] == 11
    z = pgd(model, x, y, threat, steps=20, loss=margin)
    assert float((model(z).argmax(1) == 10).double().mean()) > 0.05
    assert float((model(x).argmax(1) == y).double().mean()) > 0.5


def test_bounds_hold_and_are_tight_for_a_linear_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    x = points(4, (1, 6, 6))
    low, high = bounds(net, x - 0.1, x + 0.1)
    for seed in range(50):
        z = net(x + 0.1 * (2 * points(4, (1, 6, 6), seed=seed) - 1))
        assert bool(((z >= low - 1e-5) & (z <= high + 1e-5)).all())
    line = nn.Linear(4, 2)
    low, high = bounds(nn.Sequential(nn.Flatten(), line), torch.zeros(1, 4), torch.ones(1, 4))
    torch.testing.assert_close(high[0], line.weight.clamp(min=0).sum(1) + line.bias)
    torch.testing.assert_close(low[0], line.weight.clamp(max=0).sum(1) + line.bias)
    with pytest.raises(ValueError, match="not Tanh"):
        bounds(nn.Sequential(nn.Tanh()), x, x)
    y = torch.tensor([0, 1, 2, 3])
    torch.testing.assert_close(Ibp(0.0)(net, x, y), nn.functional.cross_entropy(net(x), y))
    assert bool(Ibp(0.1)(net, x, y) > Ibp(0.0)(net, x, y))


judged = pytest.mark.skipif("trusted" not in Summary.model_fields, reason="audits give no verdict in this version")


@judged
@pytest.mark.slow
@EVERY
def test_the_audit_is_right_about_it(case: Case, bench: DefenceBench) -> None:
    model, x, y, threat = bench.subject(case)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        row = audited(case, model, x, y, threat)
    assert row.verdict != "CRASHED", row.sentences
    assert passes_suite(row, case), row
