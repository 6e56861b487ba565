"""Ways of training that the attention study compares, at equal compute.

    standard                CE(f(x), y)
    Step-LL                 [CE(f(x), y) + CE(f(x'), y)] / 2, x' one step towards the least likely class
    PGD-AT                  CE(f(x'), y)
    PGD-AT + ARP            + beta R + gamma V(P(x), P(x'))
    shuffled maps           V(P(x_i), P(x'_j)) instead, j another sample of the batch: a control, preserves no map
    logit pairing           CE(f(x'), y) + weight mean (f(x) - f(x'))^2: a control without maps

f(x) are the logits, x' is an adversarial point, P(x) the attention map; R and V are the terms of `Arp`.

Equal compute: the more passes a step of an arm costs, the fewer steps it takes.

References:
    Wu et al., ARP, 2018, arXiv:1811.09831.
    Kannan, Kurakin, Goodfellow, Adversarial logit pairing, 2018, arXiv:1803.06373.
    Kurakin, Goodfellow, Bengio, Adversarial machine learning at scale, ICLR 2017, arXiv:1611.01236 (Step-LL).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant
from unfooled.core.losses import cross_entropy
from unfooled.core.shapes import per_sample
from unfooled.core.threats import Threat
from unfooled.core.types import TrainingLoss
from unfooled.distances.maps.attention import js
from unfooled.explanations.masks import soft_mask
from unfooled.studies.common.arms import Arm
from unfooled.training import ArpPublished, Madry, Standard, StepLl, Trades, arp, n_fgsm
from unfooled.training.losses.arp import Arp
from unfooled.training.losses.inner import worst_points


def shuffled_js(a: Tensor, b: Tensor) -> Tensor:
    """Compute `js` of each map and that of the next sample in the batch, (B,): a control that preserves no map."""
    return js(a, b.roll(1, 0))


def rolled_mask(p: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute `soft_mask` of the map rolled by half its sides, without a gradient: as much area, in another place."""
    return soft_mask(p.detach().roll((p.shape[1] // 2, p.shape[2] // 2), (1, 2)), size)


@dataclass(frozen=True)
class LogitPairing:
    """PGD adversarial training whose clean and adversarial logits are pulled together.

    Args:
        threat: Threat of the inner attack.
        steps: Steps of the inner attack.
        weight: Weight of the mean squared difference of logits.

    References:
        Kannan et al. 2018, arXiv:1803.06373. Differs: the cross-entropy is on adversarial samples only, as in the arms
        that it is compared with.
    """

    threat: Threat
    steps: int = 7
    weight: float = 0.5

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Compute the loss of the batch, a scalar."""
        z = worst_points(model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=Constant(0.25))
        clean, adversarial = model(torch.cat([x, z])).chunk(2)
        return F.cross_entropy(adversarial, y) + self.weight * (clean - adversarial).square().mean()


def _arp(
    threat: Threat, steps: int, *, base: str = "madry", beta: float = 0.5, gamma: float = 1.0, **options: Any
) -> Arp:
    """Build the loss `arp` with the weights of R and V, and with `options` as fields of `Arp`."""
    return replace(arp(threat, base=base, steps=steps, rectify=beta, preserve=gamma), **options)


def n_fgsm_points(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Compute the points of `n_fgsm`: noise of twice eps, one step of eps, the box. Cost: 1 forward, 1 backward."""
    near = threat.bounded(x)
    z = near.scaled(2.0).sample(x, int(torch.randint(1 << 62, ()))).requires_grad_()
    with torch.enable_grad():
        (g,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
    return near.box.clamp(z.detach() + per_sample(near.eps, x) * near.steepest(g))


def _on_fast(threat: Threat, beta: float, gamma: float) -> Arp:
    """Build `Arp` on the points of N-FGSM."""
    return Arp(n_fgsm_points, beta=beta, gamma=gamma, threat=threat)


@dataclass(frozen=True)
class Recipe:
    """A way of training, with the cost of a step.

    Backwards that end at the attended layer cost next to nothing and are left out.

    Attributes:
        loss: `(threat, inner steps) -> training loss`.
        fixed: Passes (forwards and backwards) per sample and step, without those of the inner attack's steps.
        inner: Passes that each inner step adds.
    """

    loss: Callable[[Threat, int], TrainingLoss]
    fixed: int
    inner: int = 0

    def passes(self, steps: int) -> int:
        """Return the passes per sample and step with this number of inner steps."""
        return self.inner * steps + self.fixed


PLAIN, BASE, ARP = "standard", "PGD-AT", "PGD-AT + ARP"
SHUFFLED, PAIRED, ROLLED = "PGD-AT + shuffled maps", "PGD-AT + logit pairing", "PGD-AT + rolled mask"
SIX: dict[str, Recipe] = {
    PLAIN: Recipe(lambda t, s: Standard(), 2),
    "Step-LL": Recipe(lambda t, s: StepLl(t, weight=1.0, varied=False), 7),
    BASE: Recipe(lambda t, s: Madry(t, steps=s), 3, 2),
    ARP: Recipe(_arp, 9, 2),
    SHUFFLED: Recipe(lambda t, s: _arp(t, s, preserve=shuffled_js), 9, 2),
    PAIRED: Recipe(LogitPairing, 5, 2),
}
"""The arms of every scale."""
MORE: dict[str, Recipe] = {
    "PGD-AT + R": Recipe(lambda t, s: _arp(t, s, gamma=0.0), 9, 2),
    "PGD-AT + V": Recipe(lambda t, s: _arp(t, s, beta=0.0), 5, 2),
    ROLLED: Recipe(lambda t, s: _arp(t, s, mask=rolled_mask), 9, 2),
    "TRADES": Recipe(lambda t, s: Trades(t, steps=s), 6, 2),
    "TRADES + R": Recipe(lambda t, s: _arp(t, s, base="trades", gamma=0.0), 10, 2),
    "TRADES + V": Recipe(lambda t, s: _arp(t, s, base="trades", beta=0.0), 6, 2),
    "TRADES + ARP": Recipe(lambda t, s: _arp(t, s, base="trades"), 10, 2),
    "N-FGSM": Recipe(lambda t, s: n_fgsm(t), 4),
    "N-FGSM + R": Recipe(lambda t, s: _on_fast(t, 0.5, 0.0), 10),
    "N-FGSM + V": Recipe(lambda t, s: _on_fast(t, 0.0, 1.0), 6),
    "N-FGSM + ARP": Recipe(lambda t, s: _on_fast(t, 0.5, 1.0), 10),
    "ARP as published": Recipe(lambda t, s: ArpPublished(), 10),
}
"""The further arms of the full scale."""
RECIPES = {**SIX, **MORE}
NO_EPS = (PLAIN, "ARP as published")
"""Arms without a radius that could grow."""


def equal_compute(names: Sequence[str], steps: int, *, ramp: float = 0.4) -> tuple[Arm, ...]:
    """Make arms of equal compute: `PGD-AT + ARP` takes the task's steps, an arm of half its passes takes twice as many.

    Args:
        names: Names of recipes.
        steps: Steps of the inner attack.
        ramp: Share of training in which eps grows from 0, where there is an eps.
    """
    arp_passes = RECIPES[ARP].passes(steps)
    return tuple(
        Arm(
            name, partial(_with_steps, RECIPES[name].loss, steps), share=arp_passes / RECIPES[name].passes(steps),
            ramp=0.0 if name in NO_EPS else ramp,
        )
        for name in names
    )  # fmt: skip


def _with_steps(loss: Callable[[Threat, int], TrainingLoss], steps: int, threat: Threat) -> TrainingLoss:
    return loss(threat, steps)
