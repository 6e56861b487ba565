"""ReLU smoothed: every spelling, nothing else, always undone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.wrappers import Counted
from unfooled.explanations.gradients import saliency
from unfooled.explanations.surgery import Smoothed, smooth_relu

BETA = 3.0

RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu by name": lambda t: F.relu(input=t),
    "F.relu in place": lambda t: F.relu(t, inplace=True),
    "F.relu in place, positional": lambda t: F.relu(t, True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda t: t.relu(),
    "Tensor.relu_": lambda t: t.relu_(),
    "clamp_min": lambda t: t.clamp_min(0),
    "clamp_min_": lambda t: t.clamp_min_(0),
    "torch.clamp_min": lambda t: torch.clamp_min(t, 0.0),
    "clamp": lambda t: t.clamp(min=0),
    "clamp, positional": lambda t: torch.clamp(t, 0),
    "clamp_": lambda t: t.clamp_(min=0.0),
    "clip": lambda t: t.clip(0),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky relu": nn.LeakyReLU(),
    "relu6": nn.ReLU6(),
    "gelu": nn.GELU(),
    "clamp to a range": lambda t: t.clamp(0, 1),
    "clamp from below, elsewhere": lambda t: t.clamp_min(-0.5),
    "clamp from above": lambda t: t.clamp(max=0),
    "clamp of integers": lambda t: (10 * t).long().clamp_min(0).to(t),
    "max pool": lambda t: F.max_pool1d(t, 2),
}


def numbers() -> Tensor:
    return torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(3, 8)


class Net(nn.Module):
    "A linear layer and some activation, written in whatever way."

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(8, 8).double()
        for p in self.linear.parameters():
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x) * 1)


def softplus(t: Tensor) -> Tensor:
    return torch.log1p(torch.exp(BETA * t)) / BETA


@pytest.mark.parametrize("act", RELUS.values(), ids=RELUS.keys())
def test_every_spelling_is_replaced_and_differentiable(act: Callable[[Tensor], Tensor]) -> None:
    net, x = Net(act), numbers()
    true = net.linear(x).clamp_min(0)
    with smooth_relu(net, BETA) as smooth:
        for model in (net, smooth):
            torch.testing.assert_close(model(x), softplus(net.linear(x)))
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), leaf)
        assert h.abs().max() > 0
    torch.testing.assert_close(net(x), true)


@pytest.mark.parametrize("act", OTHERS.values(), ids=OTHERS.keys())
def test_everything_else_is_left_alone(act: Callable[[Tensor], Tensor]) -> None:
    net, x = Net(act), numbers()
    true = net(x)
    with smooth_relu(net, BETA) as smooth:
        assert torch.equal(net(x), true)
        assert torch.equal(smooth(x), true)


@pytest.mark.parametrize("name", [name for name in RELUS if "place" in name or name.endswith("_")])
def test_in_place_relu_keeps_its_effect(name: str) -> None:
    def statement(t: Tensor) -> Tensor:
        RELUS[name](t)
        return t + 1

    net, x = Net(statement), numbers()
    torch.testing.assert_close(Smoothed(net, BETA)(x), softplus(net.linear(x)) + 1)


def test_tends_to_relu() -> None:
    net, x = Net(nn.ReLU()), numbers()
    for beta in (1.0, 10.0, 1e4):
        gap = (Smoothed(net, beta)(x) - net(x)).abs().max()
        assert gap <= torch.log(torch.tensor(2.0)) / beta + 1e-12
    assert Smoothed(net, 1e4)(1e3 * x).isfinite().all()


def test_undone_after_an_exception_and_weights_are_shared() -> None:
    net, x = Net(nn.ReLU()), numbers()
    true, attributes = net(x), set(net.__dict__)
    with pytest.raises(RuntimeError, match="inside"), smooth_relu(net, BETA):
        raise RuntimeError("inside")
    assert torch.equal(net(x), true)
    assert set(net.__dict__) == attributes

    def broken(t: Tensor) -> Tensor:
        raise RuntimeError("forward")

    bad = Net(broken)
    with smooth_relu(bad, BETA), pytest.raises(RuntimeError, match="forward"):
        bad(x)
    assert torch.equal(torch.relu(x), x.clamp_min(0))
    with smooth_relu(net, BETA) as smooth:
        before = smooth(x)
        with torch.no_grad():
            net.linear.weight.mul_(2)
        assert (smooth(x) - before).abs().max() > 0.1


def test_a_forward_of_its_own_comes_back() -> None:
    net, x = Net(nn.ReLU()), numbers()
    net.forward = lambda x: F.relu(x) + 1  # type: ignore[method-assign]
    mine = net.forward
    with smooth_relu(net, BETA):
        torch.testing.assert_close(net(x), softplus(x) + 1)
    assert net.forward is mine


def test_the_innermost_context_holds() -> None:
    net, x = Net(nn.ReLU()), numbers()
    with smooth_relu(net, 50.0):
        outer = net(x)
        with smooth_relu(net, BETA):
            torch.testing.assert_close(net(x), softplus(net.linear(x)))
        assert torch.equal(net(x), outer)
    torch.testing.assert_close(net(x), net.linear(x).clamp_min(0))


def test_only_the_model_is_smoothed() -> None:
    net, other, x = Net(nn.ReLU()), Net(nn.ReLU()), numbers()
    with smooth_relu(net, BETA):
        assert torch.equal(F.relu(x), x.clamp_min(0))
        assert (other(x) == 0).any()
    # Beside the context, the true and the smoothed model live side by side.
    smooth = Smoothed(net, BETA)
    assert (net(x) == 0).any()
    assert (smooth(x) > 0).all()


def test_plain_functions_and_wrappers() -> None:
    def function(t: Tensor) -> Tensor:
        return F.relu(t)

    x = numbers()
    with smooth_relu(function, BETA) as smooth:
        torch.testing.assert_close(smooth(x), softplus(x))
    net = Net(nn.ReLU())
    for model in (Counted(net), Classifier(net), Counted(Classifier(net)), lambda z: net(z) * 1):
        with smooth_relu(model, BETA):
            torch.testing.assert_close(model(x), softplus(net.linear(x)))
        torch.testing.assert_close(model(x), net.linear(x).clamp_min(0))


def test_saliency_maps_move_only_when_smoothed() -> None:
    net, x, y = nn.Sequential(Net(nn.ReLU()), nn.Linear(8, 3).double()), numbers(), torch.tensor([0, 1, 2])
    step = 1e-6 * torch.ones_like(x)
    assert torch.equal(saliency(net, x + step, y), saliency(net, x, y))
    smooth = Smoothed(net, BETA)
    assert not torch.equal(saliency(smooth, x + step, y), saliency(smooth, x, y))


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan")])
def test_beta_must_be_positive(beta: float) -> None:
    net = Net(nn.ReLU())
    with pytest.raises(BadInput, match="beta is"), smooth_relu(net, beta):
        pass


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=2, padding=1),
        lambda t: F.max_pool2d(t, (2, 3), stride=(1, 2)),
        lambda t: F.max_pool2d(t, 2, stride=1, dilation=2),
    ],
    ids=["plain", "padded", "oblong", "dilated"],
)
def test_pools_are_smoothed_where_asked(pool: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(2, 3, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(Smoothed(pool, BETA)(x), pool(x))
    gap = pool(x) - Smoothed(pool, 1e5, pools=True)(x)
    assert gap.abs().max() < 1e-4
    below = pool(x) - Smoothed(pool, BETA, pools=True)(x)
    assert below.min() >= 0
    assert below.max() <= torch.tensor(9.0).log() / BETA
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradgradcheck(Smoothed(pool, BETA, pools=True), leaf)
    assert torch.autograd.gradcheck(Smoothed(pool, BETA, pools=True), leaf)
    # One number in the window: nothing to smooth; indices belong to the true maximum.
    torch.testing.assert_close(Smoothed(nn.MaxPool2d(1), BETA, pools=True)(x), x)
    value, place = Smoothed(nn.MaxPool2d(2, return_indices=True), BETA, pools=True)(x)
    assert torch.equal(value, F.max_pool2d(x, 2))
    assert place.dtype == torch.int64
    assert torch.equal(
        Smoothed(nn.MaxPool2d(2, ceil_mode=True), BETA, pools=True)(x), F.max_pool2d(x, 2, ceil_mode=True)
    )
