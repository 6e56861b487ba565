"""Free adversarial training: one backward pass moves the weights and the perturbation.

each batch `replays` times:   z = P(x + delta),   theta <- theta - lr grad_theta CE(f(z), y)
                              delta <- P( z + step eps steepest(grad_z CE(f(z), y)) ) - x
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.shapes import per_sample
from unfooled.core.threats import Threat
from unfooled.training.losses.memory import Carried


@dataclass(frozen=True)
class Free:
    """Mean cross-entropy at the previous perturbation. Cost per sample and epoch: `replays` forwards and backwards.

    The loop takes `replays` steps on each batch, so divide the epochs by that number. The next batch starts at the
    perturbation of the last one, place by place.

    Args:
        threat: Constraint set of the adversary.
        replays: Steps on each batch (m in the paper, which takes 4 to 10).
        step: Length of a step, relative to eps.
        memory: Store of the perturbation; a new one by default.

    References:
        Shafahi et al., Adversarial training for free!, NeurIPS 2019, arXiv:1904.12843, algorithm 1.
        Differs from the paper: any threat with a steepest step.
    """

    threat: Threat
    replays: int = 4
    step: float = 1.0
    memory: Carried = field(default_factory=Carried, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays is {self.replays}; it must be at least 1")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar; the perturbation moves when its gradient is taken."""
        threat = self.threat.bounded(x)
        z = self.memory.start(x, threat).requires_grad_()

        def move(g: Tensor) -> None:
            with torch.no_grad():
                step = self.step * per_sample(threat.eps, x) * threat.steepest(g)
                self.memory.store(threat.project(z.detach() + step, x) - x)

        if torch.is_grad_enabled():
            z.register_hook(move)
        return F.cross_entropy(model(z), y)
