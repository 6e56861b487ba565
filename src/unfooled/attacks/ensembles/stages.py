"""The stages of the cascade: each proposes better points for the samples that nothing has fooled yet.

A stage is a frozen dataclass with a name, a `share` (the part of the survivors it takes, smallest margins first),
`most` (how many at most) and `propose`. It reads the frontier, the best points so far; what it proposes is judged and
kept by the cascade.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from unfooled.attacks.apgd import shrinking
from unfooled.attacks.fmn import fmn
from unfooled.attacks.labels_only import labels_only
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.attacks.square import square
from unfooled.core import losses, rng
from unfooled.core.ascent import Auto, Constant, Decaying, ascend
from unfooled.core.checks import input_gradient
from unfooled.core.goals import Attack, fooled, fooling, read_logits
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import TINY, Linf, Threat
from unfooled.core.types import Model, Objective

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@dataclass
class Frontier:
    """How far an attack has come: the best point and margin of every sample.

    Attributes:
        model: the judge's: its values decide.
        x, y, threat: the samples, their labels, what is allowed.
        seed: of everything random.
        batch: samples alive at once.
        attacked: where gradients come from: the model, or a stand-in whose values are the model's.
        draws: of a random model; with more than one a single draw decides nothing.
        best: points with the largest margin, (n, *D); margin: there, (n,); fooled: (n,) bool.
        learned: directions of successful waves, by rank of the logit, (m, K).
    """

    model: Model
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int
    batch: int
    attacked: Model
    draws: int = 1
    best: Tensor = field(init=False)
    margin: Tensor = field(init=False)
    fooled: Tensor = field(init=False)
    keys: Tensor = field(init=False)
    learned: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.best = self.x.clone()
        self.margin = torch.full((len(self.x),), -torch.inf, dtype=self.x.dtype, device=self.x.device)
        self.fooled = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        self.keys = rng.sample_keys(self.x)

    def survivors(self, share: float = 1.0, most: int | None = None) -> Tensor:
        """Those that nothing has fooled, in the order of their hashes; or the part with the smallest margins."""
        rows = (~self.fooled).nonzero()[:, 0]
        rows = rows[self.keys[rows].argsort()]
        count = max(1, math.ceil(share * len(rows)))
        count = min(count, len(rows) if most is None else most)
        if count < len(rows):
            rows = rows[self.margin[rows].argsort(descending=True, stable=True)[:count]]
        return rows

    def objective(self, y: Tensor) -> Objective:
        """The margin at the attacked model; done where fooled, unless the model is random."""
        return fooling(self.attacked, y, losses.margin, stop=self.draws == 1)

    def look(self, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The margins at z and whether the label is lost there; for a random model in three draws of four."""
        margins, hits = [], []
        with torch.no_grad():
            for _ in range(self.draws):
                parts = zip(z.split(self.batch), y.split(self.batch), strict=True)
                logits = torch.cat([read_logits(self.model, part, label) for part, label in parts])
                margins.append(losses.margin(logits, y))
                hits.append(fooled(logits, y))
        return torch.stack(margins).mean(0), torch.stack(hits).double().mean(0) >= 0.75


class Stage(Protocol):
    """One step of the cascade."""

    @property
    def name(self) -> str:
        """What records call it."""
        ...

    @property
    def share(self) -> float:
        """The part of the survivors that it takes."""
        ...

    @property
    def most(self) -> int | None:
        """How many samples at most."""
        ...

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Points inside the threat for the samples `at`, (b, *D); `draw` tells equal stages apart."""
        ...


def _ascend(f: Frontier, objective: Objective, at: Tensor, start: Tensor, steps: int) -> Tensor:
    """The best step rule of the norm, from `start`."""
    x, threat = f.x[at], f.threat.take(at)
    if threat.norm == 1:
        return shrinking(objective, x, threat, steps, start, f.batch)
    rule = Auto() if threat.norm in (2.0, math.inf) else Decaying()
    return ascend(objective, x, threat, steps=steps, rule=rule, start=start, batch=f.batch).z


@dataclass(frozen=True)
class Ascents:
    """Margin APGD from a fresh random corner (Linf) or point; from the best point with `fresh=False`."""

    steps: int
    share: float = 1.0
    most: int | None = None
    fresh: bool = True
    name: str = "apgd"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: steps + 1 F, steps B."""
        x, threat = f.x[at], f.threat.take(at)
        start = f.best[at]
        if self.fresh:
            start = (threat.corner if isinstance(threat, Linf) else threat.sample)(x, f.seed, draw=draw)
        return _ascend(f, f.objective(f.y[at]), at, start, self.steps)


