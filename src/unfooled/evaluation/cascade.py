"""The cascade: attacks in an order that spends passes where the margin still falls.

    margin APGD from two starts -> bursts towards the nearest classes -> random search -> output-diversified waves

Each stage takes the samples that nothing has fooled yet, or the part of them with the smallest margins; a fooled sample
leaves at once. Which samples a stage takes is decided between stages, over the whole run, with the survivors in the
order of their own hashes, so no verdict depends on the batch, the order of the samples or the chunk size.

References:
    Croce, Hein, Reliable evaluation of adversarial robustness, ICML 2020, arXiv:2003.01690 (APGD; the peer to beat).
    Tashiro, Song, Ermon, Diversity can be transferred: output diversification, NeurIPS 2020, arXiv:2003.06878 (ODI).
    Melamed, Yehudai, Shamir, MALT powers up adversarial attacks, 2024, arXiv:2407.02240 (order of the targets).
    Andriushchenko et al., Square attack, ECCV 2020, arXiv:1912.00049.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unfooled.attacks.square import square
from unfooled.core import losses, rng
from unfooled.core.ascent import Auto, Decaying, ascend
from unfooled.core.checks import BadInput, check_attack, check_mode
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.modes import Counted, frozen
from unfooled.core.rows import fitting_batch
from unfooled.core.shapes import flat, where_rows
from unfooled.core.threats import L2, TINY, Linf, Threat
from unfooled.core.types import Model
from unfooled.evaluation.records import Config
from unfooled.evaluation.run import Rows, Run

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@dataclass(frozen=True)
class Ascents:
    """Margin APGD from a fresh random start, on every survivor."""

    steps: int
    share: float = 1.0


@dataclass(frozen=True)
class Bursts:
    """APGD towards single classes, the one with the nearest linearised boundary first, each from the best point."""

    targets: int
    steps: int
    share: float = 1.0


@dataclass(frozen=True)
class Searches:
    """Square attack from the best point, entering its schedule where the windows are small."""

    queries: int
    share: float = 1.0


@dataclass(frozen=True)
class Waves:
    """Output diversification: a few full steps along random logits, then margin steps that decay."""

    steps: int = 25
    share: float = 1.0


Stage = Ascents | Bursts | Searches | Waves


@dataclass(frozen=True)
class Effort:
    """How much the cascade does: its stages in order.

    Attributes:
        name: what records call it.
        stages: each takes the survivors, or the share of them with the smallest margins.
    """

    name: str
    stages: tuple[Stage, ...]


QUICK = Effort("quick", (Ascents(20), Ascents(40)))
NORMAL = Effort(
    "normal",
    (
        Ascents(20),
        Ascents(40),
        Bursts(2, 25),
        Searches(300, 0.15),
        Searches(150, 0.3),
        Waves(25, 0.4),
        Waves(25, 0.4),
        Searches(500, 0.1),
        Searches(500, 0.1),
    ),
)
THOROUGH = Effort(
    "thorough",
    (
        Ascents(20),
        Ascents(40),
        Ascents(100),
        Bursts(9, 20),
        Bursts(3, 80),
        *(Waves(25, 1.0) for _ in range(6)),
        Searches(1000, 1.0),
        *(Searches(2000, 0.2) for _ in range(4)),
    ),
)


@dataclass(frozen=True)
class Point:
    """A step of the curve: passes a sample so far, and the accuracy that is left."""

    stage: str
    forward: float
    backward: float
    accuracy: float


@dataclass
class Cascade:
    """One cascade under way: the best points so far, and the stages that improve them."""

    model: Counted
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int
    batch: int
    run: Run
    log: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best = self.x.clone()
        self.margin = torch.full((len(self.x),), -torch.inf, dtype=self.x.dtype, device=self.x.device)
        self.fooled = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)
        self.keys = rng.sample_keys(self.x)

    def survivors(self, share: float) -> Tensor:
        """Those that nothing has fooled, in the order of their hashes; the share with the smallest margins lost by."""
        rows = (~self.fooled).nonzero()[:, 0]
        rows = rows[self.keys[rows].argsort()]
        if share < 1 and len(rows):
            count = max(1, math.ceil(share * len(rows)))
            rows = rows[self.margin[rows].argsort(descending=True, stable=True)[:count]]
        return rows

    def stage(self, name: str, share: float, attack: Callable[[Tensor, Tensor, Threat, Tensor], Tensor]) -> None:
        """Attack the survivors chunk by chunk, then keep what is better; a point counts by the model's own word."""
        rows = self.survivors(share)

        def work(positions: Tensor) -> Rows:
            at = rows[positions.to(rows.device)]
            z = attack(self.x[at], self.y[at], self.threat.take(at), at)
            with torch.no_grad():
                logits = torch.cat([read_logits(self.model, part) for part in z.split(self.batch)])
            return {"z": z, "margin": losses.margin(logits, self.y[at]), "fooled": fooled(logits, self.y[at])}

        found = self.run.map(f"cascade-{name}", work, len(rows), model=self.model)
        if found:
            device = self.x.device
            value, z, hit = (found[k].to(device) for k in ("margin", "z", "fooled"))
            value = value.to(self.margin.dtype).nan_to_num(-torch.inf, torch.inf, -torch.inf)
            better = hit | (value > self.margin[rows]) | self.margin[rows].isinf()
            self.best[rows] = where_rows(better, z, self.best[rows])
            self.margin[rows] = torch.where(better, value, self.margin[rows])
            self.fooled[rows] |= hit
        spent = [self.run.passes[k] for k in self.run.passes if k.startswith("cascade-")]
        n = len(self.x)
        left = 1 - float(self.fooled.double().mean())
        self.log.append(Point(name, sum(f for f, _ in spent) / n, sum(b for _, b in spent) / n, left))

    def ascents(self, name: str, stage: Ascents, draw: int) -> None:
        """Margin APGD from a random corner (Linf) or point."""

        def attack(x: Tensor, y: Tensor, threat: Threat, at: Tensor) -> Tensor:
            start = threat.corner if isinstance(threat, Linf) else threat.sample
            z = start(x, self.seed, draw=draw)
            objective = fooling(self.model, y, losses.margin)
            return ascend(objective, x, threat, steps=stage.steps, rule=Auto(), start=z, batch=self.batch).z

        self.stage(name, stage.share, attack)

    def bursts(self, name: str, stage: Bursts) -> None:
        """One target after the other; what is fooled leaves between them."""

        def attack(x: Tensor, y: Tensor, threat: Threat, at: Tensor) -> Tensor:
            best = self.best[at]
            order = targets(self.model, best, y, threat.norm, stage.targets, self.batch)
            top = self.margin[at].clone()
            open_ = torch.ones_like(y, dtype=torch.bool)
            for k in range(order.shape[1]):
                rows = open_.nonzero()[:, 0]
                if not len(rows):
                    break
                label, goal = y[rows], order[rows, k]

                def towards(
                    z: Tensor, live: Tensor, label: Tensor = label, goal: Tensor = goal
                ) -> tuple[Tensor, Tensor]:
                    logits = read_logits(self.model, z)
                    value = losses.margin_targeted(goal[live])(logits, label[live])
                    return value, fooled(logits.detach(), label[live])

                found = ascend(
                    towards, x[rows], threat.take(rows), steps=stage.steps, rule=Auto(), start=best[rows],
                    batch=self.batch,
                )  # fmt: skip
                better = found.done | (found.value > top[rows])
                best[rows] = where_rows(better, found.z, best[rows])
                top[rows] = torch.where(better, found.value, top[rows])
                open_[rows] = ~found.done
            return best

        self.stage(name, stage.share, attack)

    def searches(self, name: str, stage: Searches, draw: int) -> None:
        """Random search from the best point."""

        def attack(x: Tensor, y: Tensor, threat: Threat, at: Tensor) -> Tensor:
            source = torch.Generator().manual_seed((self.seed * 1009 + draw) & 0x7FFFFFFF)
            found = [
                square(
                    self.model, a, b, threat.take(i), steps=stage.queries, start=s, first_query=200, generator=source
                )
                for a, b, s, i in zip(
                    x.split(self.batch), y.split(self.batch), self.best[at].split(self.batch),
                    torch.arange(len(x), device=x.device).split(self.batch), strict=True,
                )
            ]  # fmt: skip
            return torch.cat(found)

        self.stage(name, stage.share, attack)

    def waves(self, name: str, stage: Waves, draw: int) -> None:
        """Seven steps of length eps along random logits, then decaying steps on the margin."""

        def attack(x: Tensor, y: Tensor, threat: Threat, at: Tensor) -> Tensor:
            seeds = rng.seeds(x, self.seed, stage=100 + draw)

            def diverse(z: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
                logits = read_logits(self.model, z)
                w = 2 * rng.uniform(seeds[live], (logits.shape[1],), dtype=z.dtype) - 1
                return (w * logits).sum(1), fooled(logits.detach(), y[live])

            start = ascend(
                diverse, x, threat, steps=7, rule=Decaying(1.0, 1.0), start=threat.sample(x, self.seed, draw=draw),
                keep_best=False, batch=self.batch,
            ).z  # fmt: skip
            objective = fooling(self.model, y, losses.margin)
            return ascend(objective, x, threat, steps=stage.steps, rule=Decaying(), start=start, batch=self.batch).z

        self.stage(name, stage.share, attack)

    def perform(self, stages: Sequence[Stage]) -> None:
        """Every stage in turn, until nobody is left."""
        clean = self.run.map("cascade-clean", self._clean, len(self.x), model=self.model)
        self.fooled = clean["fooled"].to(self.x.device)
        self.margin = clean["margin"].to(self.x.device, self.x.dtype)
        self.log.append(Point("clean", 1.0, 0.0, 1 - float(self.fooled.double().mean())))
        for i, stage in enumerate(stages):
            if bool(self.fooled.all()):
                break
            match stage:
                case Ascents():
                    self.ascents(f"{i}-apgd", stage, i)
                case Bursts():
                    self.bursts(f"{i}-targets", stage)
                case Searches():
                    if isinstance(self.threat, (Linf, L2)) and self.x.ndim > 2:
                        self.searches(f"{i}-square", stage, i)
                case Waves():
                    self.waves(f"{i}-odi", stage, i)

    def _clean(self, rows: Tensor) -> Rows:
        with torch.no_grad():
            logits = torch.cat([read_logits(self.model, self.x[r], self.y[r]) for r in rows.split(self.batch)])
        y = self.y[rows]
        return {"margin": losses.margin(logits, y), "fooled": fooled(logits, y)}


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
                (g,) = torch.autograd.grad(gap.sum(), leaf, retain_graph=j + 1 < others.shape[1])
                length = flat(g.nan_to_num()).norm(p=DUAL.get(float(norm), 2.0), dim=1).clamp_min(TINY)
                scores.append(gap.detach() / length)
        order = torch.stack(scores, 1).argsort(dim=1, stable=True)[:, :count]
        found.append(others.gather(1, order))
    return torch.cat(found)


def cascade(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    effort: Effort = NORMAL,
    seed: int = 0,
    log: list[Point] | None = None,
    batch: int | None = None,
    run: Run | None = None,
) -> Tensor:
    """Attack with the whole cascade.

    Args:
        model: any callable to logits, (B, *D) -> (B, K). Not modified.
        x: inputs in the threat's box, (B, *D).
        y: labels, (B,) int64.
        threat: `Linf` or `L2`; its eps may be (B,).
        effort: `QUICK`, `NORMAL` or `THOROUGH`, or stages of one's own.
        seed: of every random start.
        log: receives a `Point` after each stage: passes a sample and the accuracy left.
        batch: samples alive at once; from the free memory where None.
        run: where finished chunks are kept; in memory where None.

    Returns:
        Points inside the threat, (B, *D): x where it is wrong already, an adversarial example where one was found, the
        point with the largest margin elsewhere. Success is for `verify` to say.

    Raises:
        BadInput: another norm, or inputs that cannot be used.
    """
    check_attack(x, y, threat)
    check_mode(model)
    if not isinstance(threat, (Linf, L2)):
        raise BadInput(f"the cascade knows Linf and L2, the threat is {threat}")
    config = Config(model="", data="", n=len(x), threat=str(threat), seed=seed)
    counted = Counted(model)
    work = Cascade(
        counted, x, y, threat, seed, batch or fitting_batch(model, x), run or Run(None, config, chunk=max(len(x), 1))
    )
    with frozen(model):
        work.perform(effort.stages)
    if log is not None:
        log.extend(work.log)
    return work.best
