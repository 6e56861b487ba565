"""Single-step adversarial training towards the least likely class, on clean and adversarial samples together.

    z = P( x - e steepest(grad CE(f(x), y_LL)) ),   y_LL = argmin_c f(x)_c,   e = eps |N(0, 1/4)|, at most eps
    min_theta  mean [ CE(f(x), y) + weight CE(f(z), y) ] / (1 + weight)

P projects onto the threat. The radius is drawn for each sample and step: a network that always meets the same one is
robust at that radius alone.

References:
    Kurakin, Goodfellow, Bengio, Adversarial machine learning at scale, ICLR 2017, arXiv:1611.01236.
    Differs from the paper: every sample is trained on in both forms, not half of the batch in each; any threat; the
    model is in eval mode while it is attacked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.attacks.step_ll import step_ll
from unfooled.core.threats import Threat
from unfooled.training.losses.inner import at_least, proposed


@dataclass(frozen=True)
class StepLl:
    """Clean loss plus the loss after one step towards the least likely class. Cost: 5 forwards, 3 backwards.

    A single-step attack can suddenly lose its strength in training (catastrophic overfitting): use a `Monitor`.

    Args:
        threat: Constraint set of the adversary.
        weight: Weight of the adversarial samples against 1 for the clean ones, at least 0; 0.3 in the paper.
        varied: True: draw the radius of each sample; False: eps for all.

    Example:
        >>> StepLl(Linf(0.1))
        StepLl(threat=Linf(eps=0.1, box=Box(low=0.0, high=1.0)), weight=0.3, varied=True)
    """

    threat: Threat
    weight: float = 0.3
    varied: bool = True

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        threat = self.threat.scaled(half_normal(x)) if self.varied else self.threat
        z = proposed(partial(step_ll, skip_wrong=False), model, x, y, threat)
        return (F.cross_entropy(model(x), y) + self.weight * F.cross_entropy(model(z), y)) / (1 + self.weight)


def half_normal(x: Tensor) -> Tensor:
    """Draw |N(0, 1/4)|, truncated to [0, 1], for each sample, (B,), from torch's global generator."""
    within = math.erf(math.sqrt(2))  # share of a normal variable that lies within two deviations
    return (torch.erfinv(within * torch.rand(len(x))) / math.sqrt(2)).clamp(0, 1).to(x)
