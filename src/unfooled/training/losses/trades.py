"""TRADES: accuracy on clean samples, and the same prediction in the ball around them.

min_theta  mean CE(f(x), y) + beta max_{z in T(x)} KL(p(x) || p(z)),   p = softmax f
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule
from unfooled.core.losses import kl
from unfooled.core.model.modes import evaluating
from unfooled.core.threats import Threat
from unfooled.training.losses.inner import memory_for, worst_points
from unfooled.training.losses.memory import Starts


def divergent_points(
    model: nn.Module,
    x: Tensor,
    _y: Tensor,
    threat: Threat,
    *,
    steps: int,
    rule: Rule,
    memory: Starts | None = None,
    remove: float | None = None,
) -> Tensor:
    """Find points of the threat where the prediction is far from that at x, in KL; labels are not used."""
    with evaluating(model), torch.no_grad():
        fixed = model(x).softmax(1)

    def divergence(logits: Tensor, rows: Tensor) -> Tensor:
        return kl(fixed[rows])(logits, rows)

    # The inner loss needs to know which clean sample a point belongs to: positions stand in for labels.
    rows = torch.arange(len(x), device=x.device)
    return worst_points(
        model, x, rows, threat, loss=divergence, steps=steps, rule=rule, memory=memory, remove=remove,
        labels=fixed.argmax(1),
    )  # fmt: skip


@dataclass(frozen=True)
class Trades:
    """Clean cross-entropy plus beta times the divergence at the worst points.

    Cost: steps + 4 forwards, steps + 2 backwards.

    Args:
        threat: Constraint set of the adversary.
        beta: Trade-off weight, 1 / lambda of the paper, which uses 1 and 6.
        steps: Steps of the inner attack.
        rule: Step sizes of the inner attack, relative to eps.
        start: Start of the inner attack, "random" or "warm": see `Madry`.
        remove: Margin over the prediction at x, in logits, at which a sample leaves the attack, which costs less. None:
            every sample is attacked to the end.
        memory: Store of warm starts; a new one by default.

    References:
        Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019, arXiv:1901.08573.
        Differs from the published code: starts are uniform in the threat instead of Gaussian with deviation .001, since
        the divergence has no gradient at x, and the best iterate is kept.
    """

    threat: Threat
    beta: float = 6.0
    steps: int = 10
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)
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
        return divergent_points(
            model, x, y, self.threat, steps=self.steps, rule=self.rule, memory=self.memory, remove=self.remove
        )

    def outer(self, model: nn.Module, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Return the loss at these points, a scalar."""
        clean = model(x)
        apart = F.kl_div(model(z).log_softmax(1), clean.softmax(1), reduction="batchmean")
        return F.cross_entropy(clean, y) + self.beta * apart
