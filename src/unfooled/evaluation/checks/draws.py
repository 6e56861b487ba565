"""Comparison of points on a random model: do fresh draws confirm that a point is worse than another?

Among many points tried on a random model, some fool most of a few draws by luck alone. What an attack gained is
therefore measured by fresh draws, at the points before and after, as the sum over samples of the share of draws that
are right; it counts where it is half a sample at least, and above three standard errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import AttackState, Cascade
from unfooled.attacks.ensembles.frontier import Problem, StageResult
from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.core.goals import answered, fooled
from unfooled.runs.chunks import Rows

DRAWS = 60
"""Fresh draws at a point."""
LEAST, ERRORS = 0.5, 3.0
"""Gain in samples, and in standard errors, below which nothing was gained."""


def right_draws(problem: Problem, z: Tensor, draws: int = DRAWS) -> Tensor:
    """Return which of some fresh draws are right, and finite, at each point, (b, draws) bool."""
    right = []
    for _ in range(draws):
        logits = problem.logits(z)
        right.append(~fooled(logits, problem.y) & answered(logits, problem.y))
    return torch.stack(right, 1)


def gained(before: Tensor, after: Tensor) -> float:
    """Return how many samples an attack gained: the fall of the share of right draws, summed; 0 if chance explains it.

    The standard error is the larger of two: that of independent draws, and that of the sums over samples, since samples
    that are computed at once may share a draw.

    Args:
        before: Draws that are right at the points before, (b, draws) bool.
        after: Draws that are right at the points after, (b, draws) bool.
    """
    if not len(before):
        return 0.0
    gain, variance = 0.0, 0.0
    for sign, right in ((1, before.double()), (-1, after.double())):
        draws = right.shape[1]
        share = (right.sum(1) + 1) / (draws + 2)
        gain += sign * float(right.mean(1).sum())
        variance += max(float((share * (1 - share)).sum()), float(right.sum(0).var())) / draws
    return gain if gain >= LEAST and gain > ERRORS * variance**0.5 else 0.0


def count_text(count: float) -> str:
    """Return a number of samples as text, with a decimal place if it is a fraction."""
    return f"{count:.0f}" if count == int(count) else f"{count:.1f}"


def confirmed(attack: Cascade, before: AttackState, after: AttackState, result: StageResult, key: StageKey) -> float:
    """Return how many samples a stage fooled; of a random model by fresh draws, which gives a fraction.

    Args:
        attack: The attack.
        before: State of the attack before the stage.
        after: State after it.
        result: Result of the stage.
        key: Number, check and method of the stage.

    Cost: nothing, or 120 F for each sample that seems fooled, if the model is random.
    """
    old, new = before.frontier, after.frontier
    if attack.problem.decisive:
        return result.n_fooled
    rows = (new.fooled & ~old.fooled).nonzero()[:, 0]
    return gained(*compared(attack.problem, attack.ledger, rows, old.points, new.points, key))


def compared(
    problem: Problem, ledger: Ledger, rows: Tensor, old: Tensor, new: Tensor, key: StageKey
) -> tuple[Tensor, Tensor]:
    """Return which of 60 fresh draws are right at the points before and after, (b, 60) bool each.

    Args:
        problem: Problem of the attack.
        ledger: Ledger that stores them.
        rows: Samples with new points, (b,).
        old: Points before, (n, *D).
        new: Points after, (n, *D).
        key: Number, check and method of the attack that found them.
    """
    if not len(rows):
        none = torch.zeros(0, DRAWS, dtype=torch.bool)
        return none, none
    part = problem.take(rows)

    def draw() -> Rows:
        return {"before": right_draws(part, old[rows]), "after": right_draws(part, new[rows])}

    again = StageKey(Family.CHECKS, f"{key.method}-draws", key.number, key.check, key.part)
    right = ledger.part(again, draw, model=problem.model)
    return right["before"], right["after"]
