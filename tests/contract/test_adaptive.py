"""Wrappers that give a model another gradient: their values, their gradients, their passes, and what they break."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.conftest import points, source, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks import Averaged, Estimated, Jittered, StraightThrough, apgd, bpda
from unfooled.core.errors import BadInput
from unfooled.core.model.anatomy import modules_of
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import counted
from unfooled.core.threats import Linf
from unfooled.core.types import Model
from unfooled.data import load_data
from unfooled.evaluation.verify import verify
from unfooled.models import SmallCnn

SHAPE = (1, 6, 5)
THREAT = Linf(0.15)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that knows the digits, and 60 of them that it gets right."""
    x, y = load_data("digits", "train", n=600)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallCnn(width=8)
        optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
        for _ in range(5):
            for rows in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    net.eval().zero_grad()
    x, y = load_data("digits", "test", n=80)
    with torch.no_grad():
        right = net(x).argmax(1) == y
    return net, x[right][:60], y[right][:60]


def robust(model: Model, x: Tensor, y: Tensor, z: Tensor, draws: int = 1) -> float:
    return 1 - float(verify(model, x, y, z, THREAT, draws=draws).success.float().mean())


def rounded(x: Tensor) -> Tensor:
    """Eight levels, through numpy: no gradient at all."""
    return torch.from_numpy(np.round(x.detach().numpy() * 7) / 7)


def gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]


def smooth(d: int, k: int = 4, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(d, 40), nn.Tanh(), nn.Linear(40, k)).to(dtype)


