"""The main job: how accurate is the model, how much of that survives an adversary, and do its reasons survive too?

Stages, each kept chunk by chunk (see `Run`): `clean` (predictions), `attack` (every sample that is right when clean),
`curve` (a subset at every radius), `explain` (a subset: maps before and after).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.apgd import apgd
from unfooled.attacks.pgd import pgd
from unfooled.core import losses
from unfooled.core.checks import BadInput, check_threat
from unfooled.core.goals import Attack, read_logits
from unfooled.core.modes import Counted, frozen
from unfooled.core.rows import fitting_batch
from unfooled.core.shapes import chunked, where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Explain, Model
from unfooled.evaluation.movement import map_scores
from unfooled.evaluation.records import Config, Summary
from unfooled.evaluation.run import Progress, Rows, Run
from unfooled.evaluation.subject import Subject, fingerprint, get_to_know
from unfooled.evaluation.summary import Found, keep, summarise
from unfooled.evaluation.verify import verify
from unfooled.explanations.paths import integrated_gradients


@dataclass(frozen=True)
class Plan:
    """What an audit does beside its attack; all of it can change a figure, so all of it is recorded.

    Args:
        attack: a budget attack with its options bound; None: APGD-CE with 100 steps in Linf and L2, PGD elsewhere.
        attack_name: what the report calls it.
        explain: an `Explain`; integrated gradients by default.
        explain_name: what the report calls it.
        radii: of the curve, in multiples of eps.
        curve_steps: gradients a radius on the curve.
        curve_n, explain_n: the first so many samples are used for the curve and for the explanations.
        gallery: pictures on the page.
    """

    attack: Attack | None = None
    attack_name: str = ""
    explain: Explain = integrated_gradients
    explain_name: str = "integrated gradients"
    radii: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    curve_steps: int = 30
    curve_n: int = 200
    explain_n: int = 100
    gallery: int = 12

    def resolved(self, threat: Threat, *, random: bool, batch: int | None = None) -> tuple[Attack, str]:
        """The attack and its name, with draws averaged for a random model."""
        if self.attack is not None:
            return self.attack, self.attack_name or "custom"
        eot = 10 if random else 1
        if threat.norm in (2.0, math.inf):
            name = "APGD-CE, 100 steps" + (f", {eot} draws a gradient" if random else "")
            return partial(apgd, steps=100, loss=losses.cross_entropy, eot=eot, batch=batch), name
        return partial(pgd, steps=100, loss=losses.margin, restarts=2, batch=batch), "PGD on the margin, 2 x 100 steps"


@dataclass
class _Audit:
    """One audit under way."""

    subject: Subject
    x: Tensor
    y: Tensor
    threat: Threat
    plan: Plan
    run: Run
    seed: int
    batch: int
    counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        self.counted = Counted(self.subject.model)
        self.draws = 20 if self.subject.random else 1
        self.attack, self.attack_name = self.plan.resolved(self.threat, random=self.subject.random, batch=self.batch)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def clean(self, rows: Tensor) -> Rows:
        """Predictions on clean samples; for a random model the majority of the draws."""
        with torch.inference_mode():
            votes = torch.stack([read_logits(self.counted, self.x[rows], self.y[rows]) for _ in range(self.draws)])
        if not bool(torch.isfinite(votes).all()):
            bad = (~torch.isfinite(votes)).any(2).any(0).nonzero()[:, 0]
            raise BadInput(
                f"the model returns NaN or infinite logits for {len(bad)} of {len(rows)} clean samples, the first is "
                f"sample {int(rows[bad[0]])}; nothing can be said of such a model"
            )
        k = votes.shape[2]
        prediction = torch.nn.functional.one_hot(votes.argmax(2), k).sum(0).argmax(1)
        confidence = votes.softmax(2).mean(0).amax(1)
        return {"prediction": prediction, "confidence": confidence}

    def attacked(self, rows: Tensor, right: Tensor) -> Rows:
        """Attack the rows that are right when clean and judge the result; the others stay as they are."""
        x, y, open_ = self.x[rows], self.y[rows], right[rows].to(self.x.device)
        z = x.clone()
        if bool(open_.any()):
            with frozen(self.counted):
                z[open_] = self.attack(
                    self.counted, x[open_], y[open_], self.threat.take(rows[open_.cpu()]), generator=self.generator()
                )
        return self.judged(x, y, z, self.threat.take(rows))

    def judged(self, x: Tensor, y: Tensor, z: Tensor, threat: Threat) -> Rows:
        """What is true of proposed points; those that are not allowed are put back to x."""
        verdict = verify(self.subject.model, x, y, z, threat, draws=self.draws, batch=self.batch)
        with torch.inference_mode():
            confidence = chunked(lambda z: read_logits(self.subject.model, z), self.batch)(z).softmax(1).amax(1)
        return {
            "x_adv": where_rows(verdict.inside, z, x),
            "inside": verdict.inside,
            "success": verdict.success,
            "distance": verdict.distance,
            "undefined": verdict.undefined,
            "prediction": verdict.prediction,
            "confidence": confidence,
        }

    def curve(self, rows: Tensor, right: Tensor) -> Rows:
        """Whether each sample falls at each radius, and what was found at the smallest one.

        All radii share one batch, since eps may be (B,). A point found at a radius also counts for the larger ones.
        """
        x, y = self.x[rows], self.y[rows]
        radii = torch.tensor(sorted(self.plan.radii), dtype=x.dtype, device=x.device)
        r, open_ = len(radii), right[rows].to(x.device)
        hit = (~open_)[:, None].repeat(1, r)
        nearest = x.clone()
        if bool(open_.any()):
            near, label, k = x[open_], y[open_], int(open_.sum())
            eps = torch.as_tensor(self.threat.take(rows[open_.cpu()]).eps, dtype=x.dtype, device=x.device)
            threat = self.threat.with_eps((radii[None] * eps.expand(k)[:, None]).reshape(-1))
            many, labels = near.repeat_interleave(r, 0), label.repeat_interleave(r, 0)
            quick: Attack = apgd if threat.norm in (2.0, math.inf) else pgd
            options = {"steps": self.plan.curve_steps, "loss": losses.margin, "batch": self.batch}
            with frozen(self.counted):
                z = quick(self.counted, many, labels, threat, generator=self.generator(), **options)
            verdict = verify(self.subject.model, many, labels, z, threat, draws=self.draws, batch=self.batch)
            won = verdict.success.reshape(k, r)
            first = won.to(torch.int64).argmax(1)
            found = z.reshape(k, r, *x.shape[1:])[torch.arange(k, device=x.device), first]
            hit[open_] = won.cummax(1).values
            nearest[open_] = where_rows(won.any(1), found, near)
        return {"hit": hit, "nearest": nearest}

    def merged(self, attack: Rows, curve: Rows) -> Rows:
        """Nothing found is lost: a point that the curve found inside eps also counts against the audit's attack."""
        k = len(curve["hit"])
        inside = torch.tensor([v <= 1 for v in sorted(self.plan.radii)])
        new = curve["hit"][:, inside].any(1) & ~attack["success"][:k]
        if not bool(new.any()):
            return attack
        rows = new.nonzero()[:, 0]
        z = curve["nearest"][rows].to(self.x.device)
        better = self.judged(self.x[rows], self.y[rows], z, self.threat.take(rows))
        merged = {name: value.clone() for name, value in attack.items()}
        for name, value in better.items():
            merged[name][rows] = value.cpu()
        return merged

    def stages(self) -> Found:
        """Run every stage, or find it done."""
        run, n = self.run, len(self.x)
        clean = run.map("clean", self.clean, n, model=self.counted)
        right = clean["prediction"] == self.y.cpu()
        attack = run.map("attack", lambda rows: self.attacked(rows, right), n, model=self.counted)
        curve = run.map("curve", lambda rows: self.curve(rows, right), min(n, self.plan.curve_n), model=self.counted)
        attack = self.merged(attack, curve)
        few = min(n, self.plan.explain_n)
        explain = run.map("explain", lambda rows: self.explain(rows, attack["x_adv"]), few, model=self.counted)
        return Found(clean, attack, curve["hit"], explain, right, tuple(sorted(self.plan.radii)))

    def explain(self, rows: Tensor, x_adv: Tensor) -> Rows:
        """Maps of the true label before and after, and how far they are apart."""
        x, y, z = self.x[rows], self.y[rows], x_adv[rows].to(self.x.device)
        return map_scores(self.counted, x, y, z, self.plan.explain)


