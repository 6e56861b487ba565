"""PGD adversarial training: train on the worst points instead of the clean ones.

min_theta  mean max_{z in T(x)} CE(f(z), y)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.losses import cross_entropy
from unfooled.core.threats import Threat
from unfooled.training.inner import worst_points


@dataclass(frozen=True)
class Madry:
    """The mean cross-entropy at the worst points found. Cost: steps + 2 forwards, steps + 1 backwards.

    Args:
        threat: what the adversary may do.
        steps: of the inner attack.
        rule: its step sizes, relative to eps.
        clean: share of the loss that is taken on the clean samples (0 in the paper).

    References:
        Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018, arXiv:1706.06083.
        Differs from the paper: the best iterate is trained on, not the last, and the model is in eval mode while it is
        attacked.
    """

    threat: Threat
    steps: int = 7
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)
    clean: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the batch, a scalar."""
        z = worst_points(model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=self.rule)
        loss = F.cross_entropy(model(z), y)
        return loss if not self.clean else (1 - self.clean) * loss + self.clean * F.cross_entropy(model(x), y)
