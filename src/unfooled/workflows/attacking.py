"""Attack a model and store the points in a file, each judged by `verify`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unfooled.attacks.ensembles.cascade import Effort, cascade
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import Threat
from unfooled.core.types import Model, Purify
from unfooled.core.unanswered import Unanswered, check_answered
from unfooled.evaluation.checks.subject import Subject, inspect_model
from unfooled.evaluation.verify import verify
from unfooled.runs.archives import read_archive, write_archive
from unfooled.runs.chunks import Progress, Rows, Run
from unfooled.runs.folder import discard, recomputed_note
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.opening import FilePlace, seen_by_helpers
from unfooled.runs.records import Config, Passes
from unfooled.runs.spelling import spelled
from unfooled.runs.store import Store, StoredFile
from unfooled.statistics.intervals import Estimate, mean_of_shares, share
from unfooled.workflows import catalog
from unfooled.workflows.attacks import BoundAttack, bind_attack, clip_to_threat, needs_clusters
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import Purifier, check_purifier, guarded_by, read_purifier
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import open_out_file
from unfooled.workflows.records import Partial
from unfooled.workflows.words import check_reach, choose, threat_of

DEFAULT_ATTACK = "apgd-margin"
CHUNK_SAMPLES = 100
JUDGE_DRAWS = 20  # evaluations of a random model per judged point; the majority decides
GRADIENT_DRAWS = 10  # evaluations of a random model averaged at every gradient of an ensemble
ONE_ATTACK = (
    "This is one attack on a model behind a purifier, which does not say what the purifier is worth; `unfooled audit` "
    "attacks it in every way that its robust accuracy needs."
)


class AttackRecord(Partial):
    """Result of an attack.

    Attributes:
        model: Name of the model.
        data: Name of the data.
        n: Number of samples.
        threat: Threat model.
        seed: Random seed.
        attack: Attack with its options, in words.
        clean_accuracy: Accuracy on the clean samples.
        robust_accuracy: Accuracy under the attack, an upper bound; points with NaN or infinite
            logits do not count as robust.
        undefined: Samples that are not fooled, but for which the attack reached a point with NaN or infinite logits.
        median_distance: Median distance of the nearest adversarial examples, 0 for samples that are misclassified
            unattacked; only for minimal-norm attacks. None: fewer than half have one.
        passes: Model passes of the attack per sample.
        warnings: Warnings, one sentence each.
        out: The file.
    """

    model: str
    data: str
    n: int
    threat: str
    seed: int
    attack: str
    clean_accuracy: Estimate
    robust_accuracy: Estimate
    undefined: int = 0
    median_distance: float | None = None
    passes: Passes
    warnings: list[str]
    out: str


def attack(
    inputs: Inputs,
    threat: str | Threat,
    *,
    attack: str | Callable[..., Tensor] | None = None,
    steps: int | None = None,
    restarts: int = 1,
    effort: str | None = None,
    purify: Purifier | None = None,
    out: FilePlace = "adversarial.npz",
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> AttackRecord:
    """Attack a model and write the points to a file.

    Args:
        inputs: Model and data.
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        attack: Name in `catalog.ATTACKS`, or a budget or minimal-norm attack with its options bound; None:
            "apgd-margin".
        steps: Gradients per restart, or queries; None: the attack's default.
        restarts: Random starts.
        effort: Name in `catalog.EFFORTS` of an ensemble to run instead of one attack.
        purify: Purifier in front of the model, attacked with it: the folder of a saved one, "file.py:name", or a
            function x -> x. None: none.
        out: The .npz file, path or URL: x (the points), y, clean_x, success, distance, and for a minimal-norm attack
            nearest_x and nearest_distance. Finished chunks are stored in a folder beside it until all are done.
        seed: Random seed.
        machine: The device, samples computed at once, and the processes that share the work.
        progress: Called as `(stage, samples done, samples in all)`.

    Returns:
        An `AttackRecord`. Cost: the attack's, and 4 forward passes per sample to judge the points.

    Raises:
        BadInput: options, model or data that cannot be used, or a file that holds something else.
    """
    device = machine.prepare(seed, shares=True)
    task = AttackTask.of(inputs, threat, attack, steps, restarts, effort, purify, seed, machine.alone(device))
    file, helpers = open_out_file(out, ".npz"), Helpers(machine.helpers())
    parts = seen_by_helpers(file.parts, helped=helpers.count > 0)
    work, settings = task.loaded()
    read_archive(file, settings, kind="attack")  # refuses a file of another content
    bound = task.choice.bound(task.threat, work.batch)
    chunk = helpers.chunk(CHUNK_SAMPLES, len(work.loaded.x))
    run = Run(parts, work.config(settings), chunk=chunk, progress=progress, start=helpers.start)
    with helpers.on(partial(_help, task, parts, chunk, helpers.watch)):
        points = bound(work, run)
    record = work.judged(points, bound.label, run, settings, file, notes=helpers.notes)
    discard(parts)
    return record


@dataclass(frozen=True)
class AttackTask:
    """What is attacked and how, by names, so that helpers can load it."""

    inputs: Inputs
    threat: Threat
    threat_name: str
    choice: _AttackChoice
    purify: Purifier | None
    seed: int
    machine: Machine

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        threat: str | Threat,
        attack: str | Callable[..., Tensor] | None,
        steps: int | None,
        restarts: int,
        effort: str | None,
        purify: Purifier | None,
        seed: int,
        machine: Machine,
    ) -> AttackTask:
        """Check the options of `attack` before anything is loaded.

        Raises:
            BadInput: Options that do not exist or do not go together.
        """
        allowed = threat_of(threat)
        if purify is not None:
            check_purifier(purify)
        behind = read_purifier(purify) if purify is not None and needs_clusters(attack) else None
        choice = _AttackChoice(attack, steps, restarts, effort, behind)
        choice.bound(allowed)
        inputs.check()
        return cls(inputs, allowed, str(threat), choice, purify, seed, machine)

    def loaded(self) -> tuple[_Work, dict[str, Any]]:
        """Load model and data; return them with the settings that the file states."""
        inputs, purify = self.inputs, self.purify
        device = self.machine.prepare(self.seed)
        loaded = inputs.load(device, seed=self.seed)
        check_reach(self.threat, loaded.x)
        settings = {
            "model": inputs.model_name, "data": inputs.data_name, "n": len(loaded.x), "threat": self.threat_name,
            **self.choice.options, "seed": self.seed, **{k: v for k, v in inputs.options.items() if v is not None},
        }  # fmt: skip
        attacked: Model = loaded.model
        if purify is not None:
            attacked = guarded_by(loaded.model, self.choice.purify or purify, loaded.x, device)
            settings["purify"] = spelled(purify) if callable(purify) else str(purify)
        subject = inspect_model(attacked, loaded.x, loaded.y)
        settings["fingerprint"] = dict(subject.fingerprint)
        batch = self.machine.batch or fitting_batch(subject.model, loaded.x)
        return _Work(loaded, subject, self.threat, self.seed, batch, self.choice.stages), settings


def _help(task: AttackTask, parts: Store, chunk: int, watch: Watch) -> None:
    """Help with an attack in another process: compute chunks, and write no result."""
    work, settings = task.loaded()
    run = Run(parts, work.config(settings), chunk=chunk, progress=watch, start=watch.start)
    task.choice.bound(task.threat, work.batch)(work, run)


@dataclass(frozen=True)
class _AttackChoice:
    """One attack with its options, or an ensemble."""

    attack: str | Callable[..., Tensor] | None
    steps: int | None
    restarts: int
    effort: str | None
    purify: Purify | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Return the options to record in the file."""
        if self.effort is not None:
            return {"effort": self.effort}
        name = self.attack or DEFAULT_ATTACK
        return {
            "attack": name if isinstance(name, str) else spelled(name),
            "steps": self.steps,
            "restarts": self.restarts,
        }

    @property
    def stages(self) -> dict[str, str]:
        """Return the stages of a cascade by name, in words: chunks of another sequence are not continued."""
        row = None if self.effort is None else catalog.EFFORTS.get(self.effort)
        ensemble = None if row is None else catalog.resolve(row.path)
        return {"stages": spelled(ensemble)} if isinstance(ensemble, Effort) else {}

    def bound(self, threat: Threat, batch: int | None = None) -> _SingleAttack | _EnsembleAttack:
        """Bind the options to the attack or ensemble.

        Raises:
            BadOption: options that do not exist or do not go together.
        """
        if self.effort is None:
            attack = self.attack or DEFAULT_ATTACK
            options: dict[str, Any] = {"steps": self.steps, "restarts": self.restarts, "purify": self.purify}
            return _SingleAttack(bind_attack(attack, threat, batch=batch, **options))
        restarts = None if self.restarts == 1 else self.restarts
        for option, value in {"attack": self.attack, "steps": self.steps, "restarts": restarts}.items():
            if value is not None:
                sentence = "{effort:{0}} runs an ensemble, {" + option + ":{1}} asks for one attack; give one of them"
                raise BadOption(sentence, self.effort, value)
        row: catalog.Effort = choose(catalog.EFFORTS, self.effort, "effort")
        ensemble = catalog.resolve(row.path)
        if isinstance(ensemble, Effort):
            return _EnsembleAttack(partial(cascade, effort=ensemble), f"cascade, {ensemble.name}")
        return _EnsembleAttack(ensemble, row.label)