def audit(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    plan: Plan | None = None,
    out: Path | str | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    about: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    chunk: int = 100,
    batch: int | None = None,
    progress: Progress | None = None,
    warnings: Sequence[str] = (),
) -> Summary:
    """Audit a classifier: clean and robust accuracy, the curve over radii, and whether its reasons survive.

    Args:
        model: any callable to logits, (B, *D) -> (B, K).
        x: inputs in the unit box, (B, *D).
        y: labels, (B,) int64.
        threat: what the adversary may do.
        plan: attack, explanation and sizes.
        out: run folder; a second start with the same arguments continues what a first one left.
        seed: of every random start.
        classes: names, in the order of the logits.
        about: what the report calls things: model, data, command, title.
        options: further settings to be recorded and compared on a second start.
        chunk: samples kept at a time; verdicts do not depend on it.
        batch: samples a forward; chosen from the free memory where None.
        progress: told what is done.
        warnings: sentences to be carried into the summary.

    Returns:
        The `Summary`, also written to `out/summary.json`. Cost with the default plan: 1 + 101 forwards and 100
        backwards a sample for clean and robust accuracy, less for those that fall, and 31 a radius on the curve.

    Raises:
        BadInput: inputs, labels, model or folder that cannot be used, in one sentence.
    """
    plan, about = plan or Plan(), dict(about or {})
    subject = get_to_know(model, x, y)
    check_threat(x, threat)
    threat = threat.bounded(x) if torch.as_tensor(threat.eps).isinf().any() else threat
    attack_name = plan.resolved(threat, random=subject.random)[1]
    recorded = dict(options or {}) | {
        "attack": attack_name,
        "explanation": plan.explain_name,
        "radii": list(plan.radii),
        "curve_n": plan.curve_n,
        "curve_steps": plan.curve_steps,
        "explain_n": plan.explain_n,
        "gallery": plan.gallery,
    }
    config = Config(
        model=about.get("model", getattr(model, "name", "") or type(model).__name__),
        data=about.get("data", "tensors"),
        n=len(x),
        threat=str(threat),
        seed=seed,
        options=recorded,
        fingerprint=fingerprint(model, x, y),
    )
    folder = Path(out) if out is not None else None
    run = Run(folder, config, chunk=chunk, progress=progress)
    work = _Audit(subject, x, y, threat, plan, run, seed, batch or fitting_batch(subject.model, x))
    found = work.stages()
    names = list(classes) if classes else [str(k) for k in range(subject.classes)]
    summary = summarise(
        found,
        x=x.cpu(),
        y=y.cpu(),
        threat=threat,
        config=config,
        classes=names,
        about=about,
        run=run,
        warnings=[*warnings, *subject.warnings],
        device=str(x.device),
    )
    if folder is not None:
        keep(folder, found, x.cpu(), y.cpu(), summary)
    return summary
