"""Stage that tries on every sample the changes that fooled others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from unfooled.attacks.ensembles.frontier import Frontier, Problem
from unfooled.attacks.ensembles.stages import Proposal, Stage
from unfooled.core import losses
from unfooled.core.goals import fooled
from unfooled.core.shapes import where_rows


@dataclass(frozen=True, eq=False)
class SharedChanges(Stage):
    """Changes that fooled other samples, projected onto the threat.

    What fools one sample by chance, such as a pattern that the model reacts to, often fools the others.
    """

    changes: Tensor = field(repr=False)
    share: float = 1.0
    most: int | None = None
    name: str = "borrowed"

    def propose(self, problem: Problem, frontier: Frontier, number: int) -> Proposal:
        """Propose the change with the largest margin. Cost: 1 F per change."""
        p, best, top = problem, frontier.points.clone(), frontier.margins.clone()
        done = torch.zeros_like(p.y, dtype=torch.bool)
        for change in self.changes:
            z = p.threat.project(p.x + change, p.x)
            logits = p.logits(z)
            margins, is_fooled = losses.margin(logits, p.y), fooled(logits, p.y)
            better = ~done & (is_fooled | (margins > top))
            best, top = where_rows(better, z, best), torch.where(better, margins, top)
            done |= is_fooled
        return Proposal(best)
