"""Input-gradient regularisation: the loss changes little near the training samples.

min_theta  base + lambda mean |grad_x CE(f(x), y)|_p^p
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from unfooled.core.losses import cross_entropy
from unfooled.core.shapes import flat
from unfooled.core.types import TrainingLoss
from unfooled.explanations import saliency
from unfooled.runs.spelling import spelled
from unfooled.training.losses.grouped import grouped_mean
from unfooled.training.losses.inner import InEval, at_least
from unfooled.training.losses.standard import Standard


@dataclass(frozen=True, repr=False)
class InputGradient:
    """The base loss plus lambda times the p-th power of the p-norm of the cross-entropy's input gradient.

    Cost: the base loss's, and 1 forward, 1 backward with a graph. The input gradient is taken in eval mode, per sample.

    Args:
        weight: Weight lambda. The term is a sum over coordinates, so a good weight is smaller for larger inputs.
        norm: Exponent p, at least 1. 2 sums squares; 1 sums absolute values: the increase of the loss by a small
            Linf step, divided by eps.
        base: Loss that is regularised: `Standard()`, `Madry(...)` or any other.

    References:
        Ross, Doshi-Velez, Improving the adversarial robustness and interpretability of deep neural networks by
        regularizing their input gradients, AAAI 2018, arXiv:1711.09404.
        Differs from the paper: any base loss, any p; and gradients of each sample's loss, since those of the mean
        loss would shrink with the batch.
    """

    weight: float = 1.0
    norm: float = 2.0
    base: TrainingLoss = field(default=Standard(), kw_only=True)

    def __post_init__(self) -> None:
        if not 1 <= self.norm < float("inf"):
            raise ValueError(f"norm is {self.norm}; it must be at least 1 and finite")
        at_least(0, weight=self.weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        # The base first: it updates batch statistics, which must not change while gradients are taken.
        loss = self.base(model, x, y)
        if not self.weight:
            return loss
        in_eval = InEval(model)

        def size(x: Tensor, y: Tensor) -> Tensor:
            g = flat(saliency(in_eval, x, y, score=cross_entropy, create_graph=True))
            return (g.square() if self.norm == 2 else g.abs() ** self.norm).sum(1)

        return loss + self.weight * grouped_mean(model, size, x, y)

    __repr__ = spelled
