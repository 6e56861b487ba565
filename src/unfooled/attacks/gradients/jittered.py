"""Jittered gradients: the gradient averaged over noise around the input.

values f(x),   gradient 1/m sum_k f'(x + sigma n_k),   n_k standard normal
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.attacks.gradients.custom import check_count, check_sigma, with_gradient
from unfooled.core import rng
from unfooled.core.model.outputs import logits_from
from unfooled.core.threats import UNIT, Box
from unfooled.core.types import Model


@dataclass(frozen=True)
class Jittered:
    """A model whose gradient is averaged over noise around the input; its values are not changed.

    Args:
        model: Any differentiable callable to logits.
        sigma: Standard deviation of the noise, a fraction of the input range; points are clamped to the box.
        draws: Model evaluations m averaged per gradient, at least 1. Cost: a backward takes `draws` forwards
            and backwards, with one draw in memory at a time.
        seed: Random seed; the noise depends on it and on the bytes of each sample.
        box: Bounds of the inputs.
    """

    model: Model
    sigma: float
    draws: int = 16
    seed: int = 0
    box: Box = UNIT

    def __post_init__(self) -> None:
        check_count(self.draws)
        check_sigma(self.sigma)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits at x, (B, K)."""
        return with_gradient(x, self.model, self._pull)

    def _pull(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the averaged gradient with respect to x, from that with respect to the logits."""
        key, total = rng.seeds(x, self.seed, stage=rng.Stream.JITTER), torch.zeros_like(x)
        for k in range(self.draws):
            noise = rng.normal(key, tuple(x.shape[1:]), draw=k, dtype=x.dtype)
            z = self.box.clamp(x + self.sigma * noise).requires_grad_()
            with torch.enable_grad():
                (part,) = torch.autograd.grad(logits_from(self.model, z), z, g)
            total += part
        return total / self.draws
