"""The stage of an audit that searches nearest points, for as many samples as their median needs, and its record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from unfooled.attacks.ensembles.envelope import REFINING, envelope, refine
from unfooled.attacks.ensembles.frontier import Frontier
from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.pulse import OutOfTime
from unfooled.core.shapes import where_rows
from unfooled.core.threat_text import norm_name
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.core.unanswered import Unanswered
from unfooled.evaluation.audit.plan import NearestPoints
from unfooled.evaluation.audit.records import Nearness
from unfooled.evaluation.audit.values import Setting
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Rows, StageCut
from unfooled.statistics import intervals

FIRST_BLOCK, BLOCK = 64, 32
"""Samples whose nearest points are searched in any case, and samples between two later decisions to go on."""
COMPARED, LEAST_COMPARED = 16, 6
"""First samples of these, of which those that the attack has fooled are searched both ways, and their least number."""
MAX_BEYOND = 0.03
"""Share by which the points of the search from the attack's may be farther than the nearest of both, geometric mean."""
BOTH = 500
"""Passes of a search from a sample itself from which on all samples are searched both ways: who asks for so many asks
for the nearest points, not for those within a few percent of them."""

MAX_CLASSES_LISTED = 100
"""Classes above which figures are not listed by class, and of confusions only those that occur."""


@dataclass(frozen=True, eq=False)
class Found:
    """The nearest adversarial examples of the first samples.

    Attributes:
        rows: Norm -> points, distances, and those of the nearest points without a finite answer.
        whole: False if the time was over before the search was.
    """

    rows: dict[float, Rows] = field(default_factory=dict)
    whole: bool = True

    def column(self, name: str) -> dict[float, Tensor]:
        """Return one of the results by norm."""
        return {norm: rows[name] for norm, rows in self.rows.items() if rows}

    @property
    def count(self) -> int:
        """Number of samples searched, in the first of the norms."""
        return next((len(rows["distance"]) for rows in self.rows.values() if rows), 0)


def nearest(s: Setting, plan: NearestPoints, gradients: Gradients, frontier: Frontier) -> Found:
    """Find the nearest adversarial examples of the first samples: points and distances by norm.

    In the threat's norm a sample that the attack has fooled is searched from the attack's point, in a few passes, where
    that is as good as the whole search from the sample itself: both are made for the first samples, and compared. With
    many passes both are made for all samples.

    Samples are searched in blocks, and no further ones once the median's interval is narrow, if the attack has fooled
    all that are left: then there is nothing that it could have missed. Where the time is over, what the search has
    found for the first samples of all stays.

    Args:
        s: Setting of the audit.
        plan: Numbers of samples and passes, and norms.
        gradients: Gradients to follow.
        frontier: Best points of the attack.
    """
    points: dict[float, Rows] = {}
    for norm in plan.norms or (s.threat.norm,):
        own = norm == s.threat.norm
        threat = (s.threat if own else NORMS[float(norm)](1.0, free=s.threat.free)).with_eps(math.inf)
        search = _Search(s, plan, gradients, frontier, norm, threat, own)
        parts: list[Rows] = []
        try:
            parts.extend(search.blocks())
        except OutOfTime:
            return Found(points | _joined(norm, parts), whole=False)
        points |= _joined(norm, parts)
    return Found(points)


