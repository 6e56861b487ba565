"""Small models and data with known answers, all made from seeds, for the contract checks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def seeded_generator(seed: int) -> torch.Generator:
    """Return a new generator with this seed, independent of the global one."""
    return torch.Generator().manual_seed(seed)


def points(n: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Draw samples uniform in the unit box, (n, *shape)."""
    return torch.rand(n, *shape, generator=seeded_generator(seed), dtype=torch.float64).to(dtype)


def interior(n: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Draw samples near the middle of the unit box, (n, *shape)."""
    noise = torch.randn(n, *shape, generator=seeded_generator(seed), dtype=torch.float64)
    return (0.5 + 0.03 * noise).to(dtype)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear model without parameters, x -> W flat(x) + b, whose distance to the boundary is known.

    Attributes:
        weight: W, (K, D).
        bias: b, (K,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits, (B, K)."""
        return x.flatten(1) @ self.weight.T + self.bias

    def to(self, device: str) -> Linear:
        """Return the model on another device."""
        return Linear(self.weight.to(device), self.bias.to(device))

    def _distances(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """Return the distance to the boundary with every other class, (B, K); inf at y.

        It is (z_y - z_c) / |w_y - w_c|_dual, which ignores the box; in L0, the smallest number of entries that give c
        the larger logit when set to 0 or 1.
        """
        logits, rows = self(x), torch.arange(len(x), device=x.device)
        gap = logits[rows, y][:, None] - logits
        difference = self.weight[None] - self.weight[y][:, None]
        if norm == 0:
            value = x.flatten(1)[:, None]
            gain = (
                torch.where(difference > 0, difference * (1 - value), -difference * value)
                .sort(dim=2, descending=True)
                .values
            )
            ratio = (gain.cumsum(2) <= gap[:, :, None]).sum(2).to(x.dtype) + 1
        else:
            ratio = gap / difference.norm(p={1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm], dim=2)
        return ratio.scatter(1, y[:, None], math.inf)

    def distance(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """Return the distance to the boundary, (B,); exact in L0, and in other norms where the box does not matter."""
        return self._distances(x, y, norm).amin(1)

    def nearest(self, x: Tensor, y: Tensor, norm: float) -> Tensor:
        """Return the class with the nearest boundary, (B,)."""
        return self._distances(x, y, norm).argmin(1)


def linear(
    k: int, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, seed: int = 0, rivals: int | None = None
) -> Linear:
    """Build a linear model whose classes meet in the middle of the box.

    Args:
        k: Number of classes.
        shape: Shape of one sample.
        dtype: Type of the weights.
        seed: Random seed of the weights.
        rivals: Number of classes, the first ones, whose boundaries pass near the middle of the box. None: all.
    """
    w = torch.randn(k, math.prod(shape), generator=seeded_generator(seed), dtype=torch.float64)
    w = w / w.norm(dim=1, keepdim=True)
    b = -0.5 * w.sum(1)
    if rivals is not None:
        b[rivals:] -= 30
    return Linear(w.to(dtype), b.to(dtype))


def _draw_weights(net: nn.Module, seed: int) -> None:
    """Draw every parameter from a normal distribution with standard deviation 0.4."""
    generator = seeded_generator(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.4)


def tiny_net(
    k: int = 3, shape: tuple[int, int, int] = (1, 6, 5), *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Sequential:
    """Build a convolution, ReLU and a linear head, in eval mode; each class is predicted for some inputs."""
    head = nn.Linear(4 * shape[1] * shape[2], k)
    net = nn.Sequential(nn.Conv2d(shape[0], 4, 3, padding=1), nn.ReLU(), nn.Flatten(), head).to(dtype)
    _draw_weights(net, seed)
    with torch.no_grad():
        head.bias.sub_(net(points(64, shape, dtype=dtype, seed=99)).mean(0))
    return net.eval()


def conv_net(
    activation: Callable[[], nn.Module] = nn.Softplus, *, norm: bool = False, dtype: torch.dtype = torch.float64
) -> nn.Sequential:
    """Build two convolutions and a linear head for samples of (2, 6, 5) and 3 classes, in eval mode.

    Args:
        activation: Constructor of the two activations; the default is smooth, so that maps have derivatives.
        norm: Put batch normalisation after the first activation.
        dtype: Type of the weights.
    """
    middle = [nn.BatchNorm2d(4)] if norm else []
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), activation(), *middle, nn.Conv2d(4, 3, 3, padding=1), activation(),
        nn.Flatten(), nn.Linear(90, 3),
    ).to(dtype)  # fmt: skip
    _draw_weights(net, 0)
    return net.eval()


def never_fooled(x: Tensor) -> Tensor:
    """Return logits of 3 classes whose prediction is 0 everywhere in the unit box, with a gradient that is not 0."""
    total = x.flatten(1).sum(1)
    return torch.stack([total + 99, total * 0.5, total * 0.25], 1)


def brightest_third(n: int = 96) -> tuple[Tensor, Tensor]:
    """Return a toy problem, (n, 1, 6, 6): the class is the third of the rows that is brightest."""
    x, y = points(n, (1, 6, 6), seed=3) * 0.5, torch.arange(n) % 3
    for i in range(n):
        x[i, 0, 2 * y[i] : 2 * y[i] + 2] += 0.4
    return x, y
