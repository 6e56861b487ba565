"""Run folders, read for the page: the summary, and the pictures as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import regular
from unfooled.core.threat_text import ThreatText, parse_threat
from unfooled.drawing.pictures import Array
from unfooled.evaluation.audit.records import Summary
from unfooled.runs.records import read_record

MAX_GALLERY_BYTES = 1 << 28  # largest gallery file, in bytes
PICTURES = ("x", "x_adv", "before", "after")
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
    """

    place: int
    name: str
    folder: str
    summary: Summary
    pictures: dict[str, Array]
    reasons: dict[str, Array] = field(default_factory=dict)
    attention: dict[str, Array] = field(default_factory=dict)
    nearest: dict[str, Array] = field(default_factory=dict)

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


def _load(path: Path) -> dict[str, Array]:
    """Return all tensors of a safetensors file as float32 arrays."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if regular(path).stat().st_size > MAX_GALLERY_BYTES:
            raise BadInput(f"{path} has more than {MAX_GALLERY_BYTES:,} bytes; it is no gallery of an audit")
        tensors = load_file(path)
    except (OSError, SafetensorError) as e:
        raise BadInput(f"cannot read {path}: {e}; the file is missing or damaged, run the audit again") from e
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def _pictures(path: Path, rows: int) -> dict[str, Array]:
    """Return the gallery's arrays, checked against the number of rows in the summary."""
    tensors = _load(path)
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


def read_summary(folder: Path) -> Summary:
    """Read the record of an audit from its run folder.

    Raises:
        BadInput: no such folder, no summary in it (the audit has not finished), or a file that is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a run folder; give the {option('out')} folder of an audit")
    path = folder / "summary.json"
    if not path.exists():
        raise BadInput(f"{folder} has no summary.json: its audit has not finished; start it again to resume it")
    summary = read_record(path, Summary)
    if summary.schema_version != SCHEMA:
        raise BadInput(
            f"{path} has schema version {summary.schema_version}, this version of unfooled reads {SCHEMA}; "
            "render it with the version that wrote it"
        )
    return summary


def read_run(folder: Path, place: int = 0) -> Run:
    """Read one run folder.

    Raises:
        BadInput: no such folder, no summary in it (the audit has not finished), or a file that is damaged.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    pictures = _pictures(folder / "gallery.safetensors", len(summary.gallery)) if summary.gallery else {}
    worst = summary.reasons.gallery if summary.reasons is not None else []
    reasons = _pictures(folder / "reasons.safetensors", len(worst)) if worst else {}
    cases = summary.attention.gallery if summary.attention is not None else []
    near = _pictures(folder / "nearest.safetensors", len(summary.nearest_gallery)) if summary.nearest_gallery else {}
    attention = _pictures(folder / "attention.safetensors", len(cases)) if cases else {}
    return Run(place, summary.title, folder.resolve().name, summary, pictures, reasons, attention, near)


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders in the order given; the first is A."""
    if not folders:
        raise BadInput("there is no run to report on; give at least one run folder")
    runs = [read_run(folder, k) for k, folder in enumerate(folders)]
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=run.summary.model) for run in runs]
    return runs