@dataclass(frozen=True, eq=False)
class _Work:
    """Samples and model under attack."""

    loaded: Loaded
    subject: Subject
    threat: Threat
    seed: int
    batch: int
    stages: dict[str, str] = field(default_factory=dict)

    def config(self, settings: dict[str, Any]) -> Config:
        """Return the settings stored with the chunks, which must agree to resume: those of the file, and the stages."""
        settings = settings | self.stages
        known = {name: settings[name] for name in ("model", "data", "n", "threat", "seed", "fingerprint")}
        return Config(**known, options={k: v for k, v in settings.items() if k not in known})

    def judged(
        self, points: dict[str, Tensor], label: str, run: Run, settings: dict[str, Any], out: StoredFile, *,
        notes: Sequence[str] = (),
    ) -> AttackRecord:  # fmt: skip
        """Judge the points, write the file, and return the record."""
        x, y = self.loaded.x, self.loaded.y
        judge = partial(verify, self.subject.model, x, y, draws=JUDGE_DRAWS if self.subject.random else 1)
        verdict, clean = judge(points["x"], self.threat), judge(x, self.threat)
        check_answered(torch.zeros(len(x), 1, device=x.device).masked_fill(clean.undefined[:, None], math.nan))
        undefined = verdict.undefined & ~verdict.success
        arrays = {"x": points["x"], "y": y, "clean_x": x, "success": verdict.success, "distance": verdict.distance}
        if bool(undefined.any()):
            arrays["undefined"] = undefined
        more: dict[str, Any] = {}
        if "nearest" in points:
            distance = judge(points["nearest"], self.threat.with_eps(math.inf)).distance
            arrays |= {"nearest_x": points["nearest"], "nearest_distance": distance}
            more["median_distance"] = _median(distance)
        write_archive(out, {k: v.cpu().numpy() for k, v in arrays.items()}, settings)
        forward, backward = (sum(spent[k] for spent in run.passes.values()) / len(x) for k in (0, 1))
        refused = _refused(int(undefined.sum()))
        recomputed = recomputed_note(run.folder.damaged)
        notes = [*self.loaded.warnings, *self.subject.warnings, *notes, *recomputed, *refused]
        notes += [ONE_ATTACK] if self.subject.guarded else []
        return AttackRecord(
            **{k: settings[k] for k in ("model", "data", "n", "threat", "seed")},
            attack=label,
            clean_accuracy=self._accuracy(clean.right_share, ~clean.success),
            robust_accuracy=self._accuracy(verdict.right_share, ~(verdict.success | undefined)),
            undefined=int(undefined.sum()),
            **more,
            passes=Passes(forward=forward, backward=backward),
            warnings=list(dict.fromkeys(notes)),
            out=str(out),
        )

    def _accuracy(self, right_share: Tensor, right: Tensor) -> Estimate:
        """Return an accuracy: for a random model the mean share of a sample's draws that are right."""
        return mean_of_shares(right_share) if self.subject.random else share(right.cpu())


