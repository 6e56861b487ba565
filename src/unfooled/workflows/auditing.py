"""Audit a model from names and files: `unfooled.audit`, and the run's page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.attacks.ensembles.cascade import Effort
from unfooled.core.memory import memory_limit
from unfooled.core.model.batching import fitting_batch
from unfooled.core.threats import Threat
from unfooled.core.types import Explain, Model, Purify
from unfooled.evaluation.audit import audit as audit_
from unfooled.evaluation.audit.audit import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.purification.guard import Guarded
from unfooled.report import render_beside
from unfooled.runs.chunks import Progress
from unfooled.runs.claims import DRIVER, Claims
from unfooled.runs.executors import dismissed_on_error
from unfooled.runs.helpers import Helpers
from unfooled.runs.opening import Place
from unfooled.runs.spelling import spelled
from unfooled.runs.store import Store
from unfooled.workflows import catalog
from unfooled.workflows.attacks import bind_attack, needs_clusters
from unfooled.workflows.backgrounds import with_background
from unfooled.workflows.certifying import smoothing_of
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import Purifier, check_purifier, guarded_by, read_purifier
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import open_out
from unfooled.workflows.words import at_least, check_reach, choose, seconds_of, threat_of

ENVELOPE_PASSES = 1000  # passes per sample and norm for the nearest adversarial examples in every norm


@dataclass(frozen=True)
class AuditOptions:
    """Choices of an audit, by name.

    Args:
        effort: Name in `catalog.EFFORTS`, or a cascade's `Effort`.
        envelope: Look for the nearest adversarial examples in every norm.
        attack: Name in `catalog.ATTACKS`, or an attack with its options bound, to run instead of the cascade.
        steps: That attack's gradients per restart, or queries; None: its default.
        restarts: That attack's random starts.
        explain: Name in `catalog.EXPLANATIONS`, or an `Explain`.
        reasons: Name in `catalog.REASONS`, or an `Explain`: the explanation that is attacked, label kept.
        reasons_n: Samples whose explanation is attacked at most.
        certify: Effort of the proofs, "quick", "normal" or "thorough", or "off"; "smoothing:0.25" for the smoothed
            classifier, whose figures stand beside the verdict, see `Smoothing`.
        purify: Purifier in front of the model: the folder of a saved one, "file.py:name", or a function x -> x; see
            `uf.purification.guard`. None: none.
        budget: Time after which the audit goes no further, such as "60s", or a number of seconds; see `Plan`. None: no
            limit.
        torch_compile: Compile the copy of the network that the cascade asks; see `Plan`.
    """

    effort: str | Effort = "normal"
    envelope: bool = False
    attack: str | Callable[..., Tensor] | None = None
    steps: int | None = None
    restarts: int = 1
    explain: str | Explain = "integrated-gradients"
    reasons: str | Explain = "saliency"
    reasons_n: int = 32
    purify: Purifier | None = None
    budget: str | float | None = None
    certify: str = "quick"
    torch_compile: bool = False

    @property
    def single(self) -> dict[str, Any]:
        """The options that ask for one attack instead of the cascade."""
        given = {"attack": self.attack, "steps": self.steps, "restarts": None if self.restarts == 1 else self.restarts}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def _whole(self) -> bool:
        """True for an attack on all samples with stages of its own, in place of the cascade."""
        return isinstance(self.effort, str) and bool(catalog.EFFORTS[self.effort].label)

    def check(self, threat: Threat) -> None:
        """Refuse options that do not exist or do not go together, before anything is loaded."""
        self._explanation("explain", catalog.EXPLANATIONS, "explanation")
        self._explanation("reasons", catalog.REASONS, "explanation to attack")
        if self.reasons_n < 1:
            raise BadOption(
                "{reasons_n} is {0}; it must be at least 1, or leave the attack out: {reasons:none}", self.reasons_n
            )
        if self.purify is not None:
            check_purifier(self.purify)
        if self.budget is not None:
            seconds_of(self.budget, "budget")
        if smoothing_of("certify", self.certify, threat) is None:
            choose(catalog.PROOFS, self.certify, "effort of the proofs")
        if isinstance(self.effort, str):
            choose(catalog.EFFORTS, self.effort, "effort")
        if self.torch_compile and (self.single or self._whole):
            raise BadOption("{torch_compile} belongs to the cascade; leave it out beside another attack")
        if not self.single:
            return
        if self.effort != AuditOptions.effort:
            option, value = next(iter(self.single.items()))
            raise BadOption(
                "{effort:{0}} belongs to the cascade, {" + option + ":{1}} asks for one attack; give one of them",
                self.effort, value,
            )  # fmt: skip
        attack = self._attack(threat)
        purify = read_purifier(self.purify) if self.purify is not None and needs_clusters(attack) else None
        bind_attack(attack, threat, steps=self.steps, restarts=self.restarts, purify=purify)

    def plan(
        self, threat: Threat, batch: int | None = None, background: Any = None, purify: Purify | None = None
    ) -> Plan:
        """Build the plan of the audit.

        Args:
            threat: Threat model.
            batch: Samples that a single attack computes at once; None: all.
            background: Samples of the data, for explanations that take some. None: their own.
            purify: The purifier that the model is behind, as it was read. None: none.
        """
        row = catalog.EFFORTS[self.effort] if isinstance(self.effort, str) else catalog.Effort("")
        explain, explain_name = self._explanation("explain", catalog.EXPLANATIONS, "explanation")
        reasons, reasons_name = self._explanation("reasons", catalog.REASONS, "explanation to attack")
        if background is not None:
            explain, reasons = with_background(explain, background), with_background(reasons, background)
        return Plan(
            **row.plan,
            **self._attacked(threat, row, batch, purify),
            nearest_budget=ENVELOPE_PASSES if self.envelope else row.nearest,
            norms=catalog.EVERY_NORM if self.envelope else None,
            explain=explain,
            explain_name=explain_name,
            reasons=reasons,
            reasons_name=reasons_name,
            reasons_n=self.reasons_n,
            certify=None if self.certify == "off" else smoothing_of("certify", self.certify, threat) or self.certify,
            budget=None if self.budget is None else seconds_of(self.budget, "budget"),
            torch_compile=self.torch_compile,
        )

    def _attacked(
        self, threat: Threat, row: catalog.Effort, batch: int | None, purify: Purify | None
    ) -> dict[str, Any]:
        """Build the part of the plan that attacks the label."""
        if self.single:
            bound = bind_attack(
                self._attack(threat), threat, steps=self.steps, restarts=self.restarts, batch=batch, purify=purify
            )  # fmt: skip
            return {"attack": bound.propose, "attack_name": bound.label}
        effort = self.effort if isinstance(self.effort, Effort) else catalog.resolve(row.path)
        return {"effort": effort} if isinstance(effort, Effort) else {"whole": effort, "attack_name": row.label}

    def _attack(self, threat: Threat) -> str | Callable[..., Tensor]:
        """Return the single attack; where only its options are given, one that suits the norm."""
        return self.attack or ("apgd-ce" if threat.norm >= 2 else "pgd-margin")

    def _explanation(self, option: str, table: dict[str, Any], kind: str) -> tuple[Any, str]:
        """Return an explanation and its name for the report; None for none."""
        value = getattr(self, option)
        if not isinstance(value, str):
            return value, spelled(value)
        row = choose(table, value, kind)
        return None if row is None else catalog.resolve(row.path), value.replace("-", " ")


def audit(
    inputs: Inputs,
    threat: str | Threat,
    *,
    options: AuditOptions | Plan = AuditOptions(),
    out: Place | None = None,
    title: str | None = None,
    chunk: int = 100,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    command: str = "",
    notify: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Audit a model: clean and robust accuracy, whether the figure can be believed, and whether its reasons survive.

    Args:
        inputs: Model and data.
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        options: Choices by name, or a whole `Plan`.
        out: Run folder, or URL such as "s3://bucket/run"; a second start with the same options continues it, or helps
            one that is at work. Its page is `report.html` in it. `places.open_out` opens a URL with options.
        title: Title of the run in the report. None: the model's name.
        chunk: Samples per file of the run folder.
        seed: Random seed.
        machine: The device, samples computed at once, and the processes that share the work; these load model and data
            from the same names.
        command: Command line that reproduces the run, for the record.
        notify: Callback for progress messages, one sentence each.
        progress: Called as `(stage, samples done, samples in all)`.

    Returns:
        The `Summary`. Cost: see `unfooled.audit`.

    Raises:
        BadInput: options, model, data or folder that cannot be used.
    """
    allowed = threat_of(threat)
    if isinstance(options, AuditOptions):
        options.check(allowed)
    inputs.check()
    at_least("chunk", chunk, 1)
    store = open_out(out)
    device = machine.prepare(seed, shares=True)
    helpers = machine.helpers()
    with memory_limit(machine.memory), dismissed_on_error(helpers):
        return _audited(
            inputs, allowed, options, machine.alone(device),
            out=store, title=title, chunk=chunk, seed=seed, command=command, notify=notify, progress=progress,
            executor=helpers,
        )  # fmt: skip


