"""Detection of attacks as a by-product of a purifier, and the purifier without its choice of a dictionary.

    distance          min over clusters of the predicted class of d_k(e(x))
    reconstruction    ||x - P(x)||_2
    label change      f(x) != f(P(x))

A score is judged on clean samples against three kinds of points: static ones, of attacks on the bare model; those of
all attacks on the guarded one; and those of a joint attack, which maximises

    margin - kappa relu((s - tau) / sigma),     kappa in {.1, 1, 10}

where tau is the 95 % quantile of the clean scores and sigma their standard deviation; a label change counts by the
cross-entropy of the bare model at the guarded one's class. Only the joint attack knows the detector.

References:
    Carlini, Wagner, Adversarial examples are not easily detected: bypassing ten detection methods, AISec 2017,
    arXiv:1705.07263.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unfooled.attacks.ensembles.keys import Family, StageKey
from unfooled.attacks.pgd import pgd
from unfooled.core.ascent import Decaying, ascend
from unfooled.core.global_rng import same_draws
from unfooled.core.goals import read_logits
from unfooled.core.losses import cross_entropy, margin
from unfooled.core.model.modes import frozen
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import time_limit
from unfooled.core.threats import Threat
from unfooled.core.types import Model, Purify
from unfooled.evaluation.audit.guard_fields import Choice, Detector, Roc
from unfooled.evaluation.audit.values import Setting, ThroughPurifier
from unfooled.evaluation.verify import verify
from unfooled.purification.guard import Guarded, guard
from unfooled.purification.semantic import SemanticPurifier
from unfooled.runs.chunks import Rows
from unfooled.statistics import intervals
from unfooled.statistics.roc import area, hits_at, roc

KAPPAS = (0.1, 1.0, 10.0)
"""Weights of a detector's score in the joint attack."""
FALSE_ALARMS = 0.05
"""Share of clean samples above a detector's threshold."""
MOST, STEPS = 100, 20
"""Samples, the first ones, of the detectors and of the ablation, and steps of their attacks."""
POINTS = 41
"""Points of a stored curve, at most."""
FAR = 1e12
"""Score in the place of infinity, as where no cluster is of the predicted class."""


