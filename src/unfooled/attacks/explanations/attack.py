"""Attacks on explanations: move the reason, keep the label.

    maximise  objective(A(x')) - hold * relu(margin(f(x')) + kappa)   over x' inside the threat,   argmax f(x') = y

A is the explanation's map, reduced over channels and scaled to mass 1. A ReLU network has no curvature, so its gradient
maps have no gradient: the ascent runs on the explanation of the network with softplus(beta t) / beta in place of ReLU,
sharpened step by step. What it finds is judged on the true network and its true explanation, and only points that keep
the label there can be returned.

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (the attacks).
    Dombrowski et al., Explanations can be manipulated and geometry is to blame, NeurIPS 2019, arXiv:1906.07983
    (softplus, annealed).
    Differs: the label is held by a term of the objective and by the true model, not by stopping; restarts; any threat,
    objective and explanation; the true explanation chooses among the iterates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.attacks.explanations.candidates import Candidates, Explanation, Observe, Reduce, takes_create_graph
from unfooled.attacks.explanations.noise import random_point
from unfooled.attacks.explanations.objectives import MapObjective, normalised
from unfooled.attacks.gradients.adaptive import estimated_gradient, pulled
from unfooled.core import rng
from unfooled.core.ascent import Decaying, Rule, ascend
from unfooled.core.errors import BadInput
from unfooled.core.goals import read_logits
from unfooled.core.losses import margin
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps
from unfooled.explanations.surgery import Smoothed

GRADIENT_COST = 3
"""Explanations that a map and its gradient cost together: a double backward costs about as much as two maps."""


@dataclass(frozen=True)
class Differences:
    """The gradient of the objective by central differences along random signs, for explanations that have none.

    Args:
        draws: pairs of points. Cost: 2 `draws` explanations and forwards a step, no backward.
        sigma: half the step, a fraction of the input range: wide enough to cross the kinks of a ReLU network.
        rows: points per call of the explanation.
    """

    draws: int = 16
    sigma: float = 0.02
    rows: int = 512

    def __post_init__(self) -> None:
        if self.draws < 1 or self.rows < 1 or not 0 < self.sigma < 0.5:
            raise BadInput(f"{self} cannot be used; draws and rows are at least 1, sigma is above 0 and below 1/2")


def attack_explanation(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    objective: MapObjective,
    steps: int = 50,
    rule: Rule = Decaying(),  # noqa: B008  (frozen)
    hold: float = 10.0,
    kappa: float = 0.0,
    betas: Sequence[float] = (5, 15, 50),
    restarts: int = 2,
    every: int = 5,
    differences: Differences | None = None,
    reduce: Reduce = as_maps,
    observe: Observe | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change why the model says y, without changing that it does.

    Args:
        model: any callable to logits, (B, *D) -> (B, K), in eval mode. Not modified.
        x: inputs in the threat's box, (B, *D).
        y: labels, (B,) int64.
        threat: constraint set; its eps may be (B,).
        explain: `(model, x, y, *, create_graph=False) -> (B, *D)`, options bound with `functools.partial`. Whatever has
            no `create_graph`, or whose map cannot be differentiated, is attacked by `Differences`.
        objective: what to maximise: `out_of_top_k`, `out_of_lens`, `mass_center`, `into`, `cosine`,
            `kendall_surrogate`, or a function of your own (see `explanation_objectives`).
        steps: gradients a restart.
        rule: step sizes relative to eps.
        hold: weight of the term that holds the label, per unit of the logits.
        kappa: lead, in logits, below which that term sets in.
        betas: sharpness of softplus in equal shares of the steps; none, (), attacks the true network's own curvature.
        restarts: random starts, corners for `Linf`, at least 1.
        every: steps between looks at the true explanation; the start and the end are always looked at.
        differences: attack by differences instead of gradients.
        reduce: relevances (B, *D) -> maps (B, H, W).
        observe: called with every candidate looked at, `(z, at, maps)`; see `Observe`.
        batch: samples alive at once; as many as fit well in memory where None (cost: 1 forward of one sample).
        generator: base seed; the same seed and sample give the same starts whatever the batch.

    Returns:
        Points inside the threat, (B, *D), detached, that keep the label of the true model and whose true map has the
        highest objective met. x itself where none beats x's own map, where the label is wrong already, and where the
        clean map is constant. Success is not implied: see `evaluation.explanation.judge_explanation`.
        Cost a restart: steps (map and gradient of it, 1 F, 1 B) and steps / every + 1 explanations.

    Raises:
        BadInput: an argument cannot be used; the message names the offender.

    Example:
        >>> from unfooled.attacks import out_of_top_k
        >>> from unfooled.explanations import saliency
        >>> model = lambda x: torch.stack([x[:, 0] * x[:, 1] + 1, x[:, 2] ** 2], 1)
        >>> x, y = torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([0])
        >>> z = attack_explanation(model, x, y, Linf(0.1), saliency, objective=out_of_top_k(1), steps=5)
        >>> saliency(model, x, y).argmax(1), saliency(model, z, y).argmax(1)
        (tensor([1]), tensor([0]))
    """
    if steps < 1 or restarts < 1 or every < 1:
        raise BadInput(f"steps is {steps}, restarts is {restarts}, every is {every}; each must be at least 1")
    if not callable(objective):
        raise BadInput(f"objective is {objective!r}; give what to maximise, such as out_of_top_k(100)")
    if not hold >= 0:
        raise BadInput(f"hold is {hold}; it must be at least 0")
    with frozen(model):
        # A map's gradient keeps about three graphs of a forward alive.
        batch = batch or max(1, fitting_batch(model, x) // 3)
        found = Candidates(model, x, y, threat, explain, objective, reduce, observe, batch)
        if differences is None and not differentiable(model, x, y, explain):
            differences = Differences()
        for r in range(restarts):
            start = random_point(x, threat, draw=r, generator=generator)
            for rows in found.groups(batch):
                climb = _Climb(found, rows, steps, every, hold, kappa, tuple(betas), differences, generator)
                ascend(
                    climb,
                    x[rows],
                    threat.take(rows),
                    steps=steps,
                    rule=rule,
                    start=start[rows],
                    generator=generator,
                )
    return found.best


def budget_of(*, steps: int = 50, restarts: int = 2, every: int = 5, differences: Differences | None = None) -> int:
    """Explanations that `attack_explanation` takes of a sample at most: what its random baseline may take, too."""
    step = GRADIENT_COST if differences is None else 1 + 2 * differences.draws
    return restarts * (steps * step + -(-steps // every) + 1)


class _Climb:
    """The objective of one ascent over some rows: counts its steps, and shows iterates to the candidates."""

    def __init__(
        self,
        found: Candidates,
        rows: Tensor,
        steps: int,
        every: int,
        hold: float,
        kappa: float,
        betas: tuple[float, ...],
        differences: Differences | None,
        generator: torch.Generator | None,
    ) -> None:
        self.found, self.rows, self.steps, self.every, self.t = found, rows, steps, every, 0
        self.hold, self.kappa, self.differences, self.generator = hold, kappa, differences, generator
        self.models: list[Model] = [Smoothed(found.model, beta, pools=True) for beta in betas] or [found.model]

    def __call__(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """All rows start together and none is ever done, so that each call is a step of every row."""
        rows, t = self.rows[at], self.t
        self.t += 1
        open_end = torch.zeros_like(at, dtype=torch.bool)
        if t == self.steps:
            self.found.offer(z, rows)
            return z.new_zeros(len(z)), open_end
        if self.differences is not None:
            return self._by_differences(z, rows, t), open_end
        logits = read_logits(self.found.model, z)
        if t % self.every == 0:
            self.found.offer(z, rows, logits)
        model = self.models[t * len(self.models) // self.steps]
        return self._value(self.found.graph_of(model, z, rows), logits, rows), open_end

    def _value(self, maps: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        assert self.found.value is not None
        held = (margin(logits, self.found.y[rows]) + self.kappa).clamp_min(0)
        return self.found.value(maps, rows) - self.hold * held

    def _by_differences(self, z: Tensor, rows: Tensor, t: int) -> Tensor:
        """The objective on the true model, with an estimated gradient."""
        how = self.differences
        assert how is not None
        if t % self.every == 0:
            self.found.offer(z, rows)

        def values(points: Tensor, at: Tensor) -> Tensor:
            logits = read_logits(self.found.model, points)
            return self._value(normalised(self.found.map_of(points, rows[at])), logits, rows[at])[:, None]

        def pull(point: Tensor, g: Tensor) -> Tensor:
            key, box = rng.seeds(point, self.generator, stage=rng.Stream.MAP_SIGNS), self.found.threat.box
            return estimated_gradient(values, point, g, key, draws=how.draws, sigma=how.sigma, rows=how.rows, box=box)

        everyone = torch.arange(len(z), device=z.device)
        return pulled(z, lambda points: values(points, everyone), pull)[:, 0]


def differentiable(model: Model, x: Tensor, y: Tensor, explain: Explanation) -> bool:
    """Whether the explanation's map can be differentiated. Cost: 1 explanation of one sample and a gradient of it."""
    if not takes_create_graph(explain):
        return False
    z = x[:1].detach().clone().requires_grad_()
    with frozen(model), torch.enable_grad():
        try:
            found = explain(model, z, y[:1], create_graph=True)
            if not isinstance(found, Tensor) or not found.requires_grad:
                return False
            torch.autograd.grad(found.square().sum(), z)
        except (RuntimeError, TypeError):  # no second derivative, NumPy inside, an option handed on that is not taken
            return False
    return True