@dataclass(frozen=True)
class _SingleAttack:
    """One attack, chunk by chunk."""

    attack: BoundAttack

    @property
    def label(self) -> str:
        return self.attack.label

    def __call__(self, work: _Work, run: Run) -> dict[str, Tensor]:
        """Return the points, and for a minimal-norm attack the nearest adversarial examples."""
        model = Counted(work.subject.model)
        x, y = work.loaded.x, work.loaded.y

        def propose(rows: Tensor) -> Rows:
            at = rows.to(x.device)
            threat, source = work.threat.take(at), torch.Generator().manual_seed(work.seed)
            observer, points = Unanswered(x[at], threat), {}
            with model.watched(observer):
                if self.attack.nearest is None:
                    points["x"] = self.attack.propose(model, x[at], y[at], threat, generator=source)
                else:
                    nearest = self.attack.nearest(model, x[at], y[at], threat.norm, generator=source)
                    points = {"x": clip_to_threat(nearest, x[at], threat), "nearest": nearest}
            if bool(observer.seen.any()):
                success = verify(work.subject.model, x[at], y[at], points["x"], threat, batch=work.batch).success
                points["x"], _ = observer.substitute(points["x"], success)
            return points

        stored = run.map("attack", propose, len(x), model=model)
        return {name: value.to(x.device) for name, value in stored.items()}


@dataclass(frozen=True)
class _EnsembleAttack:
    """An ensemble on all samples, which divides its work into stages and chunks itself."""

    attack: Callable[..., Tensor]
    label: str

    def __call__(self, work: _Work, run: Run) -> dict[str, Tensor]:
        """Return the points."""
        x, y, model = work.loaded.x, work.loaded.y, work.subject.model
        options: dict[str, Any] = {"seed": work.seed, "batch": work.batch, "run": run}
        if work.subject.random and "draws" in catalog.takes(self.attack):
            options["draws"] = GRADIENT_DRAWS
        return {"x": self.attack(model, x, y, work.threat, **options)}


def _refused(count: int) -> list[str]:
    """Return the warning about points with NaN or infinite logits, if there are any."""
    if not count:
        return []
    return [f"The attack reached points without a finite answer on {count} samples, which are neither right nor wrong."]


def _median(distance: Tensor) -> float | None:
    """Return the median, None where it is infinite."""
    ordered = distance.double().cpu().sort().values
    middle = float(ordered[(len(ordered) - 1) // 2]) if len(ordered) else math.inf
    return middle if math.isfinite(middle) else None
