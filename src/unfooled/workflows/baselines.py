"""Baselines: the samples that a run kept right under attack, in a small file, and a paired test against them."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from unfooled._version import __version__
from unfooled.core.errors import BadInput, option
from unfooled.core.limits import read_regular
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.checks.verdict import Trust
from unfooled.runs.records import MAX_BYTES, Config, Record, read_record, write_record
from unfooled.runs.settings import parse
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


def read_baseline(source: str | Path) -> Baseline:
    """Read a baseline from a run folder, or from a file that `write_baseline` wrote.

    Raises:
        BadInput: There is none, it is damaged, or its verdict is not trusted.
    """
    path = Path(source)
    found = _of_run(path) if path.is_dir() else read_record(path, Baseline)
    if found.verdict not in (Trust.SOUND, Trust.EXTENDED):
        verdict = found.verdict or "not checked"
        raise BadInput(f"the {option('baseline')} {path} is {verdict}; take a run whose figure can be believed")
    return found


def write_baseline(run: str | Path, file: str | Path) -> Baseline:
    """Write the baseline of a finished run to a small JSON file, to be kept beside the code."""
    baseline = read_baseline(run)
    write_record(Path(file), baseline)
    return baseline


def _of_run(folder: Path) -> Baseline:
    """Return the baseline of a run folder."""
    from safetensors import SafetensorError
    from safetensors.torch import safe_open

    summary = read_record(folder / "summary.json", Summary)
    content = _fingerprint(folder / "config.json").get("data", "")
    try:
        with safe_open(folder / "samples.safetensors", framework="pt") as file:
            y, clean, success = (file.get_tensor(name) for name in ("y", "clean", "success"))
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot read the samples of {folder}: {error}; run the audit again") from error
    robust = (clean == y) & ~success
    return Baseline(
        unfooled=__version__, model=summary.model, data=summary.data, content=content,
        n=len(y), threat=summary.threat, attack=summary.attack, verdict=summary.verdict,
        robust="".join("1" if kept else "0" for kept in robust.tolist()),
    )  # fmt: skip


def _fingerprint(path: Path) -> dict[str, str]:
    """Return the hashes of model and data in a run's settings."""
    try:
        settings = parse(read_regular(path, most=MAX_BYTES))[1]
        return Config.model_validate(settings).fingerprint
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read {path}: {str(error).splitlines()[0]}; run the audit again") from error


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
