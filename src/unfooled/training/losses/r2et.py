"""R2ET: larger gaps between attributions around rank k, so that the top k is hard to change.

    A = sum_c |grad_x f_y(x)|,   r_1 >= r_2 >= ... the order of A at x, a constant

    min_theta  base + lambda mean sum_{d = 1..n} [ (A_{r_k} - A_{r_{k-d}}) + (A_{r_{k+d}} - A_{r_k}) ]
                    + mu mean |grad f_y(x + h s) - grad f_y(x)|_2 / h,        s = sign(grad f_y(x))

Each parenthesis is a negative lead: of a coordinate above rank k over the k-th, or of the k-th over one below. With
`form="exp"` each difference u is replaced by exp(u), which weights the smallest leads most; the term is then bounded
below, so that scaling up the gradients gains little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.core.shapes import flat
from unfooled.core.types import TrainingLoss
from unfooled.explanations import saliency
from unfooled.runs.spelling import spelled
from unfooled.training.losses.grouped import grouped_mean
from unfooled.training.losses.inner import InEval, at_least, smoothed
from unfooled.training.losses.standard import Standard


@dataclass(frozen=True, repr=False)
class R2et:
    """The base loss, minus lambda times the leads around rank k. No inner attack.

    Cost: the base loss's, and 1 forward, 1 backward with a graph; twice that with `curvature`. Maps are taken in eval
    mode, for a few samples at once.

    Args:
        k: Rank to defend, such as the k of a top-k score: coordinates ranked above it should stay above, others below.
        pairs: Number n of leads on either side of rank k; fewer where the map ends.
        weight: Weight lambda of the leads.
        curvature: Weight mu of the curvature; 0 leaves the term out.
        form: Form of each term: the "difference" itself, or its "exp".
        scaled: True: divide the map by its mean first, so that lambda does not depend on the logits' scale.
        step: Length h of the step that measures curvature.
        beta: Sharpness of softplus(beta t) / beta, which replaces ReLU for the maps. The input gradient of a ReLU net
            is piecewise constant, so its biases get no gradient from this loss. None: ReLU.
        base: Loss that is regularised: `Standard()`, `Madry(...)` or any other.

    References:
        Chen et al., Training for stable explanation for free, NeurIPS 2024, arXiv:2212.14106.
        Differs from the paper: any base loss, the map scaled on request, the curvature term in the Euclidean norm.
    """

    k: int = 100
    pairs: int = 10
    weight: float = 1e-2
    curvature: float = 0.0
    form: str = field(default="difference", kw_only=True)
    scaled: bool = field(default=False, kw_only=True)
    step: float = field(default=0.01, kw_only=True)
    beta: float | None = field(default=None, kw_only=True)
    base: TrainingLoss = field(default=Standard(), kw_only=True)

    def __post_init__(self) -> None:
        if self.form not in ("difference", "exp"):
            raise ValueError(f'form is {self.form!r}; it must be "difference" or "exp"')
        at_least(1, k=self.k, pairs=self.pairs)
        at_least(0, weight=self.weight, curvature=self.curvature)
        if not self.step > 0:
            raise ValueError(f"step is {self.step}; it must be above 0")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        loss = self.base(model, x, y)
        if not self.weight and not self.curvature:
            return loss
        explained = smoothed(InEval(model), self.beta)

        def term(x: Tensor, y: Tensor) -> Tensor:
            g = saliency(explained, x, y, create_graph=True)
            leads = self.weight * self._leads(g)
            if not self.curvature:
                return leads
            near = saliency(explained, x + self.step * g.detach().sign(), y, create_graph=True)
            return leads + self.curvature * flat(near - g).norm(dim=1) / self.step

        return loss + grouped_mean(model, term, x, y, graphs=6 if self.curvature else 3)

    def _leads(self, g: Tensor) -> Tensor:
        """Return the sum over the pairs of the lower minus the higher attribution, or of its exp, (B,)."""
        a = flat(g.abs().sum(1) if g.ndim > 2 else g.abs())
        if self.k >= a.shape[1]:
            raise BadInput(f"k is {self.k}, the maps have {a.shape[1]} places; choose fewer")
        if self.scaled:
            a = a / a.mean(1, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)
        low, high = max(self.k - 1 - self.pairs, 0), min(self.k + self.pairs, a.shape[1])
        order = a.detach().argsort(dim=1, descending=True, stable=True)[:, low:high]
        ranked, at = a.gather(1, order), self.k - 1 - low
        gaps = torch.cat([ranked[:, at : at + 1] - ranked[:, :at], ranked[:, at + 1 :] - ranked[:, at : at + 1]], 1)
        return (gaps.exp() if self.form == "exp" else gaps).sum(1)

    __repr__ = spelled
