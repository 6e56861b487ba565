"""Losses for networks of which something can be proven: the worst margins that bounds allow, instead of an attack's.

    IBP         kappa CE(f(x), y) + (1 - kappa) log(1 + sum_k exp(-m_k))        m_k <= min over T(x) of z_y - z_k
    CROWN-IBP   the same, m = beta m_CROWN-IBP + (1 - beta) m_IBP
                kappa and beta fall from 1 to their values while a `Ramp` lets eps grow
    SABR        IBP on a small box around an adversarial point
    MTL-IBP     alpha IBP + (1 - alpha) CE at an adversarial point

How margins are bounded is a function that each loss receives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from unfooled.core.ascent import Constant, Rule
from unfooled.core.losses import cross_entropy
from unfooled.core.threats import Threat
from unfooled.runs.spelling import spelled
from unfooled.training.initial import initialise_for_intervals
from unfooled.training.losses.inner import worst_points

Margins = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]
"""`(model, x, y, threat) -> (B, K - 1)`: lower bounds of z_y - z_k over the threat, with gradients of the weights."""


Penalised = Callable[[nn.Module, Tensor, Tensor, Threat], tuple[Tensor, Tensor]]
"""`(model, x, y, threat) -> (B, K - 1), scalar`: such margins, and a penalty on the bounds of the layers."""
PENALTY_WEIGHT = 0.5


def worst_cross_entropy(margins: Tensor) -> Tensor:
    """Return the mean cross-entropy of the logits that have these margins, (B, K - 1) -> scalar."""
    return torch.cat([torch.zeros_like(margins[:, :1]), -margins], 1).logsumexp(1).mean()


@torch.no_grad()
def _see_clean(model: nn.Module, x: Tensor) -> None:
    """Call a model with batch normalisation, so that its statistics are those of clean samples."""
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        model(x)


def _within(name: str, value: float, low: float = 0.0) -> None:
    if not low <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie between {low:g} and 1")


@dataclass(frozen=True)
class Ibp:
    """Clean cross-entropy and that of the worst logits by intervals. Cost: about 4 forwards, 4 backwards.

    Args:
        threat: Constraint set of the adversary; let it grow from 0 by a ramp.
        margins: Function that bounds margins by intervals.
        clean: Weight of the clean loss, kappa, in [0, 1]; the last one, if eps grows by a ramp.
        penalised: Function that bounds margins and returns a penalty on intervals that grow from layer to layer, such
            as `certification.penalised_margins`. None: there is no penalty.
        growth: Weight of the penalty, in halves, in [0, 1]; the last one, if eps grows by a ramp.

    References:
        Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018,
        arXiv:1810.12715; the penalty: Shi et al., Fast certified robust training with short warmup, NeurIPS 2021,
        arXiv:2103.17268.
        Differs from the paper: batch normalisation enters the bounds with its running statistics.
    """

    falls: ClassVar[tuple[str, ...]] = ("clean", "growth")
    initialise = staticmethod(initialise_for_intervals)

    threat: Threat
    margins: Margins
    clean: float = 0.5
    penalised: Penalised | None = None
    growth: float = 0.0

    def __post_init__(self) -> None:
        _within("clean", self.clean)
        _within("growth", self.growth)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        if self.clean == 1:
            return F.cross_entropy(model(x), y)
        loss = x.new_zeros(())
        if self.clean == 0:
            _see_clean(model, x)
        else:
            loss = self.clean * F.cross_entropy(model(x), y)
        if self.penalised is not None and self.growth > 0:
            margins, penalty = self.penalised(model, x, y, self.threat)
            loss = loss + PENALTY_WEIGHT * self.growth * penalty
        else:
            margins = self.margins(model, x, y, self.threat)
        return loss + (1 - self.clean) * worst_cross_entropy(margins)

    __repr__ = spelled


@dataclass(frozen=True)
class CrownIbp:
    """Clean cross-entropy and that of the worst logits by CROWN-IBP and intervals mixed.

    Cost: about 4 + 2 K forwards, as many backwards.

    Args:
        threat: Constraint set of the adversary; let it grow from 0 by a ramp.
        margins: Function that bounds margins by intervals.
        relaxed: Function that bounds margins by CROWN-IBP.
        clean: Weight of the clean loss, kappa, in [0, 1]; the last one, if eps grows by a ramp.
        mix: Weight of CROWN-IBP beside intervals, beta, in [0, 1]; the last one, if eps grows by a ramp. With 0, which
            is published, the loss ends as that of intervals, at its lower cost.

    References:
        Zhang et al., Towards stable and efficient training of verifiably robust neural networks, ICLR 2020,
        arXiv:1906.06316.
    """

    falls: ClassVar[tuple[str, ...]] = ("clean", "mix")
    initialise = staticmethod(initialise_for_intervals)

    threat: Threat
    margins: Margins
    relaxed: Margins
    clean: float = 0.5
    mix: float = 0.5

    def __post_init__(self) -> None:
        _within("clean", self.clean)
        _within("mix", self.mix)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        clean = F.cross_entropy(model(x), y)
        if self.clean == 1:
            return clean
        margins = self.margins(model, x, y, self.threat)
        if self.mix > 0:
            margins = self.mix * self.relaxed(model, x, y, self.threat) + (1 - self.mix) * margins
        return self.clean * clean + (1 - self.clean) * worst_cross_entropy(margins)

    __repr__ = spelled


@dataclass(frozen=True)
class Sabr:
    """Cross-entropy of the worst logits by intervals, on a small ball around an adversarial point.

    Cost: steps + 4 forwards, steps + 4 backwards.

    Args:
        threat: Constraint set of the adversary; let it grow from 0 by a ramp.
        margins: Function that bounds margins by intervals.
        share: Radius of the small ball, relative to eps, in (0, 1]; 1 is IBP.
        steps: Steps of the inner attack, which moves by the rest of eps.
        rule: Step sizes of the inner attack, relative to its radius.

    References:
        Mueller et al., Certified training: small boxes are all you need, ICLR 2023, arXiv:2210.04871.
        Differs from the paper: the points of the attack are its best, not its last ones.
    """

    initialise = staticmethod(initialise_for_intervals)

    threat: Threat
    margins: Margins
    share: float = 0.4
    steps: int = 8
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        _within("share", self.share, 1e-6)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        _see_clean(model, x)
        threat = self.threat.bounded(x)
        centre = x
        if self.share < 1:
            centre = worst_points(
                model, x, y, threat.scaled(1 - self.share), loss=cross_entropy, steps=self.steps, rule=self.rule
            )
        return worst_cross_entropy(self.margins(model, centre, y, threat.scaled(self.share)))

    __repr__ = spelled


@dataclass(frozen=True)
class MtlIbp:
    """Cross-entropy of the worst logits by intervals, and that at an adversarial point.

    Cost: steps + 5 forwards, steps + 5 backwards.

    Args:
        threat: Constraint set of the adversary; let it grow from 0 by a ramp.
        margins: Function that bounds margins by intervals.
        mix: Weight of the bounds beside the attack, alpha, in [0, 1].
        steps: Steps of the inner attack.
        rule: Step sizes of the inner attack, relative to eps.

    References:
        De Palma et al., Expressive losses for verified robustness via convex combinations, ICLR 2024, arXiv:2305.13991.
    """

    initialise = staticmethod(initialise_for_intervals)

    threat: Threat
    margins: Margins
    mix: float = 0.5
    steps: int = 8
    rule: Rule = Constant(0.25)  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        _within("mix", self.mix)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        z = worst_points(model, x, y, self.threat, loss=cross_entropy, steps=self.steps, rule=self.rule)
        worst = worst_cross_entropy(self.margins(model, x, y, self.threat))
        return self.mix * worst + (1 - self.mix) * F.cross_entropy(model(z), y)

    __repr__ = spelled