def test_a_rounding_front_falls_to_bpda_and_to_an_honest_net(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits

    def model(z: Tensor) -> Tensor:
        with torch.no_grad():
            return net(rounded(z))

    with pytest.raises(BadInput, match="no gradient"):
        apgd(model, x, y, THREAT, steps=2)
    soft = lambda z: net(z + (rounded(z) - z).detach() * 1 + 0 * z)  # noqa: E731
    zero = lambda z: net((z * 7).round() / 7)  # noqa: E731
    plain = robust(model, x, y, apgd(zero, x, y, THREAT, steps=15))
    true = robust(model, x, y, apgd(soft, x, y, THREAT, steps=15))
    assert plain > 0.7
    for wrapper in (bpda(rounded, net), StraightThrough(model, net), Estimated(model, draws=64, sigma=0.1)):
        left = robust(model, x, y, apgd(wrapper, x, y, THREAT, steps=15))
        assert left < 0.35, wrapper
        assert left < true + 0.15


def test_noise_falls_to_averages(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    net, x, y = digits
    noise = source(5)

    def model(z: Tensor) -> Tensor:
        return net(z + 0.25 * torch.randn(z.shape, generator=noise))

    single = robust(model, x, y, apgd(model, x, y, THREAT, steps=15), draws=20)
    averaged = robust(model, x, y, apgd(Averaged(model, 10), x, y, THREAT, steps=15), draws=20)
    assert averaged < single - 0.2
    assert averaged < 0.4


def test_a_gradient_that_is_noise_is_averaged_out() -> None:
    """Hair-fine ripples: the gradient at a point says nothing, the one of its surroundings does."""
    net, x = smooth(30).requires_grad_(False), points(6, SHAPE, dtype=torch.float64, seed=1)
    y = torch.arange(6) % 4

    def rippled(z: Tensor) -> Tensor:
        return net(z) + 1e-3 * torch.sin(1e5 * z.flatten(1)[:, :4])

    true = gradient(net, x, y)

    def angle(model: Model) -> float:
        return float(F.cosine_similarity(gradient(model, x, y).flatten(1), true.flatten(1)).min())

    assert angle(rippled) < 0.5
    assert angle(Jittered(net, 0.01)) > 0.99
    assert angle(Estimated(rippled, draws=32, sigma=0.01)) > 0.95
    assert torch.equal(Jittered(rippled, 0.01)(x), rippled(x))


def test_the_jittered_gradient_is_the_mean_over_noise() -> None:
    x, y = torch.full((1, 4), 0.5, dtype=torch.float64), torch.tensor([0])

    def quadratic(z: Tensor) -> Tensor:
        return torch.stack([z.square().sum(1), 0 * z.sum(1)], 1)

    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(Jittered(quadratic, 0.1, draws=300)(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(found, 2 * x, atol=0.03, rtol=0)
    assert not torch.equal(gradient(Jittered(quadratic, 0.1), x, y), gradient(Jittered(quadratic, 0.1, seed=1), x, y))


@pytest.mark.parametrize("d", [30, 32, 60])
def test_estimates_agree_with_the_gradient(d: int) -> None:
    net, x = smooth(d), points(5, (d,), dtype=torch.float64, seed=2)
    y = torch.arange(5) % 4
    true = gradient(net, x, y)
    full = 32 if d <= 32 else 64
    angles = [float(F.cosine_similarity(gradient(Estimated(net, m, 1e-3), x, y), true).mean()) for m in (4, 16, full)]
    assert angles == sorted(angles)
    assert angles[-1] > 0.999  # as many orthogonal directions as coordinates
    assert 0.2 < angles[0] < 0.9
    torch.testing.assert_close(gradient(Estimated(net, full, 1e-4), x, y), true, atol=1e-4, rtol=1e-2)
    many = gradient(Estimated(net, 4 * full, 1e-3), x, y)
    assert float(F.cosine_similarity(many, true).min()) > 0.999
    alone = Estimated(net, sigma=1e-5, coordinates=True)
    assert alone.cost(x) == d + 1
    torch.testing.assert_close(gradient(alone, x, y), true, atol=1e-4, rtol=1e-2)


def test_estimates_ask_inside_the_box_and_in_calls_of_bounded_size() -> None:
    seen: list[Tensor] = []
    net = smooth(12, dtype=torch.float32)

    def model(z: Tensor) -> Tensor:
        seen.append(z)
        return net(z)

    x, y = torch.tensor([[0.0] * 6 + [1.0] * 6]).repeat(7, 1), torch.zeros(7, dtype=torch.int64)
    for coordinates in (True, False):
        seen.clear()
        small = gradient(Estimated(model, 16, batch=10, coordinates=coordinates), x, y)
        assert max(len(z) for z in seen) == 10
        assert all(float(z.min()) >= 0 and float(z.max()) <= 1 for z in seen)
        torch.testing.assert_close(small, gradient(Estimated(net, 16, coordinates=coordinates), x, y))
        if coordinates:
            assert sum(len(z) for z in seen) == 7 + 7 * 13  # the logits, and the gradient: 12 coordinates and the point
    torch.testing.assert_close(small[:1], gradient(Estimated(net, 16, batch=2), x[:1], y[:1]))


def wrappers(model: Model, twin: Model) -> dict[str, Model]:
    return {
        "averaged": Averaged(model, 4),
        "straight through": StraightThrough(model, twin),
        "bpda": bpda(lambda z: z * 1, model),
        "jittered": Jittered(model, 0.01, 5),
        "estimated": Estimated(model, 6),
    }


PASSES = {"averaged": (4, 4), "straight through": (1, 0), "bpda": (1, 1), "jittered": (1 + 5, 5), "estimated": (13, 0)}


@pytest.mark.parametrize("name", PASSES)
def test_passes_are_what_is_claimed(name: str) -> None:
    net, twin, x = tiny_net(3, SHAPE), tiny_net(3, SHAPE, seed=1), points(4, SHAPE)
    with counted(net) as f, counted(twin) as g:
        gradient(wrappers(f, g)[name], x, torch.zeros(4, dtype=torch.int64))
    forward, backward = PASSES[name]
    assert (f.forwards, f.backwards) == (4 * forward, 4 * backward)
    assert (g.forwards, g.backwards) == ((4, 4) if name == "straight through" else (0, 0))


@pytest.mark.parametrize("name", PASSES)
def test_values_are_the_model_s_and_nothing_is_touched(name: str) -> None:
    net, twin, x = tiny_net(3, SHAPE), tiny_net(3, SHAPE, seed=1), points(9, SHAPE, seed=4)
    model, kept, state = wrappers(net, twin)[name], x.clone(), torch.get_rng_state()
    y = net(x).detach().argmax(1)
    torch.testing.assert_close(model(x), net(x))
    whole = apgd(model, x, y, Linf(0.02), steps=6)
    assert torch.equal(whole, apgd(model, x, y, Linf(0.02), steps=6))
    order = torch.tensor([8, 2, 5, 0, 7, 1, 6, 3, 4])
    parts = torch.cat([apgd(model, x[r], y[r], Linf(0.02), steps=6) for r in order.split(4)])
    a, b = (verify(net, x, y, z, Linf(0.02)).success for z in (whole, parts[order.argsort()]))
    assert torch.equal(a, b)
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for m in (net, twin) for p in m.parameters())


def test_modules_behind_are_found_and_frozen() -> None:
    net, twin, front = tiny_net(3, SHAPE), tiny_net(3, SHAPE), nn.Conv2d(1, 1, 1)
    model = Averaged(bpda(front, StraightThrough(net, twin), approx=nn.Identity()))
    assert {net, twin, front} <= set(modules_of(model))
    with frozen(model):
        assert not any(p.requires_grad for m in (net, twin, front) for p in m.parameters())
    assert all(p.requires_grad for m in (net, twin, front) for p in m.parameters())


def numpy_model(z: Tensor) -> Tensor:
    a = z.numpy().reshape(len(z), -1)  # raises where z wants a gradient
    return torch.from_numpy(np.stack([a.sum(1), 15 - a.sum(1)], 1))


@pytest.mark.parametrize(
    "wrap", [Estimated, lambda m: StraightThrough(m, lambda z: torch.stack([z.sum((1, 2, 3))] * 2, 1))]
)
def test_a_numpy_model_is_no_obstacle(wrap: Callable[[Model], Model]) -> None:
    x = points(3, SHAPE)
    assert torch.equal(wrap(numpy_model)(x), numpy_model(x))
    assert gradient(wrap(numpy_model), x, torch.zeros(3, dtype=torch.int64)).shape == x.shape


def test_bad_options_are_refused() -> None:
    net, x = tiny_net(3, SHAPE), points(2, SHAPE).requires_grad_()
    for bad in (lambda: Averaged(net, 0), lambda: Jittered(net, 0.1, 0), lambda: Estimated(net, batch=0)):
        with pytest.raises(BadInput, match="at least 1"):
            bad()
    for sigma in (0.0, -1.0, 0.5):
        with pytest.raises(BadInput, match="sigma"):
            Jittered(net, sigma)
    with pytest.raises(BadInput, match="same output"):
        StraightThrough(net, tiny_net(4, SHAPE))(x)
    with pytest.raises(BadInput, match="same output"):
        bpda(lambda z: z[:, :, :3], net)(x)
