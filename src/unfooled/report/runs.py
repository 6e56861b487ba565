"""Run folders, read for the page: the summary, and the pictures as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from unfooled.core.errors import BadInput, option
from unfooled.core.threat_text import ThreatText, parse_threat
from unfooled.drawing.pictures import Array
from unfooled.evaluation.audit.records import Summary
from unfooled.runs.opening import Place, open_store
from unfooled.runs.records import MAX_BYTES, parse_record
from unfooled.runs.store import LocalStore, Store

MAX_GALLERY_BYTES = 1 << 28  # largest gallery file, in bytes
PICTURES = ("x", "x_adv", "before", "after")
BANDS = ("low", "high", "rebuilt")
SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """One audited model.

    Attributes:
        place: Position on the page, from 0; gives the run's letter, colour and marker.
        name: Name on a page of several runs: the title, or the model where titles are shared.
        folder: Name of the run folder.
        summary: Record of the audit.
        pictures: x, x_adv, and explanations before and after, each (G, *D) for G examples; empty without a gallery.
        reasons: The same arrays for the worst attacks on explanations.
        attention: The same arrays for attention; before and after are (G, h, w).
        nearest: The same arrays for some nearest adversarial examples.
        purified: The same arrays for what a purifier does; before and after are x and x_adv, purified. With clusters
            also low, high, rebuilt, and atoms, (G, A, C, size, size).
    """

    place: int
    name: str
    folder: str
    summary: Summary
    pictures: dict[str, Array]
    reasons: dict[str, Array] = field(default_factory=dict)
    attention: dict[str, Array] = field(default_factory=dict)
    nearest: dict[str, Array] = field(default_factory=dict)
    purified: dict[str, Array] = field(default_factory=dict)

    @cached_property
    def threat(self) -> ThreatText:
        """Threat of the audit, taken apart."""
        return parse_threat(self.summary.threat)

    @property
    def letter(self) -> str:
        """Short name on the page: A, B, ..., Z, AA, AB, ..."""
        return letter_of(self.place)

    @property
    def noun(self) -> str:
        """Name of a sample: "image" where its shape is an image's, else "sample"."""
        x = self.pictures.get("x")
        return "image" if x is not None and x.ndim in (3, 4) else "sample"


def letter_of(position: int) -> str:
    """Return the letters of a position: A, B, ..., Z, AA, AB, ..."""
    head, tail = divmod(position, 26)
    return (letter_of(head - 1) if head else "") + chr(ord("A") + tail)


def _load(store: Store, file: str) -> dict[str, Array]:
    """Return all tensors of a safetensors file as float32 arrays."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = store.place(file)
    data = store.read(file, most=MAX_GALLERY_BYTES)
    if data is None:
        raise BadInput(f"cannot read {path}: the file is missing, run the audit again")
    try:
        tensors = load(data)
    except KeyError:  # a type that NumPy lacks, such as bfloat16
        return _load_half(data)
    except (OSError, SafetensorError, ValueError) as e:
        raise BadInput(f"cannot read {path}: {e}; the file is missing or damaged, run the audit again") from e
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _load_half(data: bytes) -> dict[str, Array]:
    """Return all tensors of a safetensors file as float32 arrays, whatever their type."""
    from safetensors.torch import load

    return {name: tensor.float().numpy() for name, tensor in load(data).items()}


def _pictures(store: Store, file: str, rows: int) -> dict[str, Array]:
    """Return the gallery's arrays, checked against the number of rows in the summary."""
    tensors, path = _load(store, file), store.place(file)
    missing = [name for name in PICTURES if name not in tensors]
    if missing:
        raise BadInput(f"{path} holds no {missing[0]}; run the audit again")
    pictures = {name: tensors[name] for name in PICTURES}
    for name, value in pictures.items():
        if value.ndim < 2 or len(value) != rows or value[0].size == 0:
            shape = tuple(value.shape)
            raise BadInput(
                f"{name} in {path} has shape {shape}, the summary lists {rows} examples; run the audit again"
            )
    for a, b in (("x", "x_adv"), ("before", "after")):
        if pictures[a].shape != pictures[b].shape:
            shapes = f"{tuple(pictures[a].shape)} and {tuple(pictures[b].shape)}"
            raise BadInput(f"{a} and {b} in {path} have shapes {shapes}; they must agree, run the audit again")
    return pictures