@dataclass(frozen=True, eq=False)
class _Search:
    """The search in one norm.

    Attributes:
        s: Setting of the audit.
        plan: Numbers of samples and passes.
        gradients: Gradients to follow.
        frontier: Best points of the attack.
        norm: The norm.
        threat: Threat of that norm without a limit.
        own: True if it is the norm of the attack.
    """

    s: Setting
    plan: NearestPoints
    gradients: Gradients
    frontier: Frontier
    norm: float
    threat: Threat
    own: bool

    @property
    def pays(self) -> bool:
        """True where searches from the attack's points cost less than the others on some samples, or come on top."""
        enough = self.plan.budget >= 2 * REFINING and min(self.s.n, self.plan.n) > COMPARED
        return self.own and self.norm > 0 and (enough or self.both)

    @property
    def both(self) -> bool:
        """True where all samples are searched both ways."""
        return self.plan.budget >= BOTH

    def blocks(self) -> Iterator[Rows]:
        """Search block by block; names of the later blocks end with their samples.

        Raises:
            OutOfTime: The time is over; the chunks that were done of an interrupted block were yielded before, up to
                the first that was not.
        """
        fooled, name = self.frontier.fooled[: self.plan.n], norm_name(self.norm)
        distances: list[Tensor] = []
        done, refines = 0, True
        for size in block_sizes(len(fooled)):
            key = StageKey(Family.NEAREST, name if not done else f"{name} {done + 1}-{done + size}")
            work = partial(self.search, explores=self.both or not done or not refines, refines=refines)
            try:
                part = self.s.ledger.map(key, partial(_shifted, work, done), size, model=self.s.counted)
            except StageCut as cut:
                if cut.leading:
                    yield {name: rows[: cut.leading] for name, rows in cut.rows.items()}
                raise
            yield part
            if not done and not self.both:
                refines = _as_good(part)
            done += size
            distances.append(part["distance"])
            enough = done >= min(FIRST_BLOCK, len(fooled)) and bool(fooled[done:].all())
            if enough and _narrow(torch.cat(distances), self.plan.precision):
                break

    def search(self, rows: Tensor, *, explores: bool, refines: bool) -> Rows:
        """Search for some samples.

        Args:
            rows: The samples, (b,).
            explores: True: from each sample itself; False: only where the attack has no point from which to search.
            refines: True: from the attack's points, where it has some.

        Returns:
            Points `z`, their `distance`, `unanswered`, the distance of the nearest point without a finite answer, and
            `explored` and `refined`, the distances of the two searches; inf where nothing was found or searched.
        """
        s, at = self.s, self.s.at(rows)
        x, y = s.x[at], s.y[at]
        source = torch.Generator().manual_seed(s.seed)
        observer = Unanswered(x, self.threat)
        best, refined = x, torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)

        def explore(model: Model, x: Tensor, y: Tensor, left: Tensor) -> Tensor:
            norms, budget = (self.norm,), self.plan.budget
            return envelope(model, x, y, norms, budget=budget, batch=s.batch, generator=source)[self.norm]

        if refines and self.pays:
            start = self.frontier.points[rows.to(self.frontier.points.device)].to(x.device)
            has_start = self.frontier.fooled[rows.to(self.frontier.fooled.device)].to(x.device)
            has_start &= (start != x).flatten(1).any(1)

            def refined_from(model: Model, x: Tensor, y: Tensor, left: Tensor) -> Tensor:
                return refine(model, x, y, start[left], self.norm, batch=s.batch, generator=source)

            best, refined = self._found(refined_from, x, y, has_start.nonzero()[:, 0], observer)
        left = torch.arange(len(x), device=x.device) if explores else refined.isinf().nonzero()[:, 0]
        other, explored = self._found(explore, x, y, left, observer)
        distance = torch.minimum(refined, explored)
        best = where_rows(explored <= refined, other, best)
        z, _ = observer.substitute(best, distance <= observer.distance)  # the nearer of the two
        return {
            "z": z, "distance": distance, "unanswered": observer.distance, "explored": explored, "refined": refined,
        }  # fmt: skip

    def _found(
        self, propose: Callable[[Model, Tensor, Tensor, Tensor], Tensor], x: Tensor, y: Tensor, left: Tensor,
        observer: Unanswered,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the points that a search proposes for the samples `left`, and their distances, inf for the others."""
        s, gradients = self.s, self.gradients
        best, distance = x, torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
        for model in gradients.followed:
            # A point that fools a copy of the model may, by rounding, not fool the model, which is asked then.
            rest = left
            for one in (model, gradients.averaged) if model is gradients.faster else (model,):
                if not len(rest):
                    break
                near, label = x[rest], y[rest]
                with s.counted.watched(observer):
                    made = propose(one, near, label, rest)
                found = verify(s.subject.model, near, label, made, self.threat, draws=s.draws, batch=s.batch)
                better = found.distance <= distance[rest]
                best = best.index_copy(0, rest, where_rows(better, made, best[rest]))
                distance = distance.index_copy(0, rest, torch.minimum(distance[rest], found.distance))
                rest = rest[found.distance.isinf()]
        return best, distance


def block_sizes(n: int) -> list[int]:
    """Return the numbers of samples of the blocks: those that are compared, the rest of the first ones, and others."""
    ends = {0, min(n, COMPARED), min(n, FIRST_BLOCK), *range(FIRST_BLOCK + BLOCK, n, BLOCK), n}
    return [end - start for start, end in pairwise(sorted(ends))]


def _as_good(part: Rows) -> bool:
    """Return whether the search from the attack's points is as good as the whole one, where both were made."""
    refined, explored = part["refined"].double(), part["explored"].double()
    both = refined.isfinite() & explored.isfinite() & (refined > 0)
    if int(both.sum()) < LEAST_COMPARED:
        return False
    beyond = (refined[both] / torch.minimum(refined, explored)[both]).log()
    return float(beyond.mean()) <= math.log1p(MAX_BEYOND)


def _joined(norm: float, parts: list[Rows]) -> dict[float, Rows]:
    """Return the parts of a search in a norm as one; empty without any."""
    return {norm: {k: torch.cat([part[k].cpu() for part in parts]) for k in parts[0]}} if parts else {}


def _shifted(work: Callable[[Tensor], Rows], by: int, rows: Tensor) -> Rows:
    """Compute rows counted from another one."""
    return work(rows + by)


def _narrow(distance: Tensor, precision: float) -> bool:
    """Return whether half the interval of the median is at most this share of the median."""
    low, value, high = intervals.median_limits(distance.double())
    return value > 0 and high < math.inf and high - low <= 2 * precision * value


def nearness(norm: float, distance: Tensor, unanswered: Tensor, y: Tensor, k: int) -> Nearness:
    """Return statistics of the distances of the nearest adversarial examples, overall and by class."""
    distance = distance.double()
    right_up_to = torch.minimum(distance, unanswered.double())
    label = y[: len(distance)]

    def at(values: Tensor, q: float) -> float | None:
        if not len(values):
            return None
        value = float(values.sort().values[min(len(values) - 1, math.ceil(q * len(values)) - 1 if q else 0)])
        return value if math.isfinite(value) else None

    finite = right_up_to[torch.isfinite(right_up_to)].sort().values
    levels = finite[torch.linspace(0, len(finite) - 1, min(64, len(finite))).round().long()] if len(finite) else finite
    return Nearness(
        norm=norm_name(norm),
        n=len(distance),
        reached=intervals.share(torch.isfinite(distance)),
        quartiles=(at(distance, 0.25), at(distance, 0.5), at(distance, 0.75)),
        classes=[at(distance[label == c], 0.5) for c in range(k)] if k <= MAX_CLASSES_LISTED else [],
        curve=[(float(d), float((right_up_to > d).double().mean())) for d in levels],
        interval=None if torch.equal(right_up_to, distance) else _interval(distance),
    )


def _interval(distance: Tensor) -> tuple[float, float | None] | None:
    """Return the ends of the median's interval, the upper one None where it is not finite; None: neither is."""
    low, _, high = intervals.median_limits(distance)
    return (max(low, 0.0), high if math.isfinite(high) else None) if low < math.inf else None
