"""IGR: the explanation at the adversarial point lies in the direction of the one at the sample.

    min_theta  base + lambda mean (1 - cos(e(x), e(x'))),     e(x) = explain(f, x, y)

x' is the base loss's own adversarial point where it has one, so that finding it costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.losses import cross_entropy
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Explain, TrainingLoss
from unfooled.runs.spelling import spelled
from unfooled.training.losses.grouped import grouped_mean
from unfooled.training.losses.inner import InEval, at_least, proposed, smoothed, worst_points
from unfooled.training.losses.madry import Madry


@dataclass(frozen=True, repr=False)
class Igr:
    """The base loss plus lambda times one minus the cosine of the two explanations.

    Cost: the base loss's, and two explanations with a graph; 8 forwards, 7 backwards more where x' has to be found.
    Memory does not grow with the batch: explanations of only a few samples are in memory at once, so
    `partial(integrated_gradients, steps=8, one_graph=True)` is safe, and faster than its two passes. Explanations are
    taken in eval mode. Samples with a map that is zero everywhere, which has no direction, count 0.

    Args:
        threat: Constraint set of x'.
        explain: Explanation `(model, x, y, *, create_graph) -> (B, *D)`, such as `partial(integrated_gradients,
            steps=8)`.
        base: Loss that is regularised: `Madry(threat)`, `Trades(threat)` or any other.
        weight: Weight lambda.
        inner: Attack that finds x', `(model, x, y, threat, *, generator) -> x'`, such as `partial(pgd, steps=7)`.
            None: the base loss's own points where it has some, else those of seven steps of PGD on the cross-entropy.
        beta: Sharpness of softplus(beta t) / beta in place of ReLU for the explanation. A ReLU network's logit has
            gradients that do not change as units switch, so its biases get no gradient from this loss. None: ReLU.

    References:
        Wang, Kong, Exploiting the relationship between Kendall's rank correlation and cosine similarity for
        attribution protection, NeurIPS 2022, arXiv:2205.07279.
        Differs from the paper: any explanation, any base loss, any threat; a loss with an inner maximum shares its
        points.
    """

    threat: Threat
    explain: Explain
    base: TrainingLoss
    weight: float = 1.0
    inner: BudgetAttack | None = None
    beta: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        if not self.weight:
            return self.base(model, x, y)
        shares = self.inner is None and hasattr(self.base, "inner") and hasattr(self.base, "outer")
        if shares:
            z = self.base.inner(model, x, y)  # type: ignore[attr-defined]
            loss = self.base.outer(model, x, y, z)  # type: ignore[attr-defined]
        else:
            loss = self.base(model, x, y)
            z = self._points(model, x, y)
        explained = smoothed(InEval(model), self.beta)

        def apart(x: Tensor, z: Tensor, y: Tensor) -> Tensor:
            a, b = (flat(self.explain(explained, at, y, create_graph=True)) for at in (x, z))
            defined = (a.detach().norm(dim=1) > 0) & (b.detach().norm(dim=1) > 0)
            return torch.where(defined, 1 - F.cosine_similarity(a, b), torch.zeros_like(a[:, 0]))

        return loss + self.weight * grouped_mean(model, apart, x, z, y, graphs=48)

    def _points(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the points of the second explanation, (B, *D)."""
        if self.inner is not None:
            return proposed(self.inner, model, x, y, self.threat)
        return worst_points(model, x, y, self.threat, loss=cross_entropy, steps=7, rule=Madry.rule)

    __repr__ = spelled