def _attacked(inputs: Inputs, purify: Purifier | None, device: str, seed: int) -> tuple[Model, Loaded]:
    """Load model and data; the model behind its purifier, if there is one."""
    loaded = inputs.load(device, seed=seed, stream=True)
    return (loaded.model if purify is None else guarded_by(loaded.model, purify, loaded.x, device)), loaded


def _loaded(inputs: Inputs, purify: Purifier | None, machine: Machine, seed: int) -> tuple[Model, Tensor, Tensor]:
    """Load what a helping process audits."""
    attacked, loaded = _attacked(inputs, purify, machine.prepare(seed), seed)
    return attacked, loaded.x, loaded.y


@dataclass(frozen=True, eq=False)
class PreparedAudit:
    """Model and data of an audit, loaded, with its plan.

    Attributes:
        model: Model, behind its purifier if there is one.
        loaded: Model and data as they were read.
        plan: Plan of the audit.
        batch: Samples computed at once. None: as many as fit well in memory.
        known: Other options that the record states.
    """

    model: Model
    loaded: Loaded
    plan: Plan
    batch: int | None
    known: dict[str, Any]

    @classmethod
    def of(
        cls, inputs: Inputs, allowed: Threat, options: AuditOptions | Plan, machine: Machine, seed: int, *,
        notify: Callable[[str], None] | None = None,
    ) -> PreparedAudit:  # fmt: skip
        """Load model and data, and make the plan."""
        purify = options.purify if isinstance(options, AuditOptions) else None
        attacked, loaded = _attacked(inputs, purify, machine.device, seed)
        batch, known = machine.batch, inputs.options
        check_reach(allowed, loaded.x)
        if notify is not None:
            notify(f"classes, in order: {class_list(loaded.classes)}")
        if isinstance(options, Plan):
            return cls(attacked, loaded, options, batch, known)
        if purify is not None:
            known = known | {"purify": spelled(purify) if callable(purify) else str(purify)}
        if options.single:  # the attack and the audit share one size, found once
            batch = batch or fitting_batch(attacked, loaded.x)
        behind = attacked.purify if isinstance(attacked, Guarded) else None
        plan = options.plan(allowed, batch, background=loaded.x, purify=behind)
        return cls(attacked, loaded, plan, batch, known)


