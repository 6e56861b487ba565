"""Shares of audits, attacks and sets of features, each computed by a command of its own, and their merged result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from unfooled.core.memory import memory_limit
from unfooled.core.threats import Threat
from unfooled.data.formats.feature_sets import stored
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.shares import audit_rows as audit_rows_
from unfooled.features.making import Storage
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.opening import FilePlace
from unfooled.runs.share_records import COPY, Share, check_local, read_rows, read_share
from unfooled.runs.shares import compute_share, join, write_share
from unfooled.runs.store import LocalStore, Store
from unfooled.workflows.attacking import CHUNK_SAMPLES, AttackRecord, AttackTask, attack
from unfooled.workflows.auditing import AuditOptions, PreparedAudit, audit
from unfooled.workflows.errors import BadOption
from unfooled.workflows.guarding import Purifier
from unfooled.workflows.inputs import Inputs, Limits
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_folder, open_out, open_out_file
from unfooled.workflows.rebuilding import (
    FeatureOptions,
    FeatureTask,
    features,
    has_unfinished_work,
    open_set,
    parts_of,
    refuse_other,
)
from unfooled.workflows.words import at_least, threat_of

Rows = str | tuple[int, int]
"""First row of a share, and the row after its last one: "0:500" or (0, 500)."""


@dataclass(frozen=True)
class AttackOptions:
    """Choices of an attack, see `workflows.attack`.

    Args:
        attack: Name in `catalog.ATTACKS`, or an attack. None: "apgd-margin".
        steps: Gradients per restart, or queries. None: the attack's default.
        restarts: Random starts.
        effort: Name in `catalog.EFFORTS` of an ensemble to run instead. None: one attack.
        purify: Purifier in front of the model. None: none.
    """

    attack: str | Callable[..., Any] | None = None
    steps: int | None = None
    restarts: int = 1
    effort: str | None = None
    purify: Purifier | None = None


STATED = (Inputs, Limits, AuditOptions, AttackOptions, FeatureOptions, Machine)
"""Values whose fields the record of a share states."""


def audit_rows(
    inputs: Inputs,
    threat: str | Threat,
    rows: Rows,
    out: str | Path,
    *,
    options: AuditOptions = AuditOptions(),  # noqa: B008  (frozen)
    title: str | None = None,
    chunk: int = 100,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Share:
    """Compute a share of an audit, which `merge` joins with the others.

    Args:
        inputs: Model and data, all samples.
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        rows: Rows of the share; parts of `chunk` samples that begin there belong to it.
        out: Folder of the share; a second start continues it.
        options: Options of the audit, without a time limit.
        title: Title of the merged run in the report. None: the model's name.
        chunk: Samples per file; the same for all shares.
        seed: Random seed.
        machine: The device, and samples computed at once; a share is computed by one process.
        progress: Called as `(stage, samples done, samples in all)`.

    Raises:
        BadInput: Rows outside the samples, or options, model, data or folder that cannot be used.
    """
    rows, allowed = _rows(rows, out), threat_of(threat)
    if options.budget is not None:
        raise BadOption("{budget} limits a whole audit; leave it out with {rows}")
    options.check(allowed)
    inputs.check()
    at_least("chunk", chunk, 1)
    out, device = check_folder(out), machine.prepare(seed)
    with memory_limit(machine.memory):
        one = PreparedAudit.of(inputs, allowed, options, machine.alone(device), seed)
        share = audit_rows_(
            one.model, one.loaded.x, one.loaded.y, allowed, rows, plan=one.plan, out=out, seed=seed,
            about={"options": one.known, "model": inputs.model_name, "data": inputs.data_name},
            chunk=chunk, batch=one.batch, progress=progress,
        )  # fmt: skip
    work = _work(inputs=inputs, threat=threat, options=options, title=title, chunk=chunk, seed=seed, machine=machine)
    return write_share(out, share.model_copy(update={"work": work}))


def attack_rows(
    inputs: Inputs,
    threat: str | Threat,
    rows: Rows,
    out: str | Path,
    *,
    options: AttackOptions = AttackOptions(),
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Share:
    """Compute a share of the points of an attack, which `merge` joins with the others.

    Args:
        inputs: Model and data, all samples.
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        rows: Rows of the share; parts of 100 samples that begin there belong to it.
        out: Folder of the share; a second start continues it.
        options: Options of the attack.
        seed: Random seed.
        machine: The device, and samples computed at once; a share is computed by one process.
        progress: Called as `(stage, samples done, samples in all)`.

    Raises:
        BadInput: Rows outside the samples, or options, model, data or folder that cannot be used.
    """
    rows, device = _rows(rows, out), machine.prepare(seed)
    task = AttackTask.of(inputs, threat, **_fields(options), seed=seed, machine=machine.alone(device))
    inputs.check()
    out = check_folder(out)
    loaded, settings = task.loaded()
    share = Share(command="attack", rows=rows, n=len(loaded.loaded.x), chunk=CHUNK_SAMPLES).checked()
    share = share.model_copy(
        update={"work": _work(inputs=inputs, threat=threat, options=options, seed=seed, machine=machine)}
    )
    run = Run(out, loaded.config(settings), chunk=CHUNK_SAMPLES, progress=progress, share=share)
    return compute_share(out, share, partial(task.choice.bound(task.threat, loaded.batch), loaded, run))


def features_rows(
    inputs: Inputs,
    rows: Rows,
    out: str | Path,
    *,
    kind: str = "robust",
    threat: str | Threat | None = None,
    options: FeatureOptions = FeatureOptions(),  # noqa: B008  (frozen)
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Share:
    """Compute a share of a data set rebuilt from features, which `merge` joins with the others.

    Args:
        inputs: Model and source data, all images.
        rows: Rows of the share; parts of `options.shard` images that begin there belong to it.
        out: Folder of the share; a second start continues it.
        kind: Name in `catalog.FEATURES`.
        threat: Threat model that bounds the changes to images; required by the kinds that attack images.
        options: Options of the kind.
        seed: Random seed.
        machine: The device, and images computed at once; a share is computed by one process.
        progress: Called as `(stage, images done, images in all)`.

    Raises:
        BadInput: Rows outside the images, or options, model, data or folder that cannot be used.
    """
    rows, device = _rows(rows, out), machine.prepare(seed)
    task = FeatureTask.of(inputs, kind, threat, options, seed, machine.alone(device))
    out = check_folder(out)
    loaded = inputs.load(device, seed=seed)
    work = _work(inputs=inputs, kind=kind, threat=threat, options=options, seed=seed, machine=machine)
    share = Share(command="features", rows=rows, n=len(loaded.x), chunk=options.shard, work=work).checked()
    storage = Storage(out, options.shard, share=share)
    return compute_share(out, share, lambda: task.make(loaded, storage, progress))


def merge(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    store_options: str | Path | None = None,
    model: str | None = None,
    data: str | None = None,
    finish: bool = True,
    trust_shares: bool = False,
    machine: Machine | None = None,
    command: str = "",
    notify: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Summary | AttackRecord | dict[str, Any] | Share:
    """Join shares, and go on with their audit, attack or set: the result is that of a single run.

    What the shares state by name, such as the model, is loaded as their commands did.

    Args:
        runs: Folders of all shares.
        out: Place of the result, a path or a URL, as for the command without rows; a second start continues.
        store_options: JSON file of options and credentials of a URL's store. None: those of the environment.
        model: Model, where it lies in another place than for the shares. None: the same.
        data: Data, likewise.
        finish: False: only join the parts. Copies of the folder can be the folders of further shares then.
        trust_shares: True: run code that the shares name, such as a model `file.py:name`, or pickles that they trust.
        machine: The device, samples computed at once, and the processes that share the rest. None: the shares' device
            and batch.
        command: Command line that reproduces the run, for the record.
        notify: Callback for progress messages, one sentence each.
        progress: Called as `(stage, samples done, samples in all)`.

    Returns:
        The `Summary`, `AttackRecord` or manifest; a share's record if `finish` is False.

    Raises:
        BadInput: Shares that are not finished, overlap, leave out rows, belong to different runs or name code; or a
            place that holds something else.
    """
    for run in runs:
        check_local(run, remedy=COPY)
    folders = [Path(run) for run in runs]
    if not folders:
        raise BadOption("there is nothing to merge; name the folders of the shares")
    kind = read_share(folders[0]).command
    if kind not in ("audit", "attack", "features"):
        raise BadOption("{0} is a share of {1!r}, which this version does not merge", folders[0], kind)
    result, place = _merged_place(out, kind if finish else "", store_options)
    if isinstance(place, LocalStore) and place.root.resolve() in [folder.resolve() for folder in folders]:
        raise BadOption("{0} is one of the shares; choose another {out}", place.place())
    named = {name: value for name, value in {"model": model, "data": data}.items() if value is not None}
    for folder in folders if finish and not trust_shares else ():
        _refuse_code(read_share(folder).work or {}, named)
    share = join(folders, place)
    if not finish:
        return share
    if share.work is None:
        raise BadOption(
            "the shares were made from objects, whose names are not known; their parts are joined in {0}: go on with "
            "the same call in Python", place.place(),
        )  # fmt: skip
    work = _Restored.of(share.work, named, machine)
    if kind == "audit":
        return work.audit(place, command=command, notify=notify, progress=progress)
    return work.attack(result, progress) if kind == "attack" else work.features(result, progress)


def _merged_place(out: str | Path, kind: str, store_options: str | Path | None) -> tuple[FilePlace, Store]:
    """Open the place of a merged result, and that of its parts; of an audit, or where parts are only joined, one.

    Raises:
        BadInput: It cannot be used; or there is a set that no merging has begun: its settings may be others.
    """
    if kind == "attack":
        file = open_out_file(out, ".npz", store_options, lasting=True)
        return file, file.parts
    if kind == "features":
        made = open_set(out, store_options, lasting=True)
        parts = parts_of(made)
        if not has_unfinished_work(parts):
            refuse_other(made, parts)
            if stored(made):
                raise BadOption("{0} is a finished set; remove it, or choose another {out}", str(made))
        return made, parts
    store = open_out(out, store_options, lasting=True)
    assert store is not None
    return store.place(), store


@dataclass(frozen=True)
class _Restored:
    """Work that the record of a share states by names."""

    inputs: Inputs
    stated: dict[str, Any]
    machine: Machine

    @classmethod
    def of(cls, stated: dict[str, Any], named: dict[str, str], machine: Machine | None) -> _Restored:
        """Read the work, with the model and the data that the caller names; refuse what another version stored."""
        try:
            given = {**stated["inputs"], **named}
            limits = None if given["limits"] is None else Limits(**given["limits"])
            inputs, before = Inputs(**{**given, "limits": limits}), Machine(**stated["machine"])
            if machine is None:
                return cls(inputs, stated, before)
            return cls(inputs, stated, replace(machine, batch=machine.batch or before.batch))
        except (TypeError, KeyError) as error:
            raise BadOption("the shares were made by another version ({0}); make them again", error) from error

    def audit(self, out: Store, **how: Any) -> Summary:
        stated = {name: self.stated[name] for name in ("threat", "title", "chunk", "seed")}
        options = AuditOptions(**self.stated["options"])
        return audit(self.inputs, **stated, options=options, out=out, machine=self.machine, **how)

    def attack(self, out: FilePlace, progress: Progress | None) -> AttackRecord:
        stated = {name: self.stated[name] for name in ("threat", "seed")}
        return attack(self.inputs, **stated, **self.stated["options"], out=out, machine=self.machine, progress=progress)

    def features(self, out: FilePlace, progress: Progress | None) -> dict[str, Any]:
        stated = {name: self.stated[name] for name in ("kind", "threat", "seed")}
        options = FeatureOptions(**self.stated["options"])
        return features(self.inputs, out, **stated, options=options, machine=self.machine, progress=progress)


def _refuse_code(stated: dict[str, Any], named: dict[str, str]) -> None:
    """Refuse shares that name code which the caller does not name, or that ask to read pickles."""
    given, choices = stated.get("inputs") or {}, stated.get("options") or {}
    told = {name: given.get(name) for name in ("model", "data", "arch")} | {"purify": choices.get("purify")}
    for name, value in told.items():
        if name not in named and isinstance(value, str) and ":" in value and not value.startswith("timm:"):
            sentence = "the shares name code that would run, {0} {1!r}; if they are your own, give {trust_shares}"
            raise BadOption(sentence, name, value)
    if given.get("trust_pickle"):
        raise BadOption("the shares ask to read pickles, which run code; if they are your own, give {trust_shares}")


def _rows(rows: Rows, out: str | Path) -> tuple[int, int]:
    check_local(out)
    return read_rows(rows) if isinstance(rows, str) else read_rows(":".join(map(str, rows)))


def _fields(options: Any) -> dict[str, Any]:
    """Return the fields of a value by name."""
    return {field.name: getattr(options, field.name) for field in fields(options)}


def _work(**values: Any) -> dict[str, Any] | None:
    """Return names and numbers as JSON values; None where there are objects, which no record can state."""

    def plain(value: Any) -> Any:
        if isinstance(value, STATED):
            return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, Path):
            return str(value)
        if value is None or isinstance(value, (str, int, float, bool)):
            return value
        raise TypeError

    try:
        return {name: plain(value) for name, value in values.items()}
    except TypeError:
        return None
