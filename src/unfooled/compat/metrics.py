"""Metrics of torchmetrics: robust accuracy, and how much of an explanation survives.

Both take `update(x, y)`, so that a `MetricCollection` may hold them, inside Lightning's inference mode too. The model
is no part of their state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.apgd import apgd
from unfooled.attacks.explanations import attack_explanation, out_of_lens
from unfooled.core.losses import margin
from unfooled.core.threats import Threat
from unfooled.core.types import Explain, Model
from unfooled.distances.maps.locality import as_maps, lens_recall
from unfooled.evaluation.verify import verify
from unfooled.explanations.gradients import saliency

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("unfooled.compat.metrics needs torchmetrics; pip install torchmetrics") from error

Attack = Callable[[Model, Tensor, Tensor, Threat], Tensor]


class _Attacked(Metric):
    """A mean over samples of a score that needs gradients of the inputs."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, model: Model, threat: Threat) -> None:
        super().__init__()
        object.__setattr__(self, "attacked", model)  # no submodule, and in no checkpoint
        self.threat = threat
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Attack a batch and count it.

        Args:
            x: Inputs in the threat's box, (B, *D).
            y: Labels, (B,) int64.
        """
        with torch.inference_mode(False), torch.enable_grad():
            scores = self._scores(x.clone(), y.clone())
        self.total += scores.double().sum()
        self.count += len(scores)

    def compute(self) -> Tensor:
        """Return the mean so far."""
        return (self.total / self.count).float()

    def _scores(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


class RobustAccuracy(_Attacked):
    """Share of the samples that are right and stay right under one attack: an upper bound of robust accuracy.

    Args:
        model: Model in evaluation mode when it is updated.
        threat: Constraint set, of one eps for all samples.
        attack: From model, inputs, labels and threat to points. None: 20 steps of APGD on the margin.

    Example:
        >>> from unfooled import Linf
        >>> metric = RobustAccuracy(lambda z: z, Linf(0.2))
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.55, 0.45]]), torch.tensor([0, 0]))
        >>> float(metric.compute())
        0.5
    """

    def __init__(self, model: Model, threat: Threat, attack: Attack | None = None) -> None:
        super().__init__(model, threat)
        self.attack: Any = attack or partial(apgd, steps=20, loss=margin)

    def _scores(self, x: Tensor, y: Tensor) -> Tensor:
        model: Any = self.attacked
        judged = verify(model, x, y, self.attack(model, x, y, self.threat), self.threat)
        return ~judged.success & ~judged.undefined


class Lens(_Attacked):
    """Mean LENS of attribution maps under an attack that keeps the label, over samples that are right.

    Args:
        model: Model in evaluation mode when it is updated.
        threat: Constraint set, of one eps for all samples.
        explain: Explanation.
        k: Number of pixels that count as the top of a map. None: a tenth of them.
        w: Reach of LENS in pixels.
    """

    def __init__(
        self, model: Model, threat: Threat, explain: Explain = saliency, *, k: int | None = None, w: int = 1
    ) -> None:
        super().__init__(model, threat)
        self.explain, self.k, self.w = explain, k, w

    def _scores(self, x: Tensor, y: Tensor) -> Tensor:
        model: Any = self.attacked
        with torch.no_grad():
            right = model(x).argmax(1) == y
        x, y = x[right], y[right]
        if not len(x):
            return torch.zeros(0)
        k = self.k or max(1, x[0, :1].numel() // 10)
        goal = out_of_lens(k, self.w)
        x_adv = attack_explanation(model, x, y, self.threat, self.explain, objective=goal)
        before, after = (as_maps(self.explain(model, z, y).detach()) for z in (x, x_adv))
        return lens_recall(before, after, k=k, w=self.w)
