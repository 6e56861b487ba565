"""Data types of an ensemble of attacks: the problem, and the best points so far.

A `Problem` consists of the samples, the threat and the model under attack. A `Frontier` holds the best point of every
sample; a stage proposes better points for some of them, and `Frontier.with_result` returns the next frontier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from unfooled.attacks.gradients.prepared import Prepared
from unfooled.core import losses
from unfooled.core.goals import answered, fooled, fooling, logits_at, read_logits
from unfooled.core.model.batching import batched
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import OutOfTime
from unfooled.core.samples import Streamed, keys_of, per_block, replaced, selected
from unfooled.core.threats import Threat
from unfooled.core.types import Model, Objective
from unfooled.runs.progress import Progress

MIN_FOOLED_SHARE = 0.75
"""Least share of misclassified draws of a random model for a sample to count as fooled during an attack."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Samples, threat and model of an attack.

    Attributes:
        model: Model that decides about success; it counts its passes.
        x: Inputs, (n, *D).
        y: Labels, (n,).
        threat: Threat model; its eps may be (n,).
        attacked: Model whose gradients are used: `model`, or a wrapper with the same outputs.
        draws: Model evaluations averaged, for a random model; above 1, no single evaluation decides about success.
        seed: Random seed.
        batch: Samples computed at once.
        faster: Copy of the model that answers alike, to rounding, in less time; searches ask it. None: there is none.
    """

    model: Counted
    x: Tensor
    y: Tensor
    threat: Threat
    attacked: Model
    draws: int = 1
    seed: int = 0
    batch: int = 256
    faster: Prepared | None = None

    def take(self, rows: Tensor) -> Self:
        """Return the problem for the samples in `rows`."""
        return replace(self, x=self.x[rows], y=self.y[rows], threat=self.threat.take(rows))

    @property
    def decisive(self) -> bool:
        """True if one evaluation of the model decides about success."""
        return self.draws == 1

    @property
    def scored(self) -> Model:
        """Model for gradient-free attacks: the mean of the draws if the model is random."""
        return (self.faster or self.model) if self.decisive else self.attacked

    @property
    def as_given(self) -> Self:
        """The problem without the copy of the model."""
        attacked = self.model if self.attacked is self.faster else self.attacked
        return replace(self, faster=None, attacked=attacked)

    @property
    def objective(self) -> Objective:
        """Margin at the attacked model; a sample is done once it is fooled, unless the model is random."""
        return fooling(self.attacked, self.y, losses.margin, stop=self.decisive)

    @property
    def large(self) -> tuple[str, ...]:
        """Names of the large results of a stage, left in the run folder if samples are streamed; else empty."""
        return ("points", "directions") if isinstance(self.x, Streamed) else ()

    def logits(self, z: Tensor, model: Model | None = None) -> Tensor:
        """Evaluate the model, or another one, without a gradient, (b, K)."""
        with torch.no_grad():
            return logits_at(self.model if model is None else model, z, batch=self.batch)

    def in_batches(self, work: Callable[[Problem, Tensor], Tensor]) -> Tensor:
        """Compute `work(problem, rows)` for at most `batch` samples at once: their problem, and their indices, (b,)."""
        rows = torch.arange(len(self.x), device=self.x.device)
        return batched(lambda at: work(self.take(at), at), self.batch)(rows)

    def evaluate(self, z: Tensor, *, check: bool = False) -> tuple[Tensor, Tensor]:
        """Return the margins at `z`, NaN without an answer, and which samples are fooled, (n,) each.

        Args:
            z: Points, (n, *D).
            check: True: check the model's output and the range of the labels.

        Cost: `draws` forwards; for a random model twice as many more where the sample seems fooled.
        """
        margins, hits = [], []
        for _ in range(self.draws):
            with torch.no_grad():
                logits = read_logits(self.model, z, self.y, batch=self.batch) if check else self.logits(z)
            margins.append(losses.margin(logits, self.y).where(answered(logits, self.y), torch.nan))
            hits.append(fooled(logits, self.y))
        confirmed = torch.stack(hits).double().mean(0) >= MIN_FOOLED_SHARE
        if not self.decisive and bool(confirmed.any()):  # over many tries some pass by luck: fresh draws decide
            again = [fooled(self.logits(z[confirmed]), self.y[confirmed]) for _ in range(2 * self.draws)]
            confirmed = confirmed.masked_scatter(confirmed, torch.stack(again).double().mean(0) >= MIN_FOOLED_SHARE)
        return torch.stack(margins).mean(0), confirmed


@dataclass(frozen=True, eq=False)
class StageResult:
    """Result of a stage.

    Attributes:
        rows: Indices of the attacked samples, (m,).
        points: Proposed points, (m, *D).
        margins: Margins there, (m,); NaN where the model gives no finite answer.
        fooled: Samples that are fooled there, (m,) bool.
        learned: Successful directions: weights of the logits, ordered by rank, (k, K). None: the stage uses none.
    """

    rows: Tensor
    points: Tensor
    margins: Tensor
    fooled: Tensor
    learned: Tensor | None = None

    @property
    def n_attacked(self) -> int:
        """Number of samples attacked."""
        return len(self.rows)

    @property
    def n_fooled(self) -> int:
        """Number of samples fooled."""
        return int(self.fooled.sum())

    def without(self, rows: Tensor) -> Self:
        """Return the result without the samples of a mask, (m,) bool."""
        others = ~rows
        return replace(
            self, rows=self.rows[others], points=selected(self.points, others.nonzero()[:, 0]),
            margins=self.margins[others], fooled=self.fooled[others],
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Frontier:
    """The best points of an attack so far.

    Attributes:
        points: Points with the largest margin, (n, *D).
        margins: Margins there, (n,); -inf before the first evaluation.
        fooled: Fooled samples, (n,) bool.
        certified: Samples that are proven robust, (n,) bool.
        keys: Hashes of the samples, (n,), which define their order.
        learned: Directions of successful waves: weights of the logits, ordered by rank, (m, K). None: none yet.
        unanswered_points: Points at which the model gives no finite answer, (n, *D); valid where `unanswered`. None:
            none yet.
        unanswered: Samples for which `unanswered_points` holds such a point, (n,) bool. None: none yet.
        exempt: Certified samples that are not attacked, (n,) bool. None: all of them.
    """

    points: Tensor
    margins: Tensor
    fooled: Tensor
    certified: Tensor
    keys: Tensor
    learned: Tensor | None = None
    unanswered_points: Tensor | None = None
    unanswered: Tensor | None = None
    exempt: Tensor | None = None

    @classmethod
    def start(cls, x: Tensor) -> Self:
        """Return the initial frontier, in which every point is the sample itself."""
        none = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        margins = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        return cls(x.clone(), margins, none, none, keys_of(x))

    @property
    def spared(self) -> Tensor:
        """Certified samples that are not attacked, (n,) bool."""
        return self.certified if self.exempt is None else self.exempt

    @property
    def remaining(self) -> Tensor:
        """Samples that are attacked and not fooled, (n,) bool."""
        return ~(self.fooled | self.spared)

    @property
    def not_robust(self) -> Tensor:
        """Samples that are fooled, or that have an allowed point without a finite answer, (n,) bool."""
        return self.fooled if self.unanswered is None else self.fooled | self.unanswered

    @property
    def final(self) -> Tensor:
        """Points to verify, (n, *D): the best one; for a sample not fooled, its point without an answer, if any."""
        if self.unanswered_points is None or self.unanswered is None:
            return self.points
        rows = (self.unanswered & ~self.fooled).nonzero()[:, 0]
        return replaced(self.points, rows, selected(self.unanswered_points, rows))

    def with_attacked(self, count: int) -> Self:
        """Return the frontier with some certified samples to be attacked all the same, in the order of the hashes."""
        rows = self.certified.nonzero()[:, 0]
        rows = rows[self.keys[rows].argsort()[:count]]
        return replace(self, exempt=_put(self.certified, rows, torch.zeros_like(rows, dtype=torch.bool)))

    def remaining_rows(self, share: float = 1.0, limit: int | None = None, *, spared: bool = False) -> Tensor:
        """Return the indices of the samples that are attacked and not fooled, or of a part of them.

        Args:
            share: Share of them to return, at least one sample.
            limit: Largest number of them to return. None: no limit.
            spared: True: with the certified samples that are not attacked.

        Returns:
            Indices in the order of the samples' hashes; if limited, those nearest to the boundary, nearest first.
        """
        rows = (~self.fooled if spared else self.remaining).nonzero()[:, 0]
        rows = rows[self.keys[rows].argsort()]
        count = max(1, math.ceil(share * len(rows)))
        count = min(count, len(rows) if limit is None else limit)
        if count < len(rows):
            rows = rows[self.margins[rows].argsort(descending=True, stable=True)[:count]]
        return rows

    def fooled_by_attack(self, x: Tensor) -> Tensor:
        """Return the indices of the samples that a point other than x itself fools, in the order of their hashes."""
        rows = self.fooled.nonzero()[:, 0]
        changed = per_block(lambda at: (self.points[at] != x[at]).flatten(1).any(1), rows, self.points)
        rows = rows[changed]
        return rows[self.keys[rows].argsort()]

    def take(self, rows: Tensor) -> Self:
        """Return the frontier for the samples in `rows`."""
        return replace(
            self, points=self.points[rows], margins=self.margins[rows], fooled=self.fooled[rows],
            certified=self.certified[rows], keys=self.keys[rows],
            unanswered_points=None if self.unanswered_points is None else self.unanswered_points[rows],
            unanswered=None if self.unanswered is None else self.unanswered[rows],
            exempt=None if self.exempt is None else self.exempt[rows],
        )  # fmt: skip

    def with_result(self, result: StageResult) -> Self:
        """Return the frontier updated with a stage's points, where they are fooled or have a larger margin."""
        rows, no_answer = result.rows, result.margins.isnan() & ~result.fooled
        if bool(no_answer.any()):
            frontier = self.with_unanswered(rows[no_answer], result.points[no_answer])
            return frontier.with_result(result.without(no_answer))
        margins = result.margins.to(self.margins.dtype).nan_to_num(-torch.inf, torch.inf, -torch.inf)
        better = result.fooled | (margins > self.margins[rows]) | self.margins[rows].isinf()
        known = [part for part in (self.learned, result.learned) if part is not None]
        return replace(
            self,
            points=replaced(self.points, rows, result.points, better),
            margins=_put(self.margins, rows, torch.where(better, margins, self.margins[rows])),
            fooled=_put(self.fooled, rows, self.fooled[rows] | result.fooled),
            learned=torch.cat(known) if known else None,
        )

    def with_unanswered(self, rows: Tensor, points: Tensor) -> Self:
        """Return the frontier with points at which the model gives no finite answer; a sample keeps its first."""
        before = torch.zeros_like(self.fooled) if self.unanswered is None else self.unanswered
        points_before = self.points if self.unanswered_points is None else self.unanswered_points
        new = ~before[rows]
        rows, points = rows[new], points[new]
        return replace(
            self,
            unanswered_points=replaced(points_before, rows, points),
            unanswered=_put(before, rows, torch.ones_like(rows, dtype=torch.bool)),
        )

    def with_points(self, rows: Tensor, points: Tensor, margins: Tensor, is_fooled: Tensor) -> Self:
        """Return the frontier with the points of some samples replaced unconditionally."""
        return replace(
            self,
            points=replaced(self.points, rows, points),
            margins=_put(self.margins, rows, margins.to(self.margins)),
            fooled=_put(self.fooled, rows, self.fooled[rows] | is_fooled),
        )

    def with_fooled(self, rows: Tensor, points: Tensor) -> Self:
        """Return the frontier with adversarial examples from elsewhere for some samples."""
        return replace(
            self,
            points=replaced(self.points, rows, points),
            fooled=_put(self.fooled, rows, torch.ones_like(rows, dtype=torch.bool)),
        )


