"""Latent clusters: PGD adversarial training with adversarial latents near the cluster of the clean input.

    min_theta  mean CE(f(z), y) + w mean d(g(z), k(x)),     z = argmax_{z in T(x)} CE(f(z), y)

g(z) is the latent of the current network, k(x) the cluster of the clean input x among those of its class, and d the
distance to it. The cluster never depends on z, and neither clusters nor the function that assigns them get a gradient.

References:
    Silva, Das, Scarff, Najafirad, Adaptive clustering of robust semantic representations for adversarial image
    purification, 2021, arXiv:2104.02155 (the constraint; the distance and the weight's ramp are ours).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.losses import cross_entropy
from unfooled.core.threats import Threat
from unfooled.runs.spelling import spelled
from unfooled.training.losses.inner import at_least, worst_points


@dataclass(frozen=True)
class LatentClusters:
    """The mean cross-entropy at the inner attack's points, plus the distance of their latents to clean clusters.

    Cost: that of `Madry`, and with a weight 1 forward and backward of `latent` and 1 forward of `assign`. With
    `weight=0` it is `Madry` bit for bit. In `Ramp`, threat and weight grow together.

    Args:
        threat: Constraint set of the adversary.
        assign: Cluster of clean inputs, (x, y) -> (B,) int64, such as `lambda x, y: clusters.nearest(encode(x), y)`
            with the encoder of the baseline.
        latent: Latent of inputs in the network that is trained, (model, x) -> (B, *F), such as
            `lambda model, x: features.Encoder(model, layer)(x)`.
        distance: Distance of latents to clusters, (z, k) -> (B,), such as `clusters.mahalanobis`.
        weight: Weight w of the distance, at least 0.
        steps: Steps of the inner attack.
        rule: Step sizes of the inner attack, relative to eps.

    References:
        arXiv:2104.02155. The network should start from the baseline, so that both share a latent space; otherwise fit
        the clusters anew on its clean latents.
    """

    threat: Threat
    assign: Callable[[Tensor, Tensor], Tensor]
    latent: Callable[[nn.Module, Tensor], Tensor]
    distance: Callable[[Tensor, Tensor], Tensor]
    weight: float = 0.3
    steps: int = 7
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)
    grows: ClassVar[tuple[str, ...]] = ("weight",)

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.outer(model, x, y, self.inner(model, x, y))

    def inner(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the points to train on, (B, *D)."""
        return worst_points(model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=self.rule)

    def outer(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the loss at these points, a scalar."""
        loss = F.cross_entropy(model(z), y)
        if not self.weight:
            return loss
        with torch.no_grad():
            k = self.assign(x, y)
        return loss + self.weight * self.distance(self.latent(model, z), k).mean()

    __repr__ = spelled
