"""Audit of a classifier: clean and robust accuracy, explanations under attack, and a verdict on the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from unfooled.attacks.ensembles.keys import Ledger
from unfooled.certification.smoothed import Smoothing
from unfooled.core.ascent.nearest import moving_only
from unfooled.core.checks import check_run, check_threat, trusted
from unfooled.core.errors import BadInput, OneOutput
from unfooled.core.given import Array, as_samples, in_precision_of
from unfooled.core.goals import predicted, refuse_one_hot
from unfooled.core.memory import limit
from unfooled.core.model.batching import fitting_batch
from unfooled.core.model.calls import notes_on, notice, noticing
from unfooled.core.model.classifier import Classifier
from unfooled.core.model.two_class import are_probabilities, multi_label, two_class
from unfooled.core.model.wrappers import Counted
from unfooled.core.pulse import time_limit
from unfooled.core.samples import Streamed, streamed
from unfooled.core.threats import Threat
from unfooled.core.types import Model
from unfooled.data.torch_sets import from_torch
from unfooled.evaluation.audit.efficiency import over_workers
from unfooled.evaluation.audit.places import leading, open_run, run_place
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.possible import check_class_names
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.stages import perform
from unfooled.evaluation.audit.storing import store_results
from unfooled.evaluation.audit.summary import About, AuditContext, summarise_audit
from unfooled.evaluation.audit.values import PREDICTED, Outcome, Setting
from unfooled.evaluation.checks.memory import OriginalModel
from unfooled.evaluation.checks.subject import Subject, inspect_model
from unfooled.models.black_boxes import as_model, function_on_arrays
from unfooled.purification.guard import guard, guarded_in
from unfooled.purification.semantic import SemanticPurifier
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.folder import recomputed_note
from unfooled.runs.hashes import code_hashes
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.opening import Place
from unfooled.runs.records import Config
from unfooled.runs.store import Store

CHUNK_IN_TIME = 25
"""Largest number of samples per file where there is a time limit: of a stage that is cut off, finished files count.
Also where processes share the work, which they do file by file. Where there are no more, stages are divided evenly."""


def audit(
    model: Model,
    x: Tensor | Array | Sequence[Any] | Dataset[Any] | DataLoader[Any],
    y: Tensor | Array | Sequence[int] | int | Threat | None = None,
    threat: Threat | None = None,
    *,
    plan: Plan | None = None,
    out: Place | None = None,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    about: About | Mapping[str, Any] | None = None,
    chunk: int = 100,
    batch: int | None = None,
    progress: Progress | None = None,
    executor: Executor | Helpers | None = None,
) -> Summary:
    """Audit a classifier: clean and robust accuracy, the curve over radii, and whether its explanations survive.

    Args:
        model: Any callable to logits, (B, *D) -> (B, K); a fitted classifier of scikit-learn, or a function from
            arrays to scores or labels, is audited as a `BlackBox`, without gradients.
        x: Inputs in the unit box, (B, *D): a tensor or a NumPy array, Pillow images, or a torch `Dataset` or
            `DataLoader` of (input, label). Large data sets are read in parts, and memory does not grow with their
            number; see `memory_limit`.
        y: Labels, (B,) int64, an array or a list; one whole number goes with one sample without a batch; several labels
            per sample, (B, L) of 0 and 1, of which any may change, see `multi_label`. None: those of the data set, or
            the predicted classes, which the warnings say; the threat may stand here then.
        threat: Constraint set.
        plan: Effort or attack, explanations and sizes. None: the defaults of `Plan`.
        out: Run folder, or URL such as "s3://bucket/run", or an open store (`unfooled.runs.opening.open_store`); a
            second start with the same arguments continues what a first one left, or helps it. None: nothing is written.
        seed: Random seed.
        classes: Class names, in the order of the logits; names of the labels where there are several. None: their
            numbers.
        about: Names for the report and other facts about the run, an `About` or a mapping with its fields: model,
            data, title, command, options, warnings. None: nothing.
        chunk: Samples per file; verdicts do not depend on it.
        batch: Samples computed at once. None: as many as fit well in memory.
        progress: Called with (stage, samples done, samples in all).
        executor: Workers that help, of this machine or of a cluster, which must see the folder `out`: an executor, to
            which model and samples travel, or `Helpers`, which load them. None: this process works alone.

    Returns:
        The `Summary`, also written to `out/summary.json`. Cost with the default plan: at most 440 passes per sample
        for the attack, 400 for the nearest points of the first 200 (some 85 from the attack's points), and for the
        checks a tenth of the attack's, or 20,000 in all if that is more; attacks that the checks ask for come on top.
        The attack on saliency maps takes about 550 passes for each of at most 32 samples, and after the first 8 at most
        a quarter of all passes. Of a model behind a purifier (`purification.guard`), the bare model is attacked by the
        same cascade, and the purifier in up to six more ways, 40 steps each, and 1,000 queries for each of 200 samples.

    Raises:
        BadInput: Inputs, labels, model or folder that cannot be used, in one sentence.
    """
    plan, about = plan or Plan(), About.of(about)
    check_run(seed, batch)
    helpers = executor if isinstance(executor, Helpers) else Helpers(executor, partial(_same, model, x, y))
    given = open_run(out, shared=helpers.count > 0)
    work = Work.of(model, x, y, threat, plan, about, seed)
    names = work.names(classes)
    batch = batch or fitting_batch(work.subject.model, work.x)
    even = helpers.count > 0 and chunk > CHUNK_IN_TIME  # processes share small stages, too; else parts are as asked
    chunk = fitting_chunk(chunk, work.x, plan.budget, shared=helpers.count > 0)
    with run_place(given, work.config, needed=helpers.count > 0 or isinstance(work.x, Streamed)) as place:
        job = partial(
            _assist, helpers.source, work.threat, plan, about, seed, place, chunk, batch, helpers.watch,
            code=code_hashes(work.subject.given), even=even,
        )  # fmt: skip
        ledger = Ledger(Run(place, work.config, chunk=chunk, progress=progress, start=helpers.start, even=even))
        with leading(given, ledger.run.folder.claims) as settle:
            with helpers.on(job):
                outcome = work.perform(plan, seed, batch, ledger)
            ledger.run.failures.clear()
            outcome = replace(outcome, efficiency=over_workers(outcome.efficiency, ledger, helpers.count + 1))
            context = AuditContext(
                outcome.shown.cpu(), work.y.cpu(), work.threat, plan, work.config, names, about, str(work.x.device)
            )
            late = [*work.changed_code(), *notes_on(work.subject.given, beyond=work.subject.warnings)]
            found = [*helpers.notes, *recomputed_note(ledger.run.folder.damaged), *late]
            summary = summarise_audit(outcome, context, ledger, [*work.notes, *work.subject.warnings, *found])
            return settle(summary, partial(store_results, given, outcome, context))


@dataclass(frozen=True, eq=False)
class Work:
    """Subject of an audit: the model as the checks see it, the samples, the threat, and the record of the settings.

    `sets` are the sets of labels that are classes, where a sample has several labels.
    """

    original: OriginalModel
    subject: Subject
    x: Tensor
    y: Tensor
    threat: Threat
    config: Config
    notes: tuple[str, ...]
    sets: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, x: Any, y: Any, threat: Threat | None, plan: Plan, about: About, seed: int) -> Work:
        """Check and inspect what is audited.

        Raises:
            BadInput: Inputs, labels or a model that cannot be used.
        """
        model, sets = as_model(model), list[str]()
        x, y, threat, notes = _samples(model, x, y, threat, seed)
        if isinstance(y, Tensor) and y.ndim == 2:
            with noticing() as said:  # it is reminded of when the model is inspected
                outer = _without_clusters(model)
                kind = are_probabilities(model, x, y)
                inner, places, sets = multi_label(_unguarded(outer), y, probabilities=kind)
                several = _guarded_as(outer, inner, said)
                refuse_one_hot(model, x, y, several, places)
            model, y = several, places
        model, original, subject = _inspected(model, x, y)
        threat = _within_reach(threat, x)
        threat = threat if subject.free is None else replace(threat, free=subject.free)
        if not subject.readable:  # an explanation that needs hooks fails here rather than after the attack
            for part in (p for p in (plan.explaining, plan.explanation_attack) if p is not None):
                part.explain(subject.model, x[:1], y[:1])
        if isinstance(plan.label_attack.certify, Smoothing):
            plan.label_attack.certify.check(threat, tuple(x.shape[1:]))
            plan.label_attack.certify.check_model(subject.model, x, threat)
        config = Config(
            model=about.model or getattr(model, "name", "") or type(model).__name__, data=about.data, n=len(x),
            threat=str(threat), seed=seed, options=dict(about.options) | plan.record(),
            fingerprint=dict(subject.fingerprint),
        )  # fmt: skip
        return cls(original, subject, x, y, threat, config, notes, tuple(sets))

    def names(self, classes: Sequence[str] | None) -> list[str]:
        """Return the names of the classes."""
        if self.sets and classes:  # those of the labels
            count = 1 + max(int(k) for text in self.sets for k in text.split("+") if k.isdigit())
            if len(classes) != count:
                raise BadInput(f"there are {len(classes)} names for {count} labels")
            return ["+".join(classes[int(k)] if k.isdigit() else k for k in text.split("+")) for text in self.sets]
        try:
            check_class_names(classes or ())
        except ValueError as error:
            raise BadInput(f"{error}; give each class its own") from error
        return list(classes or self.sets) or [str(k) for k in range(self.subject.classes)]

    def changed_code(self) -> list[str]:
        """Return a sentence on code that the model imported or files that it read only during the audit."""
        before = self.config.fingerprint
        names = [name.split(": ")[1] for name in code_hashes(self.subject.given) if name not in before]
        if not names:
            return []
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return [
            f"The model's code used further files during the audit, which its fingerprint misses: {shown}. After a "
            "change of these, take another folder."
        ]

    def perform(self, plan: Plan, seed: int, batch: int, ledger: Ledger) -> Outcome:
        """Run every stage; all arguments have been checked."""
        setting = Setting(
            self.subject, Counted(self.subject.model), self.original, self.x, self.y, self.threat, seed, batch, ledger
        )
        with time_limit(plan.budget), trusted(), moving_only(self.threat.free):
            return perform(setting, plan)


def _same(model: Model, x: Any, y: Any) -> tuple[Model, Any, Any]:
    return model, x, y


def _assist(
    given: Callable[[], tuple[Model, Any, Any]] | None,
    threat: Threat,
    plan: Plan,
    about: About,
    seed: int,
    place: Store | None,
    chunk: int,
    batch: int,
    watch: Watch,
    *,
    code: Mapping[str, str],
    even: bool,
) -> None:
    """Help with an audit in another process: run its stages in its store, and write no result.

    A model that came here as an object has no files of its own; `code` are those of the process that was started.
    """
    assert given is not None
    model, x, y = given()
    x, y, threat = (x, threat, None) if y is None else (x, y, threat)  # type: ignore[assignment]
    work = Work.of(model, x, y, threat, plan, about, seed)
    prints = dict(work.config.fingerprint) | (code_hashes(work.subject.given) or dict(code))
    config = work.config.model_copy(update={"fingerprint": prints})
    run = Run(place, config, chunk=chunk, progress=watch, start=watch.start, even=even)
    work.perform(plan, seed, batch, Ledger(run))


def _inspected(model: Model, x: Tensor, y: Tensor) -> tuple[Model, OriginalModel, Subject]:
    """Return the model as it will be judged, a record of it before its first query, and what was seen of it.

    A model of one output is read as one of two classes; a function that fails with tensors, or returns none, is tried
    with arrays.
    """
    original = OriginalModel.of(model)
    try:
        return model, original, inspect_model(model, x, y)
    except OneOutput:
        with noticing() as said:  # it is reminded of when the model is inspected
            kind = are_probabilities(model, x, y)
            two = _guarded_as(model, two_class(_unguarded(model), x, y, probabilities=kind), said)
        return two, OriginalModel.of(two), inspect_model(two, x, y)
    except BadInput:
        box = function_on_arrays(model, x, y)
        if box is None:
            raise
        return box, OriginalModel.of(box), inspect_model(box, x, y)


def _unguarded(model: Model) -> Model:
    """Return a model without the purifier in front of it."""
    guarded = guarded_in(model)
    return model if guarded is None else guarded.model


def _without_clusters(model: Model) -> Model:
    """Return a model as it is; one behind a semantic purifier as a function, in which its purifier is not seen.

    Clusters of a purifier are of classes, which sets of labels are not: the attack on the assignment cannot be made.
    """
    guarded = guarded_in(model)
    if guarded is None or not isinstance(guarded.purify, SemanticPurifier):
        return model
    return nn.Sequential(guarded).eval()


def _guarded_as(model: Model, inner: Model, notes: Sequence[str]) -> Model:
    """Put the purifier of a model in front of another one, so that the audit sees both; `inner` where there is none.

    Args:
        model: The model with the purifier.
        inner: The model without it, with its outputs read as classes.
        notes: Sentences about `inner`.
    """
    guarded = guarded_in(model)
    if guarded is None:
        return inner
    made: Model = guard(inner, guarded.purify, stochastic=guarded.stochastic)
    if isinstance(model, Classifier):
        made = Classifier(made, name=model.name, input_shape=model.input_shape).eval()
    for sentence in list(notes):
        notice(made, sentence)
    return made


def _samples(
    model: Model, x: Any, y: Any, threat: Threat | None, seed: int
) -> tuple[Tensor, Tensor, Threat, tuple[str, ...]]:
    """Return samples, labels, threat and warnings; large samples are streamed.

    Raises:
        BadInput: There are no labels, or labels beside a data set that has its own.
    """
    if isinstance(y, Threat):  # audit(model, dataset, threat)
        if threat is not None:
            raise BadInput("there are two threats; give audit(model, x, y, threat) or audit(model, dataset, threat)")
        y, threat = None, y
    notes: tuple[str, ...] = ()
    if isinstance(x, (Dataset, DataLoader)):
        if y is not None:
            raise BadInput(f"x is a {type(x).__name__}, which has labels; leave y out: audit(model, dataset, threat)")
        x, y, notes = from_torch(x, seed=seed)
    else:
        x, y = as_samples(x, y)
        x, notes = in_precision_of(model, x)
    if y is None and isinstance(x, Tensor):
        notes = (*notes, PREDICTED)
        with noticing():
            y = predicted(as_model(model), x)
    samples: Any = streamed(x) if isinstance(x, Tensor) else x
    found: Any = (samples, y, threat, notes)  # which are checked next
    return found


def fitting_chunk(chunk: int, x: Tensor, budget: float | None, *, shared: bool) -> int:
    """Return a number of samples per file, of which several copies fit in memory; a small one within a budget."""
    chunk = min(chunk, CHUNK_IN_TIME) if budget is not None or shared else chunk
    return max(1, min(chunk, limit() // (16 * x[:1].nbytes))) if chunk > 1 else chunk


def _within_reach(threat: Threat, x: Tensor) -> Threat:
    """Return the threat, an infinite eps bounded.

    Raises:
        BadInput: It is no threat for these samples, or its eps is more than the inputs' range.
    """
    check_threat(x, threat)
    eps = torch.as_tensor(threat.eps)
    if threat.norm == math.inf and bool(torch.isfinite(eps).all()):
        widest, reach = float(eps.max()), threat.box.high - threat.box.low
        if widest > reach:
            raise BadInput(
                f"eps is {widest:g}, more than the inputs' range of {reach:g}, so anything would be allowed; write "
                f"{widest:g} / 255 for pixels out of 255, or math.inf"
            )
    return threat.bounded(x) if eps.isinf().any() else threat