@dataclass(frozen=True, eq=False)
class AttackState:
    """Frontier and progress of an attack so far.

    Attributes:
        frontier: Best points so far.
        log: Progress after each stage.
    """

    frontier: Frontier
    log: tuple[Progress, ...] = ()

    def with_progress(self, progress: Progress) -> Self:
        """Return the state with one more entry in the log."""
        return replace(self, log=(*self.log, progress))


class AttackCut(OutOfTime):
    """Sign that the time of an attack is over.

    Attributes:
        state: State of the attack, with what the interrupted stage has found so far.
    """

    def __init__(self, state: AttackState) -> None:
        super().__init__()
        self.state = state


@contextmanager
def kept(state: AttackState) -> Iterator[None]:
    """Raise `AttackCut` with this state where the time is over inside the context; one with a later state passes."""
    try:
        yield
    except AttackCut:
        raise
    except OutOfTime:
        raise AttackCut(state) from None


class PointsCut(OutOfTime):
    """Sign that the time of an attack on all samples is over.

    Attributes:
        points: What its finished stages have found, (B, *D).
        log: Their progress.
    """

    def __init__(self, points: Tensor, log: tuple[Progress, ...]) -> None:
        super().__init__()
        self.points, self.log = points, log


def _put(whole: Tensor, rows: Tensor, part: Tensor) -> Tensor:
    """Return a copy of a tensor with some of its rows replaced."""
    return whole.index_copy(0, rows, part)
