"""Gradients against differences: rounding and kinks are no lies, and lies are found at every step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.conftest import points, tiny_net
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core import losses
from unfooled.core.threats import Linf
from unfooled.evaluation.checks.before import gradient, lies
from unfooled.evaluation.checks.slopes import doubled, small_steps

SHAPE = (1, 8, 8)
NET = tiny_net(5, SHAPE)


class Kinked(nn.Module):
    """A steep network of max-pooling: a step of 1e-3 crosses kinks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(400 * torch.randn(64, 256, generator=generator))
        self.second = nn.Parameter(torch.randn(64, 5, generator=generator))

    def forward(self, z: Tensor) -> Tensor:
        wide = (z.flatten(1) @ self.first).cos().acos()  # a zigzag
        return F.max_pool1d(wide[:, None], 4)[:, 0] @ self.second


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, z: Tensor) -> Tensor:
        return z.clone()


class Flipped(Backward):
    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return -g


class Noisy(Backward):
    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return torch.randn_like(g) * g.abs().mean()


class Half(Backward):
    @staticmethod
    def backward(ctx: object, g: Tensor) -> Tensor:
        return g * (torch.arange(g[0].numel()).reshape(g[0].shape) % 2)


def autocast(z: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return NET(z).float()


def quantised(z: Tensor) -> Tensor:
    return NET(torch.fake_quantize_per_tensor_affine(z, 1 / 255, 0, 0, 255))


HONEST: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": NET,
    "bf16 input": lambda z: NET(z.bfloat16().float()),
    "fp16 input": lambda z: NET(z.half().float()),
    "bf16 output": lambda z: NET(z).bfloat16().float(),
    "autocast": autocast,
    "8-bit input": quantised,
    "max-pooling": Kinked(),
}
LYING = {"flipped": Flipped, "noise": Noisy, "half": Half}


def found(model: Callable[[Tensor], Tensor], seed: int) -> bool:
    x = points(16, SHAPE, seed=seed)
    z = Linf(0.1).sample(x, seed, stage=9)
    with torch.no_grad():
        y = model(x).argmax(1)
    return lies(model, z, y, seed).fired


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", HONEST)
def test_rounding_and_kinks_are_no_lies(name: str, seed: int) -> None:
    assert not found(HONEST[name], seed)


@pytest.mark.parametrize("inner", ["float32", "bf16 input", "8-bit input", "autocast"])
@pytest.mark.parametrize("name", LYING)
def test_lies_are_found_at_every_precision(name: str, inner: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert found(lambda z: HONEST[inner](LYING[name].apply(z)), 3)


def test_a_copy_in_float64_leaves_the_model_alone() -> None:
    net, x = tiny_net(5, SHAPE), points(8, SHAPE)
    twin = doubled(net, x)
    assert twin is not None
    assert twin(x.double()).dtype == torch.float64
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert doubled(lambda z: 1 * net(z), x) is None  # shares its network with the function
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    y = net(x).argmax(1)
    _, g, _ = gradient(net, x, y, losses.margin)
    assert g is not None
    assert small_steps(net, x, y, g, 0) == 0
    assert small_steps(net, x, y, -g, 0) == 1
