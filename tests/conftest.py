"""Small models and data for every test: `from tests.conftest import linear, tiny_net, points`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Tiny tensors are slower on many threads, and sums would depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def source(seed: int) -> torch.Generator:
    """A generator of its own, so that no test leans on the global one."""
    return torch.Generator().manual_seed(seed)


def points(n: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Samples uniform in the unit box, (n, *shape)."""
    return torch.rand(n, *shape, generator=source(seed), dtype=torch.float64).to(dtype)


def interior(n: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Samples near the middle of the unit box, (n, *shape)."""
    return (0.5 + 0.03 * torch.randn(n, *shape, generator=source(seed), dtype=torch.float64)).to(dtype)


@dataclass(frozen=True, eq=False)
class Linear:
    """A model without parameters: x -> W flat(x) + b. Its distance to the boundary is known."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def _reach(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """(z_y - z_c) / |w_y - w_c|_dual, (B, K); inf at y."""
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
        logits, rows = self(x), torch.arange(len(x))
        apart = (self.weight[y][:, None] - self.weight[None]).norm(p=dual, dim=2)
        ratio = (logits[rows, y][:, None] - logits) / apart
        ratio[rows, y] = math.inf
        return ratio

    def distance(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """Distance to the boundary, (B,), exact where the box does not matter."""
        return self._reach(x, y, norm).amin(1)

    def nearest(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """The class behind the nearest boundary, (B,)."""
        return self._reach(x, y, norm).argmin(1)


def linear(
    k: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0, rivals: int | None = None
) -> Linear:
    """A linear model whose classes meet in the middle of the box; only the first `rivals` of them come close to it."""
    w = torch.randn(k, math.prod(shape), generator=source(seed), dtype=torch.float64)
    w = w / w.norm(dim=1, keepdim=True)
    b = -0.5 * w.sum(1)
    if rivals is not None:
        b[rivals:] -= 30
    return Linear(w.to(dtype), b.to(dtype))


def tiny_net(
    k: int = 3, shape: tuple[int, int, int] = (1, 6, 5), *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Sequential:
    """A convolution, ReLU and a linear head, seeded, in eval mode; every class is predicted somewhere."""
    head = nn.Linear(4 * shape[1] * shape[2], k)
    net = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Flatten(), head).to(dtype)
    generator = source(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)
        head.bias.sub_(net(points(64, shape, dtype=dtype, seed=99)).mean(0))
    return net.eval()
