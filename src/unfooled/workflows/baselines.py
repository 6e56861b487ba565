"""Baselines: the samples that a run kept right under attack, in a small file, and a paired test against them."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from unfooled._version import __version__
from unfooled.core.errors import BadInput, option
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.verdict import Trust
from unfooled.runs.opening import Place, open_store
from unfooled.runs.records import MAX_BYTES, Config, Record, parse_record, read_record, write_record
from unfooled.runs.settings import parse
from unfooled.runs.store import LocalStore, Store
from unfooled.runs.stored_rows import read_tensors
from unfooled.statistics.paired import worse

SIGNIFICANCE = 0.05
"""Probability below which losses are not put down to chance."""


class Baseline(Record):
    """Result of an audit to which later ones are compared, sample by sample.

    Attributes:
        unfooled: Version that wrote it.
        model: Name of the model.
        data: Name of the data.
        content: Hash of the samples and labels.
        n: Number of samples.
        threat: Threat, as text.
        attack: Attack, as the report names it.
        verdict: Verdict of the run, SOUND or EXTENDED.
        robust: One character per sample: 1 where it is right and stays right under attack.
    """

    unfooled: str
    model: str
    data: str
    content: str
    n: int = Field(ge=1)
    threat: str
    attack: str
    verdict: str
    robust: str = Field(pattern="^[01]+$")

    @property
    def kept(self) -> Tensor:
        """Samples that stay right under attack, (n,) bool."""
        return torch.tensor([c == "1" for c in self.robust])


def read_baseline(source: Place) -> Baseline:
    """Read a baseline from a run folder, its URL or open store, or from a file that `write_baseline` wrote.

    Raises:
        BadInput: There is none, it is damaged, or its verdict is not trusted.
    """
    store = open_store(source, write=False)
    is_file = isinstance(store, LocalStore) and not store.root.is_dir()
    found = read_record(Path(store.place()), Baseline) if is_file else _of_run(store)
    if found.verdict not in (Trust.SOUND, Trust.EXTENDED):
        verdict = found.verdict or "not checked"
        raise BadInput(
            f"the {option('baseline')} {store.place()} is {verdict}; take a run whose figure can be believed"
        )
    return found


def write_baseline(run: Place, file: str | Path) -> Baseline:
    """Write the baseline of a finished run to a small JSON file, to be kept beside the code."""
    baseline = read_baseline(run)
    write_record(Path(file), baseline)
    return baseline


def _of_run(store: Store) -> Baseline:
    """Return the baseline of a run."""
    summary, content = _summary(store), _fingerprint(store).get("data", "")
    y, clean, success = read_tensors(store, "samples.safetensors", ("y", "clean", "success"))
    robust = (clean == y) & ~success
    return Baseline(
        unfooled=__version__, model=summary.model, data=summary.data, content=content,
        n=len(y), threat=summary.threat, attack=summary.attack, verdict=summary.verdict,
        robust="".join("1" if kept else "0" for kept in robust.tolist()),
    )  # fmt: skip


def _summary(store: Store) -> Summary:
    data = store.read("summary.json", most=MAX_BYTES)
    if data is None:
        raise BadInput(f"cannot read {store.place('summary.json')}: No such file or directory")
    return parse_record(data, Summary, store.place("summary.json"))


def _fingerprint(store: Store) -> dict[str, str]:
    """Return the hashes of model and data in a run's settings."""
    try:
        settings = parse(store.read("config.json", most=MAX_BYTES) or b"")[1]
        return Config.model_validate(settings).fingerprint
    except ValueError as error:
        place = store.place("config.json")
        raise BadInput(f"cannot read {place}: {str(error).splitlines()[0]}; run the audit again") from error


def check_comparable(now: Baseline, before: Baseline) -> None:
    """Refuse a baseline that another question was asked of.

    Raises:
        BadInput: Another threat, other samples, or another attack.
    """
    for name, what in (("threat", "threat"), ("attack", "attack")):
        a, b = getattr(before, name), getattr(now, name)
        if a != b:
            raise BadInput(f"the {option('baseline')} has another {what}, {a} instead of {b}; audit it again with this")
    if before.content != now.content or before.n != now.n:
        raise BadInput(
            f"the {option('baseline')} is of other samples ({before.n} of {before.data}, now {now.n} of {now.data}); "
            "audit it again on these"
        )


def compared(now: Baseline, before: Baseline) -> tuple[bool, str]:
    """Return whether a run is not worse than its baseline, and a sentence with the figures."""
    check_comparable(now, before)
    a, b = before.kept, now.kept
    lost, gained, p = int((a & ~b).sum()), int((b & ~a).sum()), worse(a, b)
    share, known = (100 * float(kept.double().mean()) for kept in (b, a))
    figures = f"robust accuracy is {share:.1f} %, that of the baseline {known:.1f} %"
    return p >= SIGNIFICANCE, f"{figures}: {lost} samples lost and {gained} gained, p = {p:.2g}"