@dataclass(frozen=True)
class Bursts:
    """APGD towards single classes, each from the best point; the one whose linearised boundary is nearest to x first.

    Nearest to x, not to the best point: there the class that the ascents already went for comes out first.
    """

    targets: int
    steps: int
    share: float = 1.0
    most: int | None = None
    name: str = "targets"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: 1 F and a B a class to order them, steps + 1 F and steps B a target."""
        x, y, best = f.x[at], f.y[at], f.best[at]
        threat = f.threat.take(at)
        order = targets(f.attacked, x, y, threat.norm, self.targets, f.batch)
        top, open_ = f.margin[at].clone(), torch.ones_like(y, dtype=torch.bool)
        rule = Auto() if threat.norm != 0 else Decaying()
        for k in range(order.shape[1]):
            rows = open_.nonzero()[:, 0]
            if not len(rows):
                break
            label, goal = y[rows], order[rows, k]

            def towards(z: Tensor, live: Tensor, label: Tensor = label, goal: Tensor = goal) -> tuple[Tensor, Tensor]:
                logits = read_logits(f.attacked, z)
                value = losses.margin_targeted(goal[live])(logits, label[live])
                return value, fooled(logits.detach(), label[live]) & (f.draws == 1)

            found = ascend(
                towards, x[rows], threat.take(rows), steps=self.steps, rule=rule, start=best[rows], batch=f.batch
            )
            better = found.done | (found.value > top[rows])
            best[rows] = where_rows(better, found.z, best[rows])
            top[rows] = torch.where(better, found.value, top[rows])
            open_[rows] = ~found.done
        return best


@dataclass(frozen=True)
class Searches:
    """Square attack from the best point, entering its schedule where the windows are small; or cold."""

    queries: int
    share: float = 1.0
    most: int | None = None
    cold: bool = False
    name: str = "square"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: queries F."""
        source = torch.Generator().manual_seed((f.seed * 1009 + draw) & 0x7FFFFFFF)
        found = [
            square(
                f.model if f.draws == 1 else f.attacked, f.x[rows], f.y[rows], f.threat.take(rows), steps=self.queries,
                start=None if self.cold else f.best[rows], first_query=0 if self.cold else 200, generator=source,
            )
            for rows in at.split(f.batch)
        ]  # fmt: skip
        return torch.cat(found)


