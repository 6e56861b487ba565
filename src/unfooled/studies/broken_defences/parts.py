"""Layers and transformations that broken defences are made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Change = Callable[[Tensor], Tensor]
"""Function of a batch of inputs, logits or gradients."""
LEVELS = 8
"""Levels of the thermometer code."""


class Around(nn.Module):
    """A network with a function of its input before it, and a function of its logits after it."""

    def __init__(self, base: nn.Module, before: Change | None = None, after: Change | None = None) -> None:
        super().__init__()
        self.base, self.before, self.after = base, before, after
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Compute scores, (B, K)."""
        z = self.base(x if self.before is None else self.before(x))
        return z if self.after is None else self.after(z)


class _Backward(torch.autograd.Function):
    """Identity function with a different gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Change) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grads[0]), None


def with_gradient(base: nn.Module, change: Change) -> nn.Module:
    """Change the gradient of a network with respect to its input, and nothing else.

    Args:
        base: Network.
        change: `true gradient -> gradient`.
    """
    return Around(base, before=lambda x: _Backward.apply(x, change))


def replaced(
    base: nn.Module, kind: type[nn.Module], build: Callable[[], nn.Module], *, last: bool = False
) -> nn.Module:
    """Copy a network and replace every layer of one kind, or only the last one.

    Args:
        base: Network.
        kind: Kind of the layers.
        build: Builder, `() -> layer`, called for each layer that is replaced.
        last: Replace only the last one.
    """
    net = copy.deepcopy(base)
    names = [name for name, module in net.named_modules() if isinstance(module, kind)]
    for name in names[-1:] if last else names:
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, build())
    return net.train(base.training)


def thermometer(x: Tensor, *, soft: bool = False) -> Tensor:
    """Encode x as channels that say whether it is above 1/16, 3/16, ..., (B, 8 C, H, W).

    Args:
        x: Images, (B, C, H, W).
        soft: Ramps instead of steps.
    """
    at = (torch.arange(LEVELS, dtype=x.dtype, device=x.device) + 0.5)[:, None, None] / LEVELS
    code = ((x[:, :, None] - at) * LEVELS + 0.5).clamp(0, 1) if soft else (x[:, :, None] > at).to(x.dtype)
    return code.flatten(1, 2)


def dct(x: Tensor, step: float) -> Tensor:
    """Round the cosine coefficients of each 4 x 4 block to multiples of `step`."""
    i = torch.arange(4, dtype=x.dtype, device=x.device)
    basis = torch.cos(math.pi * (i[None] + 0.5) * i[:, None] / 4) * math.sqrt(0.5)
    basis[0] /= math.sqrt(2)
    blocks = x.unfold(2, 4, 4).unfold(3, 4, 4)
    coefficients = torch.round(basis @ blocks @ basis.T / step) * step
    back = basis.T @ coefficients @ basis
    return back.transpose(3, 4).reshape(x.shape).clamp(0, 1)


def one_hot(z: Tensor) -> Tensor:
    """Return 1 at the largest score, 0 elsewhere."""
    return F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)


def resize_and_pad(x: Tensor) -> Tensor:
    """Shrink each image by up to a sixth and put it at a random place among zeros (torch's global generator)."""
    u = torch.rand(3, len(x), dtype=x.dtype).to(x.device)
    scale = 1 + 0.2 * u[0]
    theta = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = ((2 * u[1:] - 1) * (scale - 1)).T
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


class AlwaysDropout(nn.Module):
    """ReLU with dropout that is active in eval mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Rectify activations, and set one in ten of them to 0."""
        return F.dropout(F.relu(x), 0.1, training=True)


class Winners(nn.Module):
    """k-winners-take-all activation: the largest fifth of a layer's activations is kept, the others are 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the winners, (B, *) -> (B, *)."""
        rows = x.flatten(1)
        least = rows.topk(max(1, rows.shape[1] // 5), dim=1).values[:, -1:]
        return torch.where(rows >= least, rows, torch.zeros_like(rows)).reshape(x.shape)


class Step(nn.Module):
    """Step activation, 0 or 1 by the sign.

    Args:
        through: Use the gradient of a ramp, for training and for attacks that know the defence.
    """

    def __init__(self, *, through: bool) -> None:
        super().__init__()
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        """Compute the steps, (B, *) -> (B, *)."""
        hard = (torch.sign(x) + 1) / 2
        if not self.through:
            return hard
        ramp = ((x + 1) / 2).clamp(0, 1)
        return ramp + (hard - ramp).detach()


def smoother(x: Tensor, steps: int = 5) -> Tensor:
    """Move each pixel towards the mean of its neighbours a few times, without a graph."""
    with torch.no_grad():
        for _ in range(steps):
            around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
            x = x + 0.1 * (around - x)
    return x


class Vote(nn.Module):
    """Majority vote of five copies on five shifts of the input."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Count votes, (B, K), whole numbers; the copy that sees x itself breaks ties."""
        shifts = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        votes = [one_hot(self.base(torch.roll(x, shift, dims=(-2, -1)))) for shift in shifts]
        return torch.stack(votes).sum(0) + 0.5 * votes[0]


def ramp(x: Tensor) -> Tensor:
    """Map x to 0 below 0.22, 1 above 0.27, and a line between."""
    return ((x - 0.22) * 20).clamp(0, 1)


class QueryDetector(nn.Module):
    """A network that remembers its queries, and answers near-duplicates with nothing.

    Args:
        base: Network.
        radius: Distance below which a query is a near-duplicate.
        most: Number of near-duplicates from which on it stops answering.
        memory: Number of queries that it remembers.
    """

    def __init__(self, base: nn.Module, *, radius: float = 0.3, most: int = 50, memory: int = 20_000) -> None:
        super().__init__()
        self.base, self.radius, self.most, self.memory = base, radius, most, memory
        self.seen: Tensor | None = None
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits, (B, K); all 0 once `most` queries were nearer than `radius`."""
        key = F.avg_pool2d(x.detach(), max(1, x.shape[-1] // 8)).flatten(1)
        before = key[:0] if self.seen is None else self.seen
        near = (torch.cdist(key, before) < self.radius).sum(1)
        self.seen = torch.cat([before, key])[-self.memory :]
        logits = self.base(x)
        return torch.where((near >= self.most)[:, None], torch.zeros_like(logits), logits)
