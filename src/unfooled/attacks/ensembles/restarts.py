"""Stage of the cascade that ascends from several random starts at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.stages import Proposal, Stage, ascended
from unfooled.core import losses


@dataclass(frozen=True)
class Restarts(Stage):
    """APGD on the margin from several starts, whose rows share the model's calls; the best end is proposed.

    The starts are those of as many stages `Ascents` with consecutive numbers.

    Attributes:
        times: Number of starts.
        steps: Gradients per sample and start.
    """

    times: int
    steps: int
    share: float = 1.0
    most: int | None = None
    name: str = "restart"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Ascend from every start. Cost: times * (steps + 2) forwards, times * steps backwards."""
        n = len(problem.x)
        at = torch.arange(n, device=problem.x.device).repeat(self.times)
        draw = torch.arange(number, number + self.times, device=problem.x.device).repeat_interleave(n)
        many = problem.take(at)
        ends = ascended(many, many.objective, many.threat.extreme(many.x, many.seed, draw=draw), self.steps)
        margins = losses.margin(many.logits(ends, many.scored), many.y).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        best = margins.reshape(self.times, n).argmax(0)
        return Proposal(ends[best * n + torch.arange(n, device=ends.device)])