@dataclass(frozen=True)
class Waves:
    """Output diversification: seven full steps along a direction of the logits, then margin steps that decay.

    From the second wave on, half of the directions are those that succeeded before, with noise, aligned by the rank of
    the logit: what fooled one sample through its second class is tried on the second class of another.
    """

    steps: int = 25
    share: float = 1.0
    most: int | None = None
    name: str = "odi"

    def directions(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Weights by rank, (b, K): first the true class, then the others from the likeliest on."""
        with torch.no_grad():
            k = read_logits(f.attacked, f.x[at[:1]]).shape[1]
        seeds = rng.seeds(f.x[at], f.seed, stage=100 + draw)
        fresh = 2 * rng.uniform(seeds, (k,), dtype=f.x.dtype) - 1
        if f.learned is None or not len(f.learned):
            return fresh
        u = rng.uniform(seeds, (2,), draw=1, dtype=torch.float64)
        old = f.learned[(u[:, 0] * len(f.learned)).long()]
        return torch.where(u[:, 1:] < 0.5, old + 0.3 * fresh, fresh)

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: steps + 9 F, steps + 7 B."""
        x, y, threat = f.x[at], f.y[at], f.threat.take(at)
        with torch.no_grad():
            logits = torch.cat([read_logits(f.attacked, part) for part in x.split(f.batch)])
        rank = logits.scatter(1, y[:, None], torch.inf).argsort(dim=1, descending=True).argsort(dim=1)
        w = self.directions(f, at, draw).gather(1, rank)

        def diverse(z: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
            logits = read_logits(f.attacked, z)
            return (w[live] * logits).sum(1), fooled(logits.detach(), y[live]) & (f.draws == 1)

        start = ascend(
            diverse, x, threat, steps=7, rule=Constant(1.0), start=threat.sample(x, f.seed, draw=draw),
            keep_best=False, batch=f.batch,
        ).z  # fmt: skip
        if threat.norm == 1:
            return _ascend(f, f.objective(y), at, start, self.steps)
        rule = Decaying()
        return ascend(f.objective(y), x, threat, steps=self.steps, rule=rule, start=start, batch=f.batch).z


@dataclass(frozen=True)
class Sparse:
    """The nearest points in L0, cut to what the threat allows."""

    steps: int
    share: float = 1.0
    most: int | None = None
    name: str = "sparse"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: 2 steps + 20 F, 2 steps B."""
        x, y, threat = f.x[at], f.y[at], f.threat.take(at)
        source = torch.Generator().manual_seed((f.seed * 1009 + draw) & 0x7FFFFFFF)
        z = torch.cat(
            [sigma_zero(f.attacked, *part, 0, steps=self.steps, generator=source) for part in _parts(x, y, f)]
        )
        again = [
            fmn(f.attacked, a, b, 0, steps=self.steps, start=s, generator=source)
            for (a, b), s in zip(_parts(x, y, f), z.split(f.batch), strict=True)
        ]
        return threat.project(torch.cat(again), x)


def _parts(x: Tensor, y: Tensor, f: Frontier) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(f.batch), y.split(f.batch), strict=True))


@dataclass(frozen=True)
class Given:
    """Any attack with its options bound."""

    attack: Attack
    share: float = 1.0
    most: int | None = None
    name: str = "attack"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: the attack's."""
        source = torch.Generator().manual_seed(f.seed)
        return self.attack(f.attacked, f.x[at], f.y[at], f.threat.take(at), generator=source)


@dataclass(frozen=True)
class Proposals:
    """Points from elsewhere: `(x, y, threat, seed) -> points`, such as a twin's adversarial examples."""

    points: Callable[[Tensor, Tensor, Threat, int], Tensor]
    share: float = 1.0
    most: int | None = None
    name: str = "transfer"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: none, beside the look at the points."""
        threat = f.threat.take(at)
        return threat.project(self.points(f.x[at], f.y[at], threat, f.seed * 1009 + draw), f.x[at])


@dataclass(frozen=True)
class Noise:
    """Random points of the threat, corners in Linf; the one with the largest margin."""

    draws: int
    share: float = 1.0
    most: int | None = None
    name: str = "noise"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: draws F."""
        x, y, threat = f.x[at], f.y[at], f.threat.take(at)
        best, top = f.best[at].clone(), f.margin[at].clone()
        corner = threat.corner if isinstance(threat, Linf) else threat.sample
        for i in range(self.draws):
            z = corner(x, f.seed, draw=i, stage=300 + draw)
            with torch.no_grad():
                logits = torch.cat([read_logits(f.model, part) for part in z.split(f.batch)])
            value = losses.margin(logits, y)
            better = value > top
            best, top = where_rows(better, z, best), torch.where(better, value, top)
        return best


@dataclass(frozen=True)
class Decisions:
    """Attacks that see labels alone: RayS in Linf, HopSkipJump in L2 and L1; their points, cut to the threat."""

    queries: int
    share: float = 1.0
    most: int | None = None
    name: str = "decision"

    def propose(self, f: Frontier, at: Tensor, draw: int) -> Tensor:
        """Cost: queries F."""
        x, y, threat = f.x[at], f.y[at], f.threat.take(at)
        if threat.norm == 0:
            return f.best[at]
        source = torch.Generator().manual_seed((f.seed * 1009 + draw) & 0x7FFFFFFF)
        judge = f.model if f.draws == 1 else f.attacked
        return labels_only(judge, x, y, threat, steps=self.queries, generator=source, batch=f.batch)


def targets(model: Model, z: Tensor, y: Tensor, norm: float, count: int, batch: int) -> Tensor:
    """The classes with the nearest linearised boundary at z, nearest first, (B, count).

        score_c = (z_y - z_c) / |grad (z_y - z_c)|_dual         over the 12 best classes where there are more

    Cost: 1 forward, and 1 backward a class scored.
    """
    found = []
    for part, label in zip(z.split(batch), y.split(batch), strict=True):
        leaf = part.detach().requires_grad_()
        with torch.enable_grad():
            logits = read_logits(model, leaf)
            k = logits.shape[1]
            others = logits.detach().scatter(1, label[:, None], -torch.inf).topk(min(k - 1, 12), dim=1).indices
            scores = []
            for j in range(others.shape[1]):
                gap = losses.true_logit(logits, label) - losses.true_logit(logits, others[:, j])
                g = input_gradient(gap, leaf, retain_graph=j + 1 < others.shape[1])
                length = flat(g.nan_to_num()).norm(p=DUAL.get(float(norm), 2.0), dim=1).clamp_min(TINY)
                scores.append(gap.detach() / length)
        order = torch.stack(scores, 1).argsort(dim=1, stable=True)[:, :count]
        found.append(others.gather(1, order))
    return torch.cat(found)
