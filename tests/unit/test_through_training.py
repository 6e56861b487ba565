"""Training with a purifier: through it, and near the clusters that it was fitted with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unfooled as uf
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.purification import guard, low_band
from unfooled.training import Free, Madry, Ramp, Standard, Through
from unfooled.training.progress import loss_at, memory_of, replays_of, threat_of
from unfooled.workflows import Inputs, LossOptions, Machine, Network, PurifierOptions, Recipe, purify_fit, train
from unfooled.workflows.purified_losses import Behind

CPU = Machine("cpu")
SMALL = Recipe(epochs=1, batch=32, n=64, watch=0)
LATENT = LossOptions(attack_steps=1)
ROUNDED = "import torch\n\n\ndef purify(x):\n    return (x * 7).round() / 7\n\n\nwrong = 3\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("through")
    train(out=folder / "net.pt", recipe=SMALL, machine=CPU)
    options = PurifierOptions(clusters=1, atoms=4, patch=4, stride=4)
    purify_fit(Inputs(folder / "net.pt", n=150, split="train"), folder / "purifier", options=options, machine=CPU)
    (folder / "mine.py").write_text(ROUNDED)
    return folder


def weights(path: Path) -> dict[str, Tensor]:
    return dict(uf.load_model(path).state_dict())


def half(x: Tensor) -> Tensor:
    return x / 2


def samples() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_the_loss_is_that_of_the_network_behind_the_purifier() -> None:
    (x, y), net = samples(), linear()
    loss = Through(Standard(), partial(guard, purify=half))
    value = loss(net, x, y)
    assert torch.equal(value, F.cross_entropy(net(x / 2), y))
    value.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_inner_attack_and_the_weights_go_through_the_purifier() -> None:
    seen: list[bool] = []

    def purify(x: Tensor) -> Tensor:
        seen.append(x.requires_grad)
        return low_band(x)

    (x, y), net = samples(), linear()
    net.train()
    torch.manual_seed(0)
    ours = Through(Madry(Linf(0.1), steps=2), partial(guard, purify=purify))(net, x, y)
    torch.manual_seed(0)
    assert torch.equal(ours, Madry(Linf(0.1), steps=2)(guard(net, low_band), x, y))
    assert any(seen)
    assert net.training


def test_schedules_repeats_and_memory_are_those_of_the_loss() -> None:
    loss = Through(Free(Linf(0.2), replays=3), partial(guard, purify=half))
    assert replays_of(loss) == 3
    assert memory_of(loss) is not None
    assert threat_of(loss) is not None
    ramped: Any = loss_at(Ramp(Through(Madry(Linf(0.2)), partial(guard, purify=half)), 2.0), 1.0)
    assert (type(ramped), ramped.base.threat.eps) == (Through, pytest.approx(0.1))


def test_a_purifier_without_a_gradient_gets_that_of_the_identity() -> None:
    behind = Behind("", lambda x: (x.detach() * 7).round() / 7)
    x = samples()[0].requires_grad_()
    made = behind.purified(x)
    assert torch.equal(made, (x * 7).round() / 7)
    assert behind.differentiable is False
    (g,) = torch.autograd.grad(made.sum(), x)
    assert (g == 1).all()
    smooth = Behind("", half)
    (g,) = torch.autograd.grad(smooth.purified(x).sum(), x)
    assert (smooth.differentiable, float(g.mean())) == (True, 0.5)


def test_training_through_a_purifier_by_name(home: Path) -> None:
    network, options = Network(model=home / "net.pt"), LossOptions(attack_steps=2, purify=home / "purifier")
    go = partial(train, loss="madry", threat="linf:0.1", network=network, recipe=SMALL, machine=CPU)
    record = go(options=options, out=home / "through.pt")
    assert record.purified_accuracy is not None
    assert not record.warnings
    go(options=LossOptions(attack_steps=2), out=home / "plain.pt")
    assert any(not torch.equal(a, weights(home / "plain.pt")[name]) for name, a in weights(home / "through.pt").items())
    assert go(options=options, out=home / "through.pt").trained == 0
    with pytest.raises(BadInput, match="loss"):  # another purifier is another training
        go(options=replace(options, purify=f"{home}/mine.py:purify"), out=home / "through.pt")
    rounded = go(options=replace(options, purify=f"{home}/mine.py:purify"), out=home / "rounded.pt")
    assert "gradient of the identity" in rounded.warnings[0]
    assert go(options=LossOptions(attack_steps=2), out=home / "plain.pt").purified_accuracy is None


def test_latent_clusters_begin_at_the_network_of_the_purifier(home: Path) -> None:
    still = replace(SMALL, lr=1e-9)
    options = replace(LATENT, purify=home / "purifier")
    go = partial(train, loss="latent-clusters", threat="linf:0.1", machine=CPU)
    go(options=options, recipe=still, out=home / "still.pt")
    for name, value in weights(home / "net.pt").items():
        torch.testing.assert_close(weights(home / "still.pt")[name], value, atol=1e-5, rtol=1e-5)
    with pytest.raises(BadInput, match=r"starts from the network that .*; give arch='small-cnn'"):
        go(options=options, recipe=SMALL, network=Network("strided-cnn"), out=home / "other.pt")


def test_latent_clusters_without_a_weight_are_madry_bit_for_bit(home: Path) -> None:
    network = Network(model=home / "net.pt")
    go = partial(train, threat="linf:0.1", network=network, recipe=SMALL, machine=CPU)
    go(loss="madry", options=LossOptions(attack_steps=2), out=home / "m.pt")
    options = LossOptions(attack_steps=2, weight=0.0, purify=home / "purifier")
    go(loss="latent-clusters", options=options, out=home / "w0.pt")
    go(loss="latent-clusters", options=replace(options, weight=1.0), out=home / "w1.pt")
    double = partial(go, recipe=replace(SMALL, precision="64-true"))
    assert double(loss="latent-clusters", options=replace(options, weight=1.0), out=home / "w64.pt").trained
    a, b, c = (weights(home / f"{name}.pt") for name in ("m", "w0", "w1"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    assert go(loss="latent-clusters", options=options, out=home / "w0.pt").trained == 0


@pytest.mark.parametrize(
    ("loss", "purify", "text"),
    [
        ("latent-clusters", None, "takes its clusters from a purifier; give purify"),
        ("latent-clusters", "{home}/mine.py:purify", "has no clusters of a network's layer"),
        ("latent-clusters", "{home}/nothing", "there is no such folder"),
        ("madry", "{home}/nothing", "there is no such folder"),
        ("madry", "{home}/mine.py:wrong", "is a int; give a function"),
        ("igr", "{home}/purifier", "takes no purify; leave it out, or choose standard, madry"),
    ],
)
def test_refusals(home: Path, loss: str, purify: str | None, text: str) -> None:
    options = LossOptions(purify=None if purify is None else purify.format(home=home))
    with pytest.raises(BadInput, match=text):
        train(loss=loss, threat="linf:0.1", options=options, recipe=SMALL, out=home / "no.pt", machine=CPU)
    assert not (home / "no.pt").exists()


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return x[..., 1:]", "must keep the shape"),
        ("return x + 1", r"images lie in \[0, 1\]"),
        ("return x / 0 - x / 0", "NaN"),
        ("return x.nothing", "fails on samples"),
        ("return x.mul_(0.5)", "writes into its input"),
    ],
)
def test_purifiers_that_break_a_rule_are_refused_before_training(tmp_path: Path, body: str, text: str) -> None:
    (tmp_path / "bad.py").write_text(f"def purify(x):\n    {body}\n")
    options = LossOptions(purify=f"{tmp_path}/bad.py:purify", attack_steps=1)
    with pytest.raises(BadInput, match=text):
        train(loss="madry", threat="linf:0.1", options=options, recipe=SMALL, out=tmp_path / "no.pt", machine=CPU)
    assert not (tmp_path / "no.pt").exists()


def test_latents_are_found_inside_of_wrappers(home: Path) -> None:
    record = train(
        loss="latent-clusters", threat="linf:0.1", options=replace(LATENT, purify=home / "purifier"),
        recipe=replace(SMALL, precision="bf16-mixed"), out=home / "mixed.pt", machine=CPU,
    )  # fmt: skip
    assert record.trained == 1
    assert isinstance(uf.load_model(home / "mixed.pt"), nn.Module)