def _audited(
    inputs: Inputs,
    allowed: Threat,
    options: AuditOptions | Plan,
    machine: Machine,
    *,
    out: Store | None,
    title: str | None,
    chunk: int,
    seed: int,
    command: str,
    notify: Callable[[str], None] | None,
    progress: Progress | None,
    executor: Executor | None,
) -> Summary:
    """Load model and data, audit, and write the page."""
    one = PreparedAudit.of(inputs, allowed, options, machine, seed, notify=notify)
    loaded, model = one.loaded, inputs.model_name
    if notify is not None and (driver := Claims(out).holder(DRIVER)) is not None:
        notify(f"process {driver.pid} on {driver.machine} is at work on this run; this one helps")
    purify = options.purify if isinstance(options, AuditOptions) else None
    summary = audit_(
        one.model, loaded.x, loaded.y, allowed,
        plan=one.plan, out=out, seed=seed, classes=loaded.classes, chunk=chunk, batch=one.batch, progress=progress,
        executor=Helpers(executor, partial(_loaded, inputs, purify, machine, seed)),
        about={
            "options": one.known, "warnings": loaded.warnings,
            "model": model, "data": inputs.data_name, "command": command,
            "title": title or (model if ":" in model else Path(model).stem),
        },
    )  # fmt: skip
    if out is not None:
        render_beside(out)
    return summary


def class_list(classes: list[str]) -> str:
    """Write all names, or the first and last of many."""
    return ", ".join(classes if len(classes) <= 20 else [*classes[:10], "...", *classes[-3:]])
