"""PGD adversarial training: train on the worst points instead of the clean ones.

min_theta  mean max_{z in T(x)} CE(f(z), y)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.losses import cross_entropy
from unfooled.core.threats import Threat
from unfooled.training.losses.inner import memory_for, worst_points
from unfooled.training.losses.memory import Starts


@dataclass(frozen=True)
class Madry:
    """The mean cross-entropy at the inner attack's points. Cost: steps + 2 forwards, steps + 1 backwards.

    Args:
        threat: Constraint set of the adversary.
        steps: Steps of the inner attack.
        rule: Step sizes of the inner attack, relative to eps.
        clean: Weight of the clean loss, in [0, 1] (0 in the paper); above 0 it adds 1 forward, 1 backward.
        start: Start of the inner attack: "random", or "warm" from where the last attack on the same sample ended, so
            that fewer steps suffice. Samples are recognised by their bytes, which excludes augmentation.
        remove: Margin, best other logit minus the label's, at which the attack on a sample ends, which saves passes.
            None: every sample is attacked for all steps.
        memory: Store of warm starts; a new one by default.

    References:
        Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018, arXiv:1706.06083.
        Zheng et al., Efficient adversarial training with transferable adversarial examples, CVPR 2020,
        arXiv:1912.11969 (warm starts; theirs transform with the augmentation and are reset from time to time).
        Zhang et al., Attacks which do not kill training make adversarial learning stronger, ICML 2020,
        arXiv:2002.11242 (early end; theirs a number of steps after the label is lost).
        Differs from the paper: the best iterate is trained on, not the last, and the model is in eval mode while it is
        attacked.
    """

    threat: Threat
    steps: int = 7
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)
    clean: float = 0.0
    start: str = "random"
    remove: float | None = None
    memory: Starts | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "memory", memory_for(self.start, self.memory))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        return self.outer(model, x, y, self.inner(model, x, y))

    def inner(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the points to train on, (B, *D)."""
        return worst_points(
            model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=self.rule, memory=self.memory,
            remove=self.remove,
        )  # fmt: skip

    def outer(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the loss at these points, a scalar."""
        loss = F.cross_entropy(model(z), y)
        return loss if not self.clean else (1 - self.clean) * loss + self.clean * F.cross_entropy(model(x), y)
