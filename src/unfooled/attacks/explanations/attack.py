"""Attacks on explanations: move the explanation, keep the label.

    maximise  objective(A(x')) - hold * relu(margin(f(x')) + kappa)   over x' inside the threat,   argmax f(x') = y

A is the explanation's map, reduced over channels and scaled to mass 1. A ReLU network has no curvature, so its gradient
maps have no gradient: the ascent runs on the explanation of the network with softplus(beta t) / beta in place of ReLU,
with increasing beta. Its points are evaluated on the true network and its true explanation, and only points that keep
the label there are returned.

References:
    Ghorbani, Abid, Zou, Interpretation of neural networks is fragile, AAAI 2019, arXiv:1710.10547 (the attacks).
    Dombrowski et al., Explanations can be manipulated and geometry is to blame, NeurIPS 2019, arXiv:1906.07983
    (softplus, annealed).
    Differs: the label is kept by a term of the objective and a check on the true model, not by stopping; restarts; any
    threat, objective and explanation; the best iterate is selected by the true explanation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unfooled.attacks.explanations.candidates import Candidates, Explanation, Observe, Reduce, takes_create_graph
from unfooled.attacks.explanations.noise import drawn
from unfooled.attacks.explanations.objectives import MapObjective, normalised
from unfooled.attacks.gradients.custom import with_gradient
from unfooled.attacks.gradients.estimated import estimated_gradient
from unfooled.core import rng
from unfooled.core.ascent import Decaying, Rule, ascend
from unfooled.core.errors import BadInput
from unfooled.core.goals import logits_at
from unfooled.core.losses import margin
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import frozen
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.distances.maps.locality import as_maps
from unfooled.explanations.surgery import Smoothed

GRADIENT_COST = 3
"""Cost of a map with its gradient, in explanations: a double backward costs about as much as two maps."""


@dataclass(frozen=True)
class Differences:
    """Gradients by central differences along random signs, for explanations that are not differentiable.

    Args:
        draws: Number of pairs of points. Cost: 2 `draws` explanations and forwards per step, no backward.
        sigma: Half the step, a fraction of the input range: wide enough to cross the kinks of a ReLU network.
        batch: Points computed at once.
    """

    draws: int = 16
    sigma: float = 0.02
    batch: int = 512

    def __post_init__(self) -> None:
        if self.draws < 1 or self.batch < 1 or not 0 < self.sigma < 0.5:
            raise BadInput(f"{self} cannot be used; draws and batch are at least 1, sigma is above 0 and below 1/2")


@dataclass(frozen=True)
class Search:
    """Search options of an attack on an explanation: steps, starts, label term and differentiation.

    Args:
        steps: Gradients per restart, at least 1.
        rule: Step sizes relative to eps.
        restarts: Number of random starts, corners for `Linf`, at least 1.
        every: Number of steps between evaluations of the true explanation; start and end are always evaluated.
        hold: Weight of the term that keeps the label, per unit of the logits.
        kappa: Margin of the label, in logits, below which that term is active.
        betas: Values of beta, each for an equal share of the steps. (): the network itself, without softplus.
        differences: Finite differences in place of gradients. None: only if the explanation is not differentiable.
    """

    steps: int = 50
    rule: Rule = Decaying()  # noqa: RUF009  (frozen)
    restarts: int = 2
    every: int = 5
    hold: float = 10.0
    kappa: float = 0.0
    betas: Sequence[float] = (5, 15, 50)
    differences: Differences | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.every < 1:
            raise BadInput(
                f"steps is {self.steps}, restarts is {self.restarts}, every is {self.every}; each must be at least 1"
            )
        if not self.hold >= 0:
            raise BadInput(f"hold is {self.hold}; it must be at least 0")

    @property
    def explanations(self) -> int:
        """Largest number of explanations per sample, a gradient counted as `GRADIENT_COST`: the baselines' budget."""
        step = GRADIENT_COST if self.differences is None else 1 + 2 * self.differences.draws
        return self.restarts * (self.steps * step + -(-self.steps // self.every) + 1)


def attack_explanation(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    explain: Explanation,
    *,
    objective: MapObjective,
    search: Search = Search(),
    reduce: Reduce = as_maps,
    observe: Observe | None = None,
    batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change the explanation of the prediction y while the model still predicts y.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K), in eval mode. Not modified.
        x: Inputs in the threat's box, (B, *D).
        y: Labels, (B,) int64.
        threat: Threat model; its eps may be (B,).
        explain: `(model, x, y, *, create_graph=False) -> (B, *D)`, options bound with `functools.partial`. One without
            `create_graph`, or whose map cannot be differentiated, is attacked by `Differences`.
        objective: Value of a map, maximised: `out_of_top_k`, `out_of_lens`, `mass_center`, `into`, `cosine`,
            `kendall_surrogate`, or a custom function (see `objectives`).
        search: Options of the search, see `Search`.
        reduce: Function from attributions, (B, *D), to maps, (B, H, W).
        observe: Callback for every evaluated candidate, `(z, at, maps)`; see `Observe`.
        batch: Samples computed at once. None: as many as fit well in memory (cost: 1 forward of one sample).
        generator: Base seed; the same seed and sample give the same starts in any batch.

    Returns:
        Points inside the threat, (B, *D), detached, that keep the label of the true model and whose true map has the
        highest objective found. x itself where no point exceeds the objective at x, where the label is wrong already,
        and where the clean map is constant. Success is not implied: see
        `evaluation.explanations.judge.judge_explanation`. Cost per restart: a map, its gradient, 1 forward and 1
        backward per step, and steps / every + 1 explanations.

    Raises:
        BadInput: An argument is invalid; the message names the invalid one.

    Example:
        >>> from unfooled.attacks import out_of_top_k
        >>> from unfooled.explanations import saliency
        >>> model = lambda x: torch.stack([x[:, 0] * x[:, 1] + 1, x[:, 2] ** 2], 1)
        >>> x, y = torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([0])
        >>> z = attack_explanation(model, x, y, Linf(0.1), saliency, objective=out_of_top_k(1), search=Search(steps=5))
        >>> saliency(model, x, y).argmax(1), saliency(model, z, y).argmax(1)
        (tensor([1]), tensor([0]))
    """
    if not callable(objective):
        raise BadInput(f"objective is {objective!r}; give what to maximise, such as out_of_top_k(100)")
    with frozen(model):
        # The gradient of a map keeps about three forward graphs in memory.
        batch = batch or max(1, fitting_batch(model, x) // 3)
        candidates = Candidates(model, x, y, threat, explain, objective, reduce, observe, batch)
        climb(candidates, search, batch, generator)
    return candidates.best


def climb(candidates: Candidates, search: Search, batch: int, generator: torch.Generator | None) -> None:
    """Ascend from every start of a search, and record the iterates of the live samples as candidates.

    Args:
        candidates: Candidates, with model, samples, threat and objective.
        search: Options of the search.
        batch: Samples computed at once.
        generator: Base seed.
    """
    c, differences = candidates, search.differences
    if differences is None and not differentiable(c.model, c.x, c.y, c.explain):
        differences = Differences()
    for r in range(search.restarts):
        start = drawn(c.x, c.threat, r, generator)
        for rows in c.groups(batch):
            one = _Climb(c, rows, search, differences, generator)
            ascend(
                one, c.x[rows], c.threat.take(rows), steps=search.steps, rule=search.rule, start=start[rows],
                generator=generator,
            )  # fmt: skip


class _Climb:
    """Objective of one ascent over some samples, which counts its steps and records iterates as candidates."""

    def __init__(
        self,
        candidates: Candidates,
        rows: Tensor,
        search: Search,
        differences: Differences | None,
        generator: torch.Generator | None,
    ) -> None:
        self.candidates, self.rows, self.search, self.t = candidates, rows, search, 0
        self.differences, self.generator = differences, generator
        model = candidates.model
        self.models: list[Model] = [Smoothed(model, beta, pools=True) for beta in search.betas] or [model]

    def __call__(self, z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate all samples together; none is reported done, so that each call is a step of every sample."""
        rows, t = self.rows[at], self.t
        self.t += 1
        never = torch.zeros_like(at, dtype=torch.bool)
        if t == self.search.steps:
            self.candidates.record(z, rows)
            return z.new_zeros(len(z)), never
        if self.differences is not None:
            return self._by_differences(z, rows, t, self.differences), never
        logits = logits_at(self.candidates.model, z)
        if t % self.search.every == 0:
            self.candidates.record(z, rows, logits)
        model = self.models[t * len(self.models) // self.search.steps]
        return self._value(self.candidates.graph_of(model, z, rows), logits, rows), never

    def _value(self, maps: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the objective of maps minus the term that keeps the label, (b,)."""
        assert self.candidates.value is not None
        losing = (margin(logits, self.candidates.y[rows]) + self.search.kappa).clamp_min(0)
        losing = losing.detach() if bool((losing == 0).all()) else losing  # the gradient is 0 there
        return self.candidates.value(maps, rows) - self.search.hold * losing

    def _by_differences(self, z: Tensor, rows: Tensor, t: int, differences: Differences) -> Tensor:
        """Evaluate the objective on the true model, with an estimated gradient."""
        if t % self.search.every == 0:
            self.candidates.record(z, rows)

        def values(points: Tensor, at: Tensor) -> Tensor:
            logits = logits_at(self.candidates.model, points)
            return self._value(normalised(self.candidates.map_of(points, rows[at])), logits, rows[at])[:, None]

        def pull(point: Tensor, g: Tensor) -> Tensor:
            key, d = rng.seeds(point, self.generator, stage=rng.Stream.MAP_SIGNS), differences
            box = self.candidates.threat.box
            return estimated_gradient(values, point, g, key, draws=d.draws, sigma=d.sigma, batch=d.batch, box=box)

        every_row = torch.arange(len(z), device=z.device)
        return with_gradient(z, lambda points: values(points, every_row), pull)[:, 0]


def differentiable(model: Model, x: Tensor, y: Tensor, explain: Explanation) -> bool:
    """Return whether the explanation's map can be differentiated. Cost: 1 explanation of a sample and its gradient."""
    if not takes_create_graph(explain):
        return False
    z = x[:1].detach().clone().requires_grad_()
    with frozen(model), torch.enable_grad():
        try:
            attribution = explain(model, z, y[:1], create_graph=True)
            if not isinstance(attribution, Tensor) or not attribution.requires_grad:
                return False
            torch.autograd.grad(attribution.square().sum(), z)
        except (RuntimeError, TypeError):  # no second derivative, NumPy inside, an unsupported option passed on
            return False
    return True
