"""Replays of an audit's points on the model as it was before its first query (check D20)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from unfooled.attacks.ensembles.frontier import Frontier
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.memory import (
    MAX_FIRST,
    MAX_ITERATED,
    MAX_REPLAYED,
    first_look,
    last_iterates,
    memory_findings,
)
from unfooled.evaluation.checks.table import Finding


def replay_first(s: Setting, right: Tensor) -> list[Finding]:
    """Make check D20 before the attack, at the first samples that are right, see `first_look`."""
    rows = s.at(right.nonzero()[:MAX_FIRST, 0])
    if s.subject.random or not len(rows):
        return []

    def look() -> list[Finding]:
        near = s.x[rows], s.y[rows], s.threat.take(rows)
        return first_look(s.original, s.subject.given, s.counted, *near, seed=s.seed)

    return s.ledger.once(StageKey(Family.CHECKS, "memory"), Finding, look, model=s.counted)


def replay(s: Setting, frontier: Frontier, gradients: Gradients, *, again: bool = False) -> list[Finding]:
    """Make check D20 at the best points of the survivors, and where a short ascent from them ends.

    Args:
        s: Setting of the audit.
        frontier: Best points of the attack.
        gradients: Gradients that the ascent follows.
        again: True after the attack went on.
    """
    key = StageKey(Family.CHECKS, "replay", part=int(again))
    look = _replaying(s, frontier, gradients)
    return [] if look is None else s.ledger.once(key, Finding, look, model=s.counted)


def replay_ahead(s: Setting, frontier: Frontier, gradients: Gradients) -> None:
    """Offer the work of `replay` to processes that would wait meanwhile."""
    look = _replaying(s, frontier, gradients)
    if look is not None:
        s.ledger.once_ahead(StageKey(Family.CHECKS, "replay"), Finding, look, model=s.counted)


def _replaying(s: Setting, frontier: Frontier, gradients: Gradients) -> Callable[[], list[Finding]] | None:
    """Return the work of `replay`; None where there is nothing to replay."""
    rows = frontier.remaining_rows()[:MAX_REPLAYED]
    if s.subject.random or not len(rows):
        return None

    def look() -> list[Finding]:
        few, points = rows[:MAX_ITERATED], frontier.points[rows]
        ends = last_iterates(gradients.attacked, s.x[few], s.y[few], s.threat.take(few), frontier.points[few])
        return memory_findings(s.original, s.subject.given, s.counted, s.y[rows], points, ends)

    return look
