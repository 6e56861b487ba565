"""The main job: how accurate is the model, how much of that survives an adversary, and can that figure be believed?

Stages, each kept chunk by chunk (see `Run`): `clean` (predictions), `cascade-*` (the attack, on all that are right
when clean), `nearest-*` (a subset: the nearest adversarial examples, hence every radius), `diagnostics-*` (other
attacks on those who are left), more of the cascade where a check asks for it, `judge` (what is true of the points
found), `explain` (a subset: maps before and after), `reasons-*` (a subset: attacks that move the explanation and keep
the label, by radius).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import NORMAL, Cascade, Certify, Effort, fitted
from unfooled.attacks.ensembles.envelope import envelope
from unfooled.attacks.ensembles.stages import Given, Stage
from unfooled.attacks.explanations.candidates import takes_create_graph
from unfooled.core.ascent.nearest import NORMS
from unfooled.core.checks import check_run, check_threat
from unfooled.core.errors import BadInput
from unfooled.core.goals import Attack, read_logits
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.model.modes import Counted, frozen
from unfooled.core.shapes import where_rows
from unfooled.core.threats import Threat
from unfooled.core.types import Explain, Model
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.summary import Found, keep, summarise
from unfooled.evaluation.checks.after import (
    FLOOR,
    YIELD,
    Gradients,
    after,
    conclude,
    extend,
    fired,
    judged,
    merged,
    of_kind,
)
from unfooled.evaluation.checks.before import before, finding, replayed
from unfooled.evaluation.checks.subject import Subject, fingerprint, get_to_know, untouched
from unfooled.evaluation.checks.table import Finding
from unfooled.evaluation.explanations.movement import map_scores
from unfooled.evaluation.explanations.survival import Attacked, Way, attack_reasons, shrunk, way_of
from unfooled.evaluation.verify import verify
from unfooled.explanations.gradients import saliency
from unfooled.explanations.paths import integrated_gradients
from unfooled.runs.chunks import Progress, Rows, Run
from unfooled.runs.records import Config

DRAWS = 20  # fresh ones of a random model, whose majority decides
ATTACKS = ("cascade-", "autoattack-")  # stages whose passes are the attack's
EOT = 10  # averaged at every gradient of it


@dataclass(frozen=True)
class Plan:
    """What an audit does; all of it can change a figure, so all of it is recorded.

    Args:
        effort: how much the cascade does.
        attack: a budget attack with its options bound, run instead of the cascade; it is not extended.
        attack_name: what the report calls it.
        whole: an attack on all samples at once that keeps its own stages, such as `autoattack`; otherwise as `attack`.
        certify: tells which samples are proven robust; they are not attacked.
        norms: in which the nearest adversarial examples are looked for; the threat's own where None.
        nearest_budget: passes a sample and norm for that.
        nearest_n, explain_n: the first so many samples are used for that and for the explanations.
        radii: of the curve, in multiples of eps.
        explain: an `Explain`; integrated gradients by default.
        explain_name: what the report calls it.
        gallery: pictures on the page.
        floor: passes that the diagnostics may take, or a tenth of the attack's if that is more.
        reasons: an explanation that is attacked in its own right, label kept; None for none. Saliency by default, as
            the cheapest.
        reasons_name: what the report calls it.
        reasons_n: the first so many samples that are right when clean are attacked so.
        reasons_radii: in multiples of eps.
        reasons_steps, reasons_restarts: of that attack, which has one objective: mass out of the LENS neighbourhood.
    """

    effort: Effort = NORMAL
    attack: Attack | None = None
    attack_name: str = ""
    whole: Attack | None = None
    certify: Certify | None = None
    norms: Sequence[float] | None = None
    nearest_budget: int = 400
    nearest_n: int = 200
    explain_n: int = 100
    radii: Sequence[float] = (0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
    explain: Explain = integrated_gradients
    explain_name: str = "integrated gradients"
    gallery: int = 12
    floor: int = FLOOR
    reasons: Callable[..., Tensor] | None = saliency
    reasons_name: str = "saliency"
    reasons_n: int = 32
    reasons_radii: Sequence[float] = (0.25, 0.5, 1.0)
    reasons_steps: int = 20
    reasons_restarts: int = 1

    def stages(self, threat: Threat) -> tuple[Stage, ...]:
        """What is run against the survivors."""
        return fitted(self.effort.stages, threat) if self.attack is None else (Given(self.attack),)

    @property
    def name(self) -> str:
        """What the report calls the attack."""
        return f"cascade, {self.effort.name}" if self.own else self.attack_name or "custom"

    @property
    def own(self) -> bool:
        """Whether the attack is the cascade, which may go on where a check asks for it."""
        return self.attack is None and self.whole is None


def told(stage: Stage) -> str:
    """A stage in words that are the same in every process: its type and what of it is text or a number."""
    parts = (f"{k}={v}" for k, v in vars(stage).items() if isinstance(v, (int, float, str)))
    return f"{type(stage).__name__}({', '.join(parts)})"


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
    untouched: Model | None
    counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        self.counted = Counted(self.subject.model)
        self.draws = DRAWS if self.subject.random else 1

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

    def probed(self) -> list[Finding]:
        """What the model answers before it is attacked; refuses one that remembers queries."""
        with frozen(self.counted):
            findings = self.run.once(
                "diagnostics-probes",
                Finding,
                lambda: before(self.counted, self.x, self.y, self.threat, seed=self.seed),
                model=self.counted,
            )
        if self.subject.probabilities:  # the probes saw their logarithm
            findings.append(finding("D3", True, "outputs are probabilities", "their logarithm is attacked"))
        for f in findings:
            if f.fired and f.id == "D20":
                raise BadInput(f"{f.detail}: the model remembers queries; audit it without that state")
        return findings

    def judge(self, work: Cascade) -> Rows:
        """What is true of the points found; those that are not allowed are put back to x."""
        on_grid = bool(((self.x * 255 - (self.x * 255).round()).abs() < 1e-3).all())

        def judged(rows: Tensor) -> Rows:
            at = rows.to(self.x.device)
            x, y, z, threat = self.x[at], self.y[at], work.best[at], self.threat.take(at)
            verdict = verify(self.subject.model, x, y, z, threat, draws=self.draws, batch=self.batch)
            with torch.inference_mode():
                confidence = batched(lambda z: read_logits(self.subject.model, z), self.batch)(z).softmax(1).amax(1)
            found = {
                "x_adv": where_rows(verdict.inside, z, x),
                "inside": verdict.inside,
                "success": verdict.success,
                "distance": verdict.distance,
                "undefined": verdict.undefined,
                "prediction": verdict.prediction,
                "confidence": confidence,
                "rate": verdict.rate,
            }
            if on_grid:
                rounded = verify(self.subject.model, x, y, z, threat, draws=self.draws, batch=self.batch, levels=256)
                found["success_8bit"] = rounded.success
            return found

        return self.run.map("judge", judged, len(self.x))

    def nearest(self, work: Cascade, gradients: Gradients) -> dict[float, Rows]:
        """The nearest adversarial examples of the first samples, in each norm; what lies inside the threat is kept."""
        found = {}
        k = min(len(self.x), self.plan.nearest_n)
        for norm in self.plan.norms or (self.threat.norm,):

            def near(rows: Tensor, norm: float = norm) -> Rows:
                at = rows.to(self.x.device)
                x, y = self.x[at], self.y[at]
                options = {"norms": (norm,), "budget": self.plan.nearest_budget, "batch": self.batch}
                source = torch.Generator().manual_seed(self.seed)
                z = envelope(gradients.attacked, x, y, generator=source, **options)[norm]  # type: ignore[arg-type]
                own = norm == self.threat.norm
                everything = (self.threat if own else NORMS[float(norm)](1.0)).with_eps(math.inf)
                verdict = verify(self.subject.model, x, y, z, everything, draws=self.draws, batch=self.batch)
                return {"z": z, "distance": verdict.distance}

            name = f"nearest-l{'inf' if math.isinf(norm) else f'{norm:g}'}"
            found[norm] = self.run.map(name, near, k, model=self.counted)
        return found

    def eps(self) -> Tensor:
        """Every sample's, (n,), on the CPU."""
        return torch.as_tensor(self.threat.eps, dtype=self.x.dtype).expand(len(self.x)).cpu()

    def missed(self, work: Cascade, near: dict[float, Rows]) -> Finding:
        """D17: nearest points that lie inside the threat on samples that the attack had not fooled; they are kept."""
        own = near.get(self.threat.norm)
        k = min(len(self.x), self.plan.nearest_n)
        if not own:
            return finding("D17", False, "no nearest points in the threat's norm")
        eps = self.eps()[:k].to(self.x.device)
        inside = (own["distance"].to(eps) <= eps) & ~work.fooled[:k]
        rows = inside.nonzero()[:, 0]
        work.best[rows] = own["z"].to(self.x.device)[rows]
        work.fooled[rows] = True
        limit = max(YIELD, 1.5 / k)
        return finding(
            "D17", len(rows) / k > limit, f"the nearest-point attacks fooled {len(rows)} of {k} samples that the "
            "attack had not", "the attack goes on; these points count", len(rows) / k, limit,
        )  # fmt: skip

    def stages(self) -> Found:
        """Run every stage, or find it done."""
        run, n = self.run, len(self.x)
        clean = run.map("clean", self.clean, n, model=self.counted)
        right = clean["prediction"] == self.y.cpu()
        findings = self.probed()
        draws = EOT if self.subject.random else 1
        gradients = Gradients(self.counted, self.x, self.threat, findings, draws, self.seed)
        with frozen(self.counted):
            work = Cascade(
                self.counted, self.x, self.y, self.threat, self.seed, self.batch, gradients.attacked, draws, run=run,
                certify=self.plan.certify,
            )  # fmt: skip
            work.begin()
            if self.plan.whole is None:
                work.perform(self.plan.stages(self.threat))
            else:
                z = self.plan.whole(
                    gradients.averaged,
                    self.x,
                    self.y,
                    self.threat,
                    seed=self.seed,
                    log=work.log,
                    batch=self.batch,
                    run=run,
                )
                work.adopt(z)
            spent = sum(f + b for name, (f, b) in run.passes.items() if name.startswith(ATTACKS))
            alone = work.best.clone(), work.margin.clone(), work.fooled.clone()
            near = self.nearest(work, gradients)
            findings.append(self.missed(work, near))
            work.note("nearest points", len(next(iter(near.values()), {}).get("distance", ())), 0)
            findings += after(work, gradients, budget=max(spent // 10, self.plan.floor))
            if self.plan.whole is not None:  # its figure is its own; what others found only speaks against it
                work.best, work.margin, work.fooled = alone
            work.note("checks", 0, 0)
            again: list[Finding] = []
            may = self.plan.own and bool(of_kind(findings, "masking") or of_kind(findings, "extend"))
            if may:
                again = extend(work, gradients, findings, self.plan.effort.stages[1:])
        findings += self.replayed(work)
        attack = self.judge(work)
        findings += judged(work, attack["success"], attack["prediction"], attack["undefined"], right)
        explain = self.explanations(attack["x_adv"], gradients)
        reasons = self.reasons(right, gradients)
        own = near.get(self.threat.norm, {})
        nearest = own.get("distance", torch.full((min(n, self.plan.nearest_n),), torch.inf))
        found = Found(
            clean=clean,
            attack=attack,
            nearest={norm: rows["distance"] for norm, rows in near.items() if rows},
            distance=torch.minimum(nearest, attack["distance"][: len(nearest)]),
            explain=explain,
            reasons=reasons,
            right=right,
            radii=tuple(sorted(self.plan.radii)),
            random=self.subject.random,
        )
        found.verdict, found.because = conclude(findings, again, found.robust_share, extended=may)
        found.findings = merged([self.mode(), *findings, found.rounded()])
        found.progress = work.log
        found.aside = (work.aside[0] + gradients.spent[0], work.aside[1])
        return found

    def replayed(self, work: Cascade) -> list[Finding]:
        """D20 once more, at the points that the survivors ended at."""
        rows = work.survivors()
        if self.untouched is None or self.subject.random or not len(rows):
            return []
        passed = self.counted.forwards
        found = [replayed(self.untouched, self.counted, work.best[rows], self.y[rows])]
        work.aside = (work.aside[0] + self.counted.forwards - passed, work.aside[1])
        return found

    def mode(self) -> Finding:
        """D1: a model in training mode, or of another type, was refused before."""
        return finding("D1", False, f"in eval mode, {str(self.x.dtype).removeprefix('torch.')} on {self.x.device.type}")

    def explanations(self, x_adv: Tensor, gradients: Gradients) -> Rows:
        """Maps of the true label before and after, and how far they are apart; a twin's, where there is no gradient."""
        hidden = fired(gradients.findings, "D6", "D8")
        model: Model = gradients.twin if hidden else self.counted

        def explain(rows: Tensor) -> Rows:
            at = rows.to(self.x.device)
            return map_scores(model, self.x[at], self.y[at], x_adv[rows].to(self.x.device), self.plan.explain)

        return self.run.map("explain", explain, min(len(self.x), self.plan.explain_n), model=self.counted)

    def reasons(self, right: Tensor, gradients: Gradients) -> Attacked | None:
        """Attack the explanations of the first samples that are right, radius by radius; say why where that is moot."""
        plan, explain = self.plan, self.plan.reasons
        if explain is None:
            return None
        samples = right.nonzero()[:, 0][: plan.reasons_n]
        if self.subject.random:
            return Attacked(Way("", "the model is random: its reasons move from one call to the next"), samples)
        if not len(samples):
            return Attacked(Way(""), samples)
        if fired(gradients.findings, "D6", "D8") and takes_create_graph(explain):
            return Attacked(Way("", "the model has no gradients that could be explained (checks D6, D8)"), samples)
        at = samples.to(self.x.device)
        x, y, threat = self.x[at], self.y[at], self.threat.take(at)
        way = way_of(self.counted, x, y, explain)
        if not way.by:
            return Attacked(way, samples)
        radii = tuple(sorted(plan.reasons_radii))
        found, names = [], [f"reasons-{share:g}" for share in radii]
        for name, share in zip(names, radii, strict=True):

            def attack(rows: Tensor, share: float = share) -> Rows:
                rows = rows.to(x.device)
                return attack_reasons(
                    self.counted, x[rows], y[rows], shrunk(threat.take(rows), share), explain, way,
                    steps=plan.reasons_steps, restarts=plan.reasons_restarts, seed=self.seed,
                    batch=max(1, self.batch // 3), pictures=share == radii[-1],
                )  # fmt: skip

            found.append(self.run.map(name, attack, len(samples), model=self.counted))
        spent = [self.run.passes[name] for name in names]
        passes = sum(f for f, _ in spent), sum(b for _, b in spent)
        return Attacked(way, samples, radii, tuple(found), passes, plan.reasons_steps, plan.reasons_restarts)


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
        plan: effort or attack, explanation and sizes.
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
        The `Summary`, also written to `out/summary.json`. Cost with the default plan: at most about 440 passes a sample
        for the attack, 400 for the nearest points of the first 200, and for the diagnostics a tenth of the attack's, or
        20,000 in all if that is more; what they ask for comes on top. The attack on saliency maps takes some 1100
        passes for each of 32 samples: at each of 3 radii 20 steps, 65 random points and the judge.

    Raises:
        BadInput: inputs, labels, model or folder that cannot be used, in one sentence.
    """
    plan, about = plan or Plan(), dict(about or {})
    for name in ("nearest_n", "explain_n", "reasons_n", "reasons_steps", "reasons_restarts"):
        if getattr(plan, name) < 1:
            raise BadInput(f"the plan's {name} is {getattr(plan, name)}; it must be at least 1")
    if plan.reasons is not None and not (plan.reasons_radii and min(plan.reasons_radii) > 0):
        raise BadInput(f"the plan's reasons_radii are {plan.reasons_radii}; give at least one, all above 0")
    check_run(seed, batch)
    before_all = untouched(model)
    subject = get_to_know(model, x, y)
    check_threat(x, threat)
    if threat.norm == math.inf and bool(torch.isfinite(torch.as_tensor(threat.eps)).all()):
        widest, reach = float(torch.as_tensor(threat.eps).max()), threat.box.high - threat.box.low
        if widest > reach:
            raise BadInput(
                f"eps is {widest:g}, more than the inputs' range of {reach:g}, so anything would be allowed; write "
                f"{widest:g} / 255 for pixels out of 255, or math.inf"
            )
    threat = threat.bounded(x) if torch.as_tensor(threat.eps).isinf().any() else threat
    recorded = dict(options or {}) | {
        "attack": plan.name,
        "effort": plan.effort.name if plan.own else "",
        "stages": [told(stage) for stage in plan.stages(threat)] if plan.own else [],
        "certify": plan.certify is not None,
        "explanation": plan.explain_name,
        "radii": list(plan.radii),
        "norms": [str(norm) for norm in plan.norms or ()],
        "floor": plan.floor,
        "nearest_n": plan.nearest_n,
        "nearest_budget": plan.nearest_budget,
        "explain_n": plan.explain_n,
        "gallery": plan.gallery,
        "reasons": plan.reasons_name if plan.reasons is not None else "none",
    }
    if plan.reasons is not None:
        recorded |= {
            "reasons_n": plan.reasons_n,
            "reasons_radii": list(plan.reasons_radii),
            "reasons_steps": plan.reasons_steps,
            "reasons_restarts": plan.reasons_restarts,
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
    work = _Audit(subject, x, y, threat, plan, run, seed, batch or fitting_batch(subject.model, x), before_all)
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
