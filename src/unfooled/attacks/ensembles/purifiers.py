"""Stages against a model behind a purifier: gradients of a stand-in, wrong clusters, low frequencies.

References:
    Athalye, Carlini, Wagner, Obfuscated gradients give a false sense of security, ICML 2018, arXiv:1802.00420 (BPDA).
    Tramer, Carlini, Brendel, Madry, On adaptive attacks to adversarial example defenses, NeurIPS 2020,
    arXiv:2002.08347.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from unfooled.attacks.assignment import assignment
from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.stages import Proposal, Stage, ascended
from unfooled.attacks.low_frequency import low_frequency
from unfooled.core import losses, rng
from unfooled.core.goals import fooling
from unfooled.core.low_pass import low_pass
from unfooled.core.samples import replaced
from unfooled.core.types import Model


@dataclass(frozen=True)
class StandInAscent(Stage):
    """APGD on the margin with the gradients of a stand-in.

    Attributes:
        name: Name in records.
        attacked: Model whose gradients are followed, in the place of the problem's. Its values are those of the model
            under attack where `whole` is False.
        steps: Gradients per sample.
        fresh: True: start from a random corner (Linf) or point of the threat; False: from the best point so far.
        whole: True: take all steps, since the stand-in's label says nothing about that of the model under attack.
            False: stop a sample once it is fooled.
    """

    name: str
    attacked: Model = field(repr=False)
    steps: int = 40
    fresh: bool = True
    whole: bool = False
    share: float = 1.0
    most: int | None = None

    @property
    def depth(self) -> int:
        """Number of gradient steps."""
        return self.steps

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Ascend once. Cost: steps + 1 forwards, steps backwards of the stand-in."""
        start = problem.threat.extreme(problem.x, problem.seed, draw=number) if self.fresh else frontier.points
        stop = problem.decisive and not self.whole
        objective = fooling(self.attacked, problem.y, losses.margin, stop=stop)
        return Proposal(ascended(problem, objective, start, self.steps))


@dataclass(frozen=True)
class Assignments(Stage):
    """Assignment attack: a cluster of another class first, then the margin.

    Attributes:
        distance: Distance of inputs to clusters, (b, *D) -> (b, M), differentiable.
        label: Class of each cluster, (M,) int64, at least two classes.
        steps: Gradients per sample.
    """

    distance: Callable[[Tensor], Tensor] = field(repr=False)
    label: Tensor = field(repr=False)
    steps: int = 40
    share: float = 1.0
    most: int | None = None
    name: str = "assignment"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Attack the samples whose class has a cluster. Cost: steps + 1 forwards, steps backwards, of both."""
        rows = torch.isin(problem.y, self.label.to(problem.y.device)).nonzero()[:, 0]
        if not len(rows):
            return Proposal(frontier.points)
        source = rng.derived(problem.seed, number)

        def attack(p: Problem, _: Tensor) -> Tensor:
            return assignment(
                p.attacked, p.x, p.y, p.threat, distance=self.distance, label=self.label, steps=self.steps,
                generator=source,
            )  # fmt: skip

        return Proposal(replaced(frontier.points, rows, problem.take(rows).in_batches(attack)))


@dataclass(frozen=True)
class LowFrequencies(Stage):
    """PGD over changes that a low-pass filter lets through.

    Attributes:
        smooth: Weight mu of the filter.
        steps: Gradients per sample.
    """

    smooth: float = 5.0
    steps: int = 40
    share: float = 1.0
    most: int | None = None
    name: str = "low-frequency"
    sparse: ClassVar[bool] = False

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Attack once. Cost: steps + 1 forwards, steps backwards."""
        low, source = partial(low_pass, smooth=self.smooth), rng.derived(problem.seed, number)

        def attack(p: Problem, _: Tensor) -> Tensor:
            return low_frequency(p.attacked, p.x, p.y, p.threat, steps=self.steps, low=low, generator=source)

        return Proposal(problem.in_batches(attack))
