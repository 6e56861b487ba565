"""The stage of an audit that attacks explanations: as many samples as the figure needs, or as the audit can afford."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, Ledger, StageKey
from unfooled.attacks.explanations.candidates import takes_create_graph
from unfooled.core.threats import Threat
from unfooled.evaluation.audit.missed import each_eps
from unfooled.evaluation.audit.plan import ExplanationAttack
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.explanations.nearer import BelowLabel, below_the_label
from unfooled.evaluation.explanations.survival import (
    Approach,
    AttackedExplanations,
    approach_to,
    attack_explanations,
    shrunk,
)
from unfooled.runs.chunks import Rows
from unfooled.statistics import intervals

BLOCK = 8
"""Samples between two decisions on whether to go on, and least number of samples."""


def attack_maps(
    s: Setting, plan: ExplanationAttack, right: Tensor, gradients: Gradients, nearest: Tensor
) -> AttackedExplanations:
    """Attack the explanations of the first correct samples at each radius, or return the reason to skip this.

    Samples are attacked in blocks, until the interval of the mean LENS at the largest radius is narrow enough, or until
    this has taken its share of the audit's passes.

    Where the nearest adversarial example, of those in `nearest`, is no farther than the smallest radius, the sample is
    also attacked at a radius below it: else it could never be told that its explanation moves first.
    """
    samples = right.nonzero()[:, 0][: plan.n]
    if s.subject.random:
        reason = "the model is random: its reasons move from one call to the next"
        return AttackedExplanations(Approach(None, reason), samples)
    if not len(samples):
        return AttackedExplanations(Approach(None), samples)
    if (gradients.missing or gradients.rounded) and takes_create_graph(plan.explain):
        reason = "the model has no gradients that could be explained (checks D6, D8)"
        return AttackedExplanations(Approach(None, reason), samples)
    at = s.at(samples)
    approach = approach_to(s.counted, s.x[at], s.y[at], plan.explain)
    if approach.by is None:
        return AttackedExplanations(approach, samples)
    attack = _Attack(s, plan, approach, samples)
    rows = attack.in_blocks(gradients.forwards)
    samples = samples[: len(rows[0]["chance"])]
    eps, smallest = each_eps(s.threat.take(s.at(samples)), s.x[s.at(samples)]).double(), attack.threats(samples)[0]
    close, below = below_the_label(samples, nearest, eps, smallest, s.threat.norm)
    lower = None
    if len(close):
        lower = BelowLabel(close, below / eps[close], attack.below_the_label(samples[close], below))
    passes = s.ledger.passes(Family.EXPLANATIONS)
    return AttackedExplanations(approach, samples, attack.radii, rows, passes, plan.steps, plan.restarts, lower)


class _Attack:
    """Attack on the explanations of some samples."""

    def __init__(self, s: Setting, plan: ExplanationAttack, approach: Approach, samples: Tensor) -> None:
        self.s, self.plan, self.approach, self.samples = s, plan, approach, samples
        self.radii = tuple(sorted(plan.radii))

    def threats(self, samples: Tensor) -> list[Threat]:
        """Return the constraint sets of some samples, the smallest radius first."""
        return [shrunk(self.s.threat.take(self.s.at(samples)), share) for share in self.radii]

    def in_blocks(self, aside: int) -> tuple[Rows, ...]:
        """Attack block by block, and return the rows of each radius.

        Args:
            aside: Passes of the audit that its ledger does not count.
        """
        parts: list[Rows] = []
        for block in self.samples.split(BLOCK):
            parts.append(self._block(block, sum(len(part["0 chance"]) for part in parts)))
            rows = tuple(_joined(parts, f"{i} ") for i in range(len(self.radii)))
            if self._precise(rows) or self._expensive(len(parts), aside):
                break
        return rows

    def _block(self, block: Tensor, done: int) -> Rows:
        """Attack one block at all radii; names of the rows begin with the number of the radius."""
        key = StageKey(Family.EXPLANATIONS, f"samples {done + 1}-{done + len(block)}")

        def work(rows: Tensor) -> Rows:
            by_radius = self._attacked(block[rows], self.threats(block[rows]), pictures=True)
            return {f"{i} {name}": value for i, part in enumerate(by_radius) for name, value in part.items()}

        return self.s.ledger.map(key, work, len(block), model=self.s.counted)

    def below_the_label(self, samples: Tensor, radii: Tensor) -> Rows:
        """Attack some samples at radii of their own, (m,)."""

        def work(rows: Tensor) -> Rows:
            at = self.s.at(samples[rows])
            nearer = self.s.threat.take(at).with_eps(radii[rows].to(self.s.x[at[:1]]))
            return self._attacked(samples[rows], [nearer], pictures=False)[0]

        key = StageKey(Family.EXPLANATIONS, "below the label")
        return self.s.ledger.map(key, work, len(samples), model=self.s.counted)

    def _attacked(self, samples: Tensor, threats: list[Threat], *, pictures: bool) -> list[Rows]:
        s, plan, at = self.s, self.plan, self.s.at(samples)
        by_radius = attack_explanations(
            s.counted, s.x[at], s.y[at], threats, plan.explain, self.approach, steps=plan.steps,
            restarts=plan.restarts, seed=s.seed, batch=max(1, s.batch // 3), pictures=pictures,
        )  # fmt: skip
        last = by_radius[-1]
        last |= {k: s.subject.shown(last[k]) for k in ("x_adv", "before", "after") if k in last}
        return by_radius

    def _precise(self, rows: tuple[Rows, ...]) -> bool:
        """Return whether the interval of the mean LENS at the largest radius is narrow enough."""
        result = AttackedExplanations(self.approach, self.samples[: len(rows[0]["chance"])], self.radii, rows)
        mean = intervals.mean(result.worst[-1], within=(-math.inf, 1), seed=self.s.seed)
        return mean.low is not None and mean.high is not None and mean.high - mean.low <= 2 * self.plan.half_width

    def _expensive(self, blocks: int, aside: int) -> bool:
        """Return whether one more block would take more than this attack's share of the audit's passes."""
        own, rest = _passes(self.s.ledger)
        expected = own * (blocks + 1) / blocks
        return expected > self.plan.share * (expected + rest + aside)


def _passes(ledger: Ledger) -> tuple[int, int]:
    """Return the passes of the attack on explanations, and those of the rest of the audit."""
    own = sum(ledger.passes(Family.EXPLANATIONS))
    return own, sum(ledger.passes(*Family)) - own


def _joined(parts: list[Rows], prefix: str) -> Rows:
    """Join the rows of one radius."""
    names = [name for name in parts[0] if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.cat([part[name] for part in parts]) for name in names}