@dataclass(frozen=True, eq=False)
class Score:
    """A score of inputs, larger for attacked ones.

    Attributes:
        name: Name on the page.
        value: Score that is judged, (B, *D) -> (B,).
        soft: Differentiable stand-in that the joint attack lowers; the score itself where it is differentiable.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    soft: Callable[[Tensor], Tensor]


def cluster_distance(purify: SemanticPurifier, model: Model, x: Tensor) -> Tensor:
    """Return the distance to the nearest cluster of the predicted class, (B,), differentiable."""
    distances = purify.distance(x)
    predicted = read_logits(model, x).detach().argmax(1)
    others = purify.label.to(x.device)[None] != predicted[:, None]
    return distances.masked_fill(others, torch.inf).amin(1).to(x.dtype)


def joint(
    model: Model, purify: Purify, score: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat: Threat, *,
    kappa: float, tau: float, scale: float, steps: int, seed: int = 0,
) -> Tensor:  # fmt: skip
    """Maximise the margin, less a penalty where a score is above its threshold.

    Args:
        model: Guarded model.
        purify: Its purifier.
        score: Differentiable score of inputs, (b, *D) -> (b,).
        x: Inputs, (B, *D).
        y: Labels, (B,).
        threat: Threat.
        kappa: Weight of the penalty.
        tau: Threshold of the score.
        scale: Unit of the score.
        steps: Steps of the ascent.
        seed: Random seed of the starting points.

    Returns:
        Points inside the threat, (B, *D).
    """

    def objective(z: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        penalty = ((score(z).clamp(max=tau + 1e6 * scale) - tau) / scale).relu()
        value = margin(read_logits(model, z), y[at]) - kappa * penalty
        return value, torch.zeros(len(z), dtype=torch.bool, device=z.device)

    with frozen(model), frozen(purify):
        start = threat.sample(x, torch.Generator().manual_seed(seed))
        return ascend(objective, x, threat, steps=steps, rule=Decaying(), start=start).z


def detectors(s: Setting, through: ThroughPurifier, attacked: Tensor) -> list[Detector]:
    """Judge the purifier's scores as detectors, on the first samples.

    Args:
        s: The audit.
        through: Result of the attacks on the model behind the purifier.
        attacked: Points of all attacks together, (n, *D).
    """
    if through.guarded is None or through.bare is None or through.bare_points is None:
        return []
    bare = Counted(through.bare)
    model = _passing(through, s, bare)
    points = {"clean": s.x, "static": through.bare_points, "attacked": attacked}
    with time_limit(None):
        return [_Judging(s, model, bare, key, score).detector(points) for key, score in _scores(model, bare).items()]


def _passing(through: ThroughPurifier, s: Setting, bare: Model) -> Guarded:
    """Return the guarded model, with the gradient of the identity where the purifier has none."""
    guarded = through.guarded
    assert guarded is not None
    purify = guarded.purify

    def passing(x: Tensor) -> Tensor:
        with torch.no_grad():
            made = purify(x.detach().clone())
        return made + (x - x.detach())

    return guard(bare, purify if through.differentiable else passing, stochastic=s.subject.random)


def _scores(model: Guarded, bare: Model) -> dict[str, Score]:
    """Return the scores that the purifier gives."""
    purify = model.purify

    def moved(x: Tensor) -> Tensor:
        return (x - purify(x)).flatten(1).norm(dim=1)

    def change(x: Tensor) -> Tensor:
        return (read_logits(bare, x).argmax(1) != read_logits(model, x).argmax(1)).to(x.dtype)

    def unlike(x: Tensor) -> Tensor:
        return cross_entropy(read_logits(bare, x), read_logits(model, x).detach().argmax(1))

    scores = {
        "reconstruction": Score("length of what the purifier changes", moved, moved),
        "label-change": Score("change of the label", change, unlike),
    }
    if isinstance(purify, SemanticPurifier):

        def far(x: Tensor) -> Tensor:
            return cluster_distance(purify, model, x).clamp(max=FAR)

        scores = {"distance": Score("distance to the clusters of the predicted class", far, far), **scores}
    return scores


@dataclass(frozen=True, eq=False)
class _Judging:
    """One score, judged on the first samples of an audit."""

    s: Setting
    model: Guarded
    bare: Counted
    key: str
    score: Score

    def detector(self, points: dict[str, Tensor]) -> Detector:
        """Judge the score on clean samples, on points that do not know it, and on joint ones."""
        made = {name: self._mapped(name, lambda rows, _, z=z: self._at(z, rows)) for name, z in points.items()}  # type: ignore[misc]
        clean, soft = made["clean"]["value"], made["clean"]["soft"]
        finite = soft[torch.isfinite(soft)]
        tau = float(finite.quantile(1 - FALSE_ALARMS)) if len(finite) else 0.0
        scale = max(float(finite.std()) if len(finite) > 1 else 1.0, 1e-6)
        joints = {
            kappa: self._mapped(f"joint-{kappa:g}", partial(self._attacked, kappa=kappa, tau=tau, scale=scale))
            for kappa in KAPPAS
        }
        curves = {kappa: _roc(clean, rows["value"]) for kappa, rows in joints.items()}
        worst = min(curves, key=lambda kappa: curves[kappa].auroc)
        threshold = float(np.quantile(clean.numpy(), 1 - FALSE_ALARMS, method="higher"))
        # A gradient that lies misleads the joint attack, not the points that others found.
        known = [*joints.values(), made["static"], made["attacked"]]
        fine = torch.stack([rows["right"].bool() | (rows["value"] > threshold) for rows in known]).all(0)
        return Detector(
            key=self.key, name=self.score.name, n=len(clean), threshold=threshold,
            static=_roc(clean, made["static"]["value"]), attacked=_roc(clean, made["attacked"]["value"]),
            joint=curves[worst], kappa=worst, right_or_rejected=intervals.share(fine),
        )  # fmt: skip

    def _mapped(self, name: str, work: Callable[[Tensor, Tensor], Rows]) -> Rows:
        """Compute the first samples, or read them; a random purifier draws the same numbers each time."""
        s = self.s

        def chunk(rows: Tensor) -> Rows:
            with same_draws(s.seed):
                return work(rows, s.at(rows))

        return s.ledger.map(StageKey(Family.ABLATION, f"{self.key}-{name}"), chunk, min(s.n, MOST), model=self.bare)

    def _at(self, z: Tensor, rows: Tensor) -> Rows:
        s, at = self.s, self.s.at(rows)
        points = z[rows.to(z.device)].to(s.x.device)
        verdict = verify(self.model, s.x[at], s.y[at], points, s.threat.take(at))
        return self._scored(points) | {"right": ~verdict.success.cpu()}

    def _scored(self, z: Tensor) -> Rows:
        with torch.no_grad():
            return {"value": self.score.value(z).double().cpu(), "soft": self.score.soft(z).double().cpu()}

    def _attacked(self, rows: Tensor, at: Tensor, *, kappa: float, tau: float, scale: float) -> Rows:
        s, model = self.s, self.model
        x, y, threat = s.x[at], s.y[at], s.threat.take(at)
        z = joint(model, model.purify, self.score.soft, x, y, threat, kappa=kappa, tau=tau, scale=scale, steps=STEPS,
                  seed=s.seed)  # fmt: skip
        verdict = verify(model, x, y, z, threat)
        inside = verdict.inside.to(z.device).reshape(-1, *[1] * (z.ndim - 1))
        return self._scored(torch.where(inside, z, x)) | {"right": ~verdict.success.cpu()}


def _roc(clean: Tensor, attacked: Tensor) -> Roc:
    a, b = clean.numpy(), attacked.numpy()
    false, true = roc(a, b)
    some = np.unique(np.linspace(0, len(false) - 1, min(len(false), POINTS)).round().astype(int))
    return Roc(auroc=area(a, b), detected=hits_at(a, b, FALSE_ALARMS), curve=[(false[i], true[i]) for i in some])


def choice_record(s: Setting, through: ThroughPurifier) -> Choice | None:
    """Compare a purifier with itself without its choice: dictionaries shuffled among the clusters, or one for all.

    Args:
        s: The audit.
        through: Result of the attacks on the model behind the purifier.

    Returns:
        The record, of the first samples. None: the purifier has no clusters to choose from.
    """
    guarded, static = through.guarded, through.bare_points
    purify = None if guarded is None else guarded.purify
    if not isinstance(purify, SemanticPurifier) or len(purify.clusters) < 2 or static is None or through.bare is None:
        return None
    found, bare = dict[str, Rows](), Counted(through.bare)
    for name, one in {"own": purify, **_without_choice(s, purify)}.items():
        model = guard(bare, one)

        def work(rows: Tensor, model: Guarded = model) -> Rows:
            at = s.at(rows)
            x, y, threat = s.x[at], s.y[at], s.threat.take(at)
            z = pgd(model, x, y, threat, steps=STEPS, loss=margin, generator=torch.Generator().manual_seed(s.seed))
            points = {"static": static[rows.to(static.device)].to(x.device), "attacked": z}
            return {key: (~verify(model, x, y, point, threat).success).double().cpu() for key, point in points.items()}

        with time_limit(None):
            found[name] = s.ledger.map(StageKey(Family.ABLATION, f"choice-{name}"), work, min(s.n, MOST), model=bare)
    worst = {name: torch.minimum(rows["static"], rows["attacked"]) for name, rows in found.items()}
    return Choice(
        n=min(s.n, MOST),
        own_static=intervals.share(found["own"]["static"] > 0.5),
        shuffled_static=intervals.share(found["shuffled"]["static"] > 0.5),
        own_attacked=intervals.share(worst["own"] > 0.5),
        shuffled_attacked=intervals.share(worst["shuffled"] > 0.5),
        adds=intervals.mean(worst["own"] - worst["shuffled"], within=(-1, 1), seed=s.seed),
        one_static=intervals.share(found["one"]["static"] > 0.5),
        one_attacked=intervals.share(worst["one"] > 0.5),
        one_adds=intervals.mean(worst["own"] - worst["one"], within=(-1, 1), seed=s.seed),
    )


def _without_choice(s: Setting, purify: SemanticPurifier) -> dict[str, SemanticPurifier]:
    """Return the purifier with its dictionaries shuffled, and with that of the most frequent cluster for all."""
    order = torch.randperm(len(purify.clusters), generator=torch.Generator().manual_seed(s.seed))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # no cluster gets its own
    with torch.no_grad():
        nearest = purify.distance(s.x[s.at(torch.arange(min(s.n, MOST)))]).argmin(1)
    same = torch.full_like(order, int(nearest.bincount().argmax()))
    atoms = purify.dictionaries
    return {
        name: replace(purify, dictionaries=atoms[rows.to(atoms.device)])
        for name, rows in (("shuffled", others), ("one", same))
    }