def _purified(store: Store, rows: int) -> dict[str, Array]:
    """Return the arrays of what a purifier does, checked against the number of rows in the summary."""
    tensors, path = _load(store, "purified.safetensors"), store.place("purified.safetensors")
    names = (*PICTURES, *(BANDS if "atoms" in tensors else ()))
    missing = [name for name in names if name not in tensors]
    if missing:
        raise BadInput(f"{path} holds no {missing[0]}; run the audit again")
    found = {name: tensors[name] for name in names}
    shape = found["x"].shape
    wrong = [name for name, value in found.items() if name != "atoms" and value.shape != shape]
    if len(shape) not in (3, 4) or len(found["x"]) != rows or found["x"].size == 0 or wrong:
        raise BadInput(
            f"{(wrong or ['x'])[0]} in {path} does not fit the {rows} examples of the summary; run the audit again"
        )
    atoms = tensors.get("atoms")
    if atoms is not None:
        if atoms.ndim != 5 or len(atoms) != rows or atoms.size == 0:
            raise BadInput(f"atoms in {path} have shape {tuple(atoms.shape)}; run the audit again")
        found["atoms"] = atoms
    return found


def read_summary(folder: Place) -> Summary:
    """Read the record of an audit from its run folder, the URL of one, or an open store.

    Raises:
        BadInput: no such folder, no summary in it (the audit has not finished), or a file that is damaged.
    """
    store = open_store(folder, write=False)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise BadInput(f"{store.place()} is not a run folder; give the {option('out')} folder of an audit")
    path, data = store.place("summary.json"), store.read("summary.json", most=MAX_BYTES)
    if data is None:
        raise BadInput(f"{store.place()} has no summary.json: its audit has not finished; start it again to resume it")
    summary = parse_record(data, Summary, path)
    if summary.schema_version != SCHEMA:
        raise BadInput(
            f"{path} has schema version {summary.schema_version}, this version of unfooled reads {SCHEMA}; "
            "render it with the version that wrote it"
        )
    return summary


def read_run(folder: Place, place: int = 0) -> Run:
    """Read one run folder, the URL of one, or an open store.

    Raises:
        BadInput: no such folder, no summary in it (the audit has not finished), or a file that is damaged.
    """
    store = open_store(folder, write=False)
    summary = read_summary(store)
    near, guard = summary.nearest_gallery, summary.guard

    def pictures(name: str, count: int) -> dict[str, Array]:
        return _pictures(store, f"{name}.safetensors", count) if count else {}

    return Run(
        place,
        summary.title,
        name_of(store),
        summary,
        pictures("gallery", len(summary.gallery)),
        pictures("reasons", len(summary.reasons.gallery) if summary.reasons is not None else 0),
        pictures("attention", len(summary.attention.gallery) if summary.attention is not None else 0),
        pictures("nearest", len(near) if near else 0),
        _purified(store, len(guard.examples)) if guard is not None and guard.examples else {},
    )


def name_of(store: Store) -> str:
    """Return the last part of a run's path or URL."""
    return store.root.resolve().name if isinstance(store, LocalStore) else store.place().rpartition("/")[2]


def read_runs(folders: Sequence[Place]) -> list[Run]:
    """Read run folders in the order given; the first is A."""
    if not folders:
        raise BadInput("there is no run to report on; give at least one run folder")
    runs = [read_run(folder, k) for k, folder in enumerate(folders)]
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=run.summary.model) for run in runs]
    return runs
