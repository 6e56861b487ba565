"""AutoAttack-standard: its four attacks one after the other, without the passes that decide nothing.

    APGD on the cross-entropy, 100 steps -> APGD-T on the targeted DLR, 9 x 100 -> FAB-T, 9 x 100 -> Square, 5000

The attacks, their order, losses, targets and budgets are those of the published ensemble, so a verdict can be compared
with published ones. What is left out changes none: steps of samples that are fooled already, the gradient after the
last step, a clean forward for each target, FAB's forward to judge a step where the next step repeats it, gradients of
the weights, and queries of a point that has just been judged.

References:
    Croce, Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML
    2020, arXiv:2003.01690.
    Croce, Hein, Minimally distorted adversarial examples with a fast adaptive boundary attack, ICML 2020,
    arXiv:1907.02044.
    Andriushchenko et al., Square attack, ECCV 2020, arXiv:1912.00049.
    Differs from the published code: random numbers belong to the sample, Square draws a window for each sample, APGD
    counts the first window's rises from the loss at the start and replaces zero gradients by random ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from unfooled.attacks.apgd import apgd, shrinking
from unfooled.attacks.ensembles.cascade import Point
from unfooled.attacks.fab import fab
from unfooled.attacks.square import square
from unfooled.core import losses, rng
from unfooled.core.ascent import Ascent, Auto, ascend
from unfooled.core.checks import check_attack, check_mode
from unfooled.core.errors import BadInput
from unfooled.core.goals import fooled, fooling, read_logits
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.modes import Counted, frozen
from unfooled.core.shapes import flat, per_sample, where_rows
from unfooled.core.threats import TINY, UNIT, Linf, Threat
from unfooled.core.types import Model, Objective
from unfooled.runs.chunks import Rows, Run
from unfooled.runs.records import Config

STEPS, TARGETS, QUERIES, SCHEDULE = 100, 9, 5000, 10_000
RESTARTS_L1, TARGETS_L1 = 5, 5  # of APGD and APGD-T in L1, as published
AUTOATTACK = "autoattack"  # what records and the command line call this effort


def autoattack(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    log: list[Point] | None = None,
    batch: int | None = None,
    run: Run | None = None,
) -> Tensor:
    """Attack with AutoAttack-standard.

    Args:
        model: any callable to logits, (B, *D) -> (B, K), K >= 4. Not modified.
        x: inputs in the unit box, (B, *D).
        y: labels, (B,) int64.
        threat: `Linf`, `L2` or `L1`; its eps may be (B,).
        seed: of everything random.
        log: receives a `Point` after each attack: passes a sample and the accuracy left.
        batch: samples alive at once; from the free memory where None.
        run: where finished chunks are kept; in memory where None.

    Returns:
        Points inside the threat, (B, *D): an adversarial example where one was found, else x. Success is for `verify`
        to say.

    Raises:
        BadInput: another norm or box, fewer than 4 classes, or inputs that cannot be used.
    """
    check_attack(x, y, threat)
    check_mode(model)
    if threat.norm not in (1.0, 2.0, math.inf):
        raise BadInput(f"autoattack knows Linf, L2 and L1, the threat is {threat}; use the cascade (--effort normal)")
    if threat.box != UNIT:
        raise BadInput(
            f"autoattack works in the unit box, the threat's is {threat.box}; use the cascade (--effort normal)"
        )
    config = Config(model="", data="", n=len(x), threat=str(threat), seed=seed)
    kept = run or Run(None, config, chunk=max(len(x), 1))
    work = _Standard(Counted(model), x, y, threat.bounded(x), seed, batch or fitting_batch(model, x), kept)
    with frozen(model):
        work.perform()
    if log is not None:
        log.extend(work.log)
    return work.best


@dataclass
class _Standard:
    """One evaluation under way: what has been found, and the four attacks."""

    model: Counted
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int
    batch: int
    run: Run
    log: list[Point] = field(default_factory=list)

    def perform(self) -> None:
        """Every attack in turn, on those that stand, until nobody does."""
        clean = self.run.map("autoattack-clean", self.clean, len(self.x), model=self.model)
        self.best = self.x.clone()
        self.fooled, self.order = (clean[k].to(self.x.device) for k in ("fooled", "order"))
        self.note("clean")
        for name, attack in (
            ("apgd-ce", self.apgd_ce), ("apgd-t", self.apgd_t), ("fab-t", self.fab_t), ("square", self.square),
        ):  # fmt: skip
            rows = (~self.fooled).nonzero()[:, 0]
            if len(rows):
                self.stage(name, attack, rows[rng.sample_keys(self.x[rows]).argsort(stable=True)])

    def stage(self, name: str, attack: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        """One attack on `rows`, chunk by chunk."""

        def work(positions: Tensor) -> Rows:
            at = rows[positions.to(rows.device)]
            z = attack(at)
            return {"z": z, "fooled": fooled(self.look(z), self.y[at])}

        found = {
            k: v.to(rows.device)
            for k, v in self.run.map(f"autoattack-{name}", work, len(rows), model=self.model).items()
        }
        self.best[rows] = where_rows(found["fooled"], found["z"], self.best[rows])
        self.fooled[rows] |= found["fooled"]
        self.note(name)

    def note(self, name: str) -> None:
        """Add a point to the curve."""
        spent = [self.run.passes[k] for k in self.run.passes if k.startswith("autoattack-")]
        n = len(self.x)
        left = 1 - float(self.fooled.double().mean())
        self.log.append(Point(name, sum(f for f, _ in spent) / n, sum(b for _, b in spent) / n, left))

    def look(self, z: Tensor) -> Tensor:
        """The logits, (b, K)."""
        with torch.no_grad():
            return torch.cat([read_logits(self.model, part) for part in z.split(self.batch)])

    def clean(self, rows: Tensor) -> Rows:
        """Who is wrong already, and the likeliest other classes of the rest."""
        rows = rows.to(self.x.device)
        with torch.no_grad():
            logits = torch.cat([read_logits(self.model, self.x[r], self.y[r]) for r in rows.split(self.batch)])
        y, k = self.y[rows], logits.shape[1]
        if k < 4:
            raise BadInput(
                f"apgd-t cannot run: its loss needs at least 4 classes, the model has {k}; use the cascade "
                "(--effort normal)"
            )
        order = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        return {"fooled": fooled(logits, y), "order": order[:, : min(TARGETS, k - 1)]}

    def start(self, x: Tensor, threat: Threat, draw: int) -> Tensor:
        """A random point on the surface of the ball, then the box."""
        seeds, shape = rng.seeds(x, self.seed, stage=200), tuple(x.shape[1:])
        if isinstance(threat, Linf):
            u = 2 * rng.uniform(seeds, shape, draw=draw, dtype=x.dtype) - 1
            u = u / per_sample(flat(u).abs().amax(1).clamp_min(TINY), u)
        else:
            u = threat.steepest(rng.normal(seeds, shape, draw=draw, dtype=x.dtype))
        return threat.project(x + per_sample(threat.eps, x) * u, x)

    def apgd_ce(self, at: Tensor) -> Tensor:
        """APGD on the cross-entropy."""
        x, y, threat = self.x[at], self.y[at], self.threat.take(at)
        if threat.norm == 1:
            source = torch.Generator().manual_seed(self.seed)
            found = partial(apgd, steps=STEPS, loss=losses.cross_entropy, restarts=RESTARTS_L1, batch=self.batch)
            return found(self.model, x, y, threat, generator=source)
        objective = fooling(self.model, y, losses.cross_entropy)
        return self.ascended(objective, x, threat, 0).z

    def ascended(self, objective: Objective, x: Tensor, threat: Threat, draw: int) -> Ascent:
        """APGD from a random start in Linf and L2."""
        start = self.start(x, threat, draw)
        return ascend(objective, x, threat, steps=STEPS, rule=Auto(), start=start, batch=self.batch)

    def apgd_t(self, at: Tensor) -> Tensor:
        """APGD on the targeted DLR, one class after the other."""
        z = self.x[at]
        open_ = torch.arange(len(at), device=at.device)
        for k in range(self.order.shape[1] if self.threat.norm != 1 else min(TARGETS_L1, self.order.shape[1])):
            rows = at[open_]
            x, threat, label, goal = self.x[rows], self.threat.take(rows), self.y[rows], self.order[rows, k]

            def towards(p: Tensor, live: Tensor, label: Tensor = label, goal: Tensor = goal) -> tuple[Tensor, Tensor]:
                logits = read_logits(self.model, p)
                return losses.dlr_targeted(goal[live])(logits, label[live]), fooled(logits.detach(), label[live])

            if threat.norm == 1:
                source = torch.Generator().manual_seed((self.seed * 1009 + 1 + k) & 0x7FFFFFFF)
                p = shrinking(towards, x, threat, STEPS, None, self.batch, source)
                done = fooled(self.look(p), label)
            else:
                found = self.ascended(towards, x, threat, 1 + k)
                p, done = found.z, found.done
            z[open_[done]] = p[done]
            open_ = open_[~done]
            if not len(open_):
                break
        return z

    def fab_t(self, at: Tensor) -> Tensor:
        """FAB-T; what it finds farther away than eps is no success."""
        parts = []
        for rows in at.split(self.batch):
            x, threat = self.x[rows], self.threat.take(rows)
            source = torch.Generator().manual_seed(self.seed)
            z = fab(
                self.model, x, self.y[rows], threat.norm, targets=TARGETS, steps=STEPS, eps=threat.eps, generator=source
            )
            parts.append(where_rows(threat.size(z - x) <= torch.as_tensor(threat.eps), z, x))
        return torch.cat(parts)

    def square(self, at: Tensor) -> Tensor:
        """Random search."""
        parts = []
        for rows in at.split(self.batch):
            source = torch.Generator().manual_seed(self.seed)
            threat = self.threat.take(rows)
            parts.append(
                square(
                    self.model, self.x[rows], self.y[rows], threat, steps=QUERIES, schedule=SCHEDULE, generator=source
                )
            )
        return torch.cat(parts)
