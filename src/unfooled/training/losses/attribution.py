"""Attributional training by path integrals of the loss: it limits how far attributions can change inside the threat.

    IG^l(x, x') = (x' - x) * sum_j w_j grad_z l(f(x + t_j (x' - x)), y)

    IG-NORM       min_theta  mean l(x) + lambda max_{x' in T(x)} |IG^l(x, x')|_1
    IG-SUM-NORM   min_theta  mean max_{x' in T(x)} [ l(x') + beta |IG^l(x, x')|_1 ]

l is the cross-entropy, and the path leads from the sample to the adversarial point. This differs from the integrated
gradients of a logit from a baseline, which evaluations use. Since sum_i IG^l_i = l(x') - l(x), IG-NORM with this sum in
place of the norm and lambda = 1 is the loss of `Madry`. To first order |IG^l|_1 in a Linf ball is eps |grad_x l|_1:
`InputGradient(norm=1)`. The loss has curvature through the softmax, so ReLU need not be smoothed.

At x' = x the norm is not differentiable, so the inner ascent starts at a random point. It needs `steps * inner_path`
double backwards; `inner=partial(pgd, steps=7)` replaces it by an attack on the loss.

References:
    Chen et al., Robust attribution regularization, NeurIPS 2019, arXiv:1905.09957.
    Differs from the published code: means over the batch where it sums, so lambda does not depend on the batch size;
    Gauss-Legendre nodes where it takes right end points of equal intervals (`nodes=right`); the best iterate is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unfooled.core.ascent import Constant, Rule, ascend
from unfooled.core.losses import cross_entropy
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import evaluating, frozen
from unfooled.core.shapes import flat
from unfooled.core.threats import Threat
from unfooled.core.types import BudgetAttack, Model, TrainingLoss
from unfooled.explanations import integrated_gradients
from unfooled.explanations.paths import Rule as Nodes
from unfooled.explanations.paths import gauss_legendre
from unfooled.runs.spelling import spelled
from unfooled.training.losses.grouped import grouped_mean
from unfooled.training.losses.inner import InEval, at_least, proposed
from unfooled.training.losses.standard import Standard


@dataclass(frozen=True, repr=False)
class IgNorm:
    """The base loss plus lambda times the largest norm of the loss's path integral inside the threat.

    Cost: the base loss's; `steps * inner_path` forwards, backwards and double backwards for x', and `path`
    of each for the regulariser. Memory does not grow with the batch: paths are computed for a few samples at once.
    Gradients are taken in eval mode, sample by sample; a network with batch normalisation uses its running statistics
    there, and those of the batch in the base loss.

    Args:
        threat: Constraint set of the adversary.
        weight: Weight lambda; in the paper 1 on MNIST, Fashion-MNIST and GTSRB, .1 on Flower.
        path: Number of nodes of the regulariser's path.
        inner_path: Number of nodes of the path in the inner ascent.
        steps: Steps of the inner ascent.
        inner: Attack that finds x', `(model, x, y, threat, *, generator) -> x'`. None: the inner ascent.
        base: Loss that is regularised; in the paper, the cross-entropy of the clean samples.
        rule: Step sizes of the inner ascent, relative to eps.
        nodes: Quadrature rule of the paths; see `integrated_gradients`.
        batch_bytes: Memory limit for one batch's graph, in bytes; see `BatchBudget`.
    """

    threat: Threat
    weight: float = 1.0
    path: int = 10
    inner_path: int = 5
    steps: int = 7
    inner: BudgetAttack | None = None
    base: TrainingLoss = field(default=Standard(), kw_only=True)
    rule: Rule = field(default=Constant(0.25), kw_only=True)
    nodes: Nodes = field(default=gauss_legendre, kw_only=True)
    batch_bytes: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight, steps=self.steps)
        at_least(1, path=self.path, inner_path=self.inner_path)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""
        # The base first: it updates batch statistics, which must not change between the two passes over the path.
        loss = self.base(model, x, y)
        if not self.weight:
            return loss
        z = _largest(self, model, x, y, lambda _z, _y, size: size)
        return loss + self.weight * _mean_size(self, model, x, z, y)

    __repr__ = spelled


@dataclass(frozen=True, repr=False)
class IgSumNorm:
    """The largest sum, inside the threat, of the loss and beta times the norm of its path integral.

    Cost: as `IgNorm`, with 1 forward and 1 backward at x' in place of the base loss, and 1 more of each per step of the
    ascent.

    Args:
        threat: Constraint set of the adversary.
        weight: Weight beta; in the paper .1 on MNIST, Fashion-MNIST and Flower, 1 on GTSRB. At 0 this is `Madry`.
        path: Number of nodes of the regulariser's path; this and the options below are as in `IgNorm`.
        inner_path: Number of nodes of the path in the inner ascent.
        steps: Steps of the inner ascent.
        inner: Attack that finds x'. None: the inner ascent.
        rule: Step sizes of the inner ascent.
        nodes: Quadrature rule of the paths.
        batch_bytes: Memory limit for one batch's graph, in bytes.
    """

    threat: Threat
    weight: float = 0.1
    path: int = 10
    inner_path: int = 5
    steps: int = 7
    inner: BudgetAttack | None = None
    rule: Rule = field(default=Constant(0.25), kw_only=True)
    nodes: Nodes = field(default=gauss_legendre, kw_only=True)
    batch_bytes: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        at_least(0, weight=self.weight, steps=self.steps)
        at_least(1, path=self.path, inner_path=self.inner_path)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar."""

        def total(z: Tensor, labels: Tensor, size: Tensor) -> Tensor:
            return cross_entropy(model(z).to(z.dtype), labels) + self.weight * size

        z = _largest(self, model, x, y, total)
        loss = F.cross_entropy(model(z), y)
        return loss + self.weight * _mean_size(self, model, x, z, y) if self.weight else loss

    __repr__ = spelled


def _largest(
    loss: IgNorm | IgSumNorm, model: nn.Module, x: Tensor, y: Tensor, gain: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Find points of the threat with the largest gain(z, y, |IG^l|_1), by the ascent or by `inner`."""
    if loss.inner is not None:
        return proposed(loss.inner, model, x, y, loss.threat)
    seed = int(torch.randint(1 << 62, ()))
    with evaluating(model), frozen(model):

        def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            size = _size(loss, model, x[at], z, y[at], loss.inner_path, create_graph=z.requires_grad)
            return gain(z, y[at], size), torch.zeros_like(at, dtype=torch.bool)

        # A sample keeps about three graphs of a forward pass at every node alive, so fewer samples fit at once.
        graphs = 3 * loss.inner_path
        fitting = fitting_batch(model, x, ceiling=graphs * len(x), batch_bytes=loss.batch_bytes)
        start, batch = loss.threat.sample(x, seed), max(1, fitting // graphs)
        return ascend(objective, x, loss.threat, steps=loss.steps, rule=loss.rule, start=start, batch=batch).z


def _mean_size(loss: IgNorm | IgSumNorm, model: nn.Module, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Return the mean of |IG^l(x, z)|_1, a scalar."""
    in_eval = InEval(model)
    return grouped_mean(
        model, lambda x, z, y: _size(loss, in_eval, x, z, y, loss.path), x, z, y, graphs=3 * loss.path,
        batch_bytes=loss.batch_bytes,
    )  # fmt: skip


def _size(
    loss: IgNorm | IgSumNorm, model: Model, x: Tensor, z: Tensor, y: Tensor, steps: int, *, create_graph: bool = True
) -> Tensor:
    """Return |IG^l(x, z)|_1, (B,)."""
    e = integrated_gradients(
        model, z, y, baseline=x, steps=steps, rule=loss.nodes, score=cross_entropy, batch_bytes=loss.batch_bytes,
        one_graph=True, create_graph=create_graph,
    )  # fmt: skip
    return flat(e).abs().sum(1)
