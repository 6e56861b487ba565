"""Prove samples robust from names and files: `unfooled certify`; and check a stored certificate again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from unfooled.certification import Certificate, Smoothing
from unfooled.certification import certify as certify_
from unfooled.certification.certificate import threat_facts
from unfooled.certification.certify import EFFORTS
from unfooled.certification.smoothed import NAME as SMOOTHING
from unfooled.core.errors import BadInput
from unfooled.core.model.batching import batched, fitting_batch
from unfooled.core.threats import Threat
from unfooled.evaluation.verify import verify
from unfooled.runs.chunks import Progress, Run
from unfooled.runs.folder import discard, recomputed_note
from unfooled.runs.hashes import model_hash, tensors_hash
from unfooled.runs.opening import open_file
from unfooled.runs.records import Config, Record
from unfooled.statistics.intervals import Estimate, share
from unfooled.workflows.errors import BadOption
from unfooled.workflows.inputs import Inputs, Loaded
from unfooled.workflows.machine import Machine
from unfooled.workflows.places import check_file
from unfooled.workflows.words import check_reach, choose, number, threat_of

SUFFIX = ".safetensors"
CHUNK, SLOW_CHUNK = 64, 4
"""Samples that are stored together, and with branch and bound."""


class CertifyRecord(Record):
    """Result of a certification.

    Attributes:
        model: Model.
        data: Data.
        n: Number of samples.
        threat: Threat model.
        effort: Effort of the proofs.
        seed: Random seed.
        clean_accuracy: Clean accuracy; of the smoothed classifier where it abstains, wrong.
        certified_accuracy: Share of the samples that are right and proven robust.
        examples: Number of samples for which the search has met an adversarial example.
        open: Share of the samples that are right, not proven, and without an adversarial example.
        rechecked: True if every proof has passed the second check, in float64 with outward rounding.
        smoothed: True if the figures are of the smoothed classifier, not of the model itself.
        ceiling: Largest radius that the draws of smoothing can give. None: no smoothing.
        failure: Probability that a radius of smoothing is too large. None: no smoothing.
        seconds: Time.
        warnings: Warnings, one sentence each.
        out: File of the certificate; empty where none was written.
    """

    model: str
    data: str
    n: int
    threat: str
    effort: str
    seed: int
    clean_accuracy: Estimate
    certified_accuracy: Estimate
    examples: int = 0
    open: float
    rechecked: bool = True
    smoothed: bool = False
    ceiling: float | None = None
    failure: float | None = None
    seconds: float = Field(ge=0)
    warnings: list[str] = Field(default_factory=list)
    out: str = ""


def certify(
    inputs: Inputs,
    threat: str | Threat,
    *,
    effort: str = "normal",
    draws: int = 1000,
    out: str | Path | None = None,
    check: str | Path | None = None,
    seed: int = 0,
    machine: Machine = Machine(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> CertifyRecord:
    """Prove samples robust, or check a stored certificate again.

    Args:
        inputs: Model and data.
        threat: Threat model: a `Threat`, or text such as "linf:8/255".
        effort: "intervals", "quick", "normal", "thorough", or "smoothing:0.25" with the noise's size; in l0
            "smoothing:45" with the number of entries, or pixels, that stay.
        draws: Draws of smoothing, which limit its radius.
        out: File of the certificate, a .safetensors; finished samples are stored in a folder beside it until all are
            done, and a second start continues. None: none is written.
        check: File of a certificate to check instead. None: samples are certified.
        seed: Random seed.
        machine: The device.
        progress: Called as `(stage, samples done, samples in all)`.

    Returns:
        A `CertifyRecord`.

    Raises:
        BadInput: options, model, data or certificate that cannot be used.
    """
    begin, allowed = time.monotonic(), threat_of(threat)
    smoothing = smoothing_of("effort", effort, allowed, draws=draws)
    if smoothing is None:
        choose({**EFFORTS, f"{SMOOTHING}:SIGMA": None}, effort, "effort of the proofs")
    elif out is not None or check is not None:
        option = "out" if out is not None else "check"
        raise BadOption(
            "{effort:{0}} gives radii with a probability, not a certificate; leave out {" + option + "}", effort
        )
    if out is not None and check is not None:
        raise BadOption("{check} looks at a certificate and writes none; leave out {out}")
    inputs.check()
    out = None if out is None else check_file(out if Path(out).suffix else f"{check_file(out)}{SUFFIX}", (SUFFIX,))
    loaded = inputs.load(machine.prepare(seed), seed=seed)
    check_reach(allowed, loaded.x)
    if smoothing is not None:
        found = _smoothed(loaded, allowed, smoothing, seed, progress)
    elif check is not None:
        proof = Certificate.load(check)
        proven = proof.check(loaded.model, loaded.x, loaded.y, allowed)
        found = _figures(loaded, proof, proven) | {"rechecked": bool((proven == proof.certified).all())}
        effort = "check"
    else:
        proof, found = _proven(inputs, loaded, allowed, effort, seed, out, progress)
    notes = found.pop("warnings", [])
    return CertifyRecord(
        model=inputs.model_name, data=inputs.data_name, n=len(loaded.x), threat=str(allowed), effort=effort, seed=seed,
        seconds=round(time.monotonic() - begin, 3), out=str(out or ""),
        **found, warnings=[*loaded.warnings, *notes],
    )  # fmt: skip


def _proven(
    inputs: Inputs, loaded: Loaded, threat: Threat, effort: str, seed: int, out: Path | None,
    progress: Progress | None,
) -> tuple[Certificate, dict[str, Any]]:  # fmt: skip
    """Certify, or go on certifying; return the certificate, which is written, and its figures."""
    config = Config(
        model=inputs.model_name, data=inputs.data_name, n=len(loaded.x), threat=str(threat), seed=seed,
        options={"effort": effort, **{k: v for k, v in inputs.options.items() if v is not None}},
        fingerprint={
            "model": model_hash(loaded.model), "data": tensors_hash(loaded.x, loaded.y), "threat": threat_facts(threat),
        },
    )  # fmt: skip
    place = None if out is None else open_file(out).parts
    run = Run(place, config, chunk=SLOW_CHUNK if EFFORTS[effort].limits else CHUNK, progress=progress)
    proof = certify_(loaded.model, loaded.x, loaded.y, threat, effort=effort, run=run)
    notes = [*recomputed_note(run.folder.damaged), *_overflow_note(proof)]
    if out is not None and place is not None:
        proof.save(out)
        discard(place)
    return proof, _figures(loaded, proof, proof.certified) | {"warnings": notes}


def _overflow_note(proof: Certificate) -> list[str]:
    """Say for how many samples no bound is finite."""
    lost, n = int((~proof.lower.isfinite()).sum()), len(proof.lower)
    return [f"the bounds of {lost} of {n} samples overflow, so that these stay open"] if lost else []


def smoothing_of(option: str, text: str, threat: Threat, *, draws: int = 1000) -> Smoothing | None:
    """Return the smoothing that the text of an option names, such as "smoothing:0.25"; None for another text.

    Args:
        option: Name of the option.
        text: Its value; in L0 with the number of entries, or pixels, that stay.
        threat: Threat that the radii are for.
        draws: Draws that bound the probability of the majority.

    Raises:
        BadOption: A size that is no number above 0, or a norm that smoothing does not bound.
    """
    name, colon, size = text.partition(":")
    if name == SMOOTHING and colon:
        number(size, "the size of the noise")
    try:
        found = Smoothing.of(text, draws=draws)
        if found is not None:
            found.check_norm(threat)
    except BadInput as error:
        raise BadOption("{" + option + ":{0}}: {1}", text, str(error)) from error
    return found


def _right(loaded: Loaded) -> Tensor:
    with torch.no_grad():
        return batched(lambda part: loaded.model(part).argmax(1), 256)(loaded.x) == loaded.y


def _figures(loaded: Loaded, proof: Certificate, proven: Tensor) -> dict[str, Any]:
    """Return the figures of a certificate; its examples count where `verify` agrees."""
    right, proven = _right(loaded).cpu(), proven.cpu()
    broken = torch.zeros_like(right)
    rows = torch.tensor(sorted(proof.examples), dtype=torch.int64)
    if len(rows):
        points = torch.stack([proof.examples[int(k)] for k in rows]).to(loaded.x)
        at = rows.to(loaded.x.device)
        judged = verify(loaded.model, loaded.x[at], loaded.y[at], points, proof.threat.take(at))
        broken[rows] = judged.success.cpu() & right[rows]
    return {
        "clean_accuracy": share(right), "certified_accuracy": share(right & proven), "examples": int(broken.sum()),
        "open": float((right & ~proven & ~broken).double().mean()),
    }  # fmt: skip


def _smoothed(
    loaded: Loaded, threat: Threat, smoothing: Smoothing, seed: int, progress: Progress | None
) -> dict[str, Any]:
    """Return the figures of the smoothed classifier."""
    smoothing.check(threat, tuple(loaded.x.shape[1:]))
    smoothing.check_model(loaded.model, loaded.x, threat)
    report, n = progress or (lambda *_: None), len(loaded.x)
    report(SMOOTHING, 0, n)
    found = smoothing.radii(
        loaded.model, loaded.x, threat, batch=fitting_batch(loaded.model, loaded.x), seed=seed,
        progress=lambda done: report(SMOOTHING, done, n),
    )  # fmt: skip
    y = loaded.y.cpu()
    eps = torch.as_tensor(threat.eps, dtype=torch.float64).cpu()
    right, proven = found.prediction == y, found.certified(y, eps)
    return {
        "clean_accuracy": share(right), "certified_accuracy": share(proven), "smoothed": True, "rechecked": False,
        "open": float((right & ~proven).double().mean()), "ceiling": found.ceiling, "failure": found.failure,
    }  # fmt: skip
