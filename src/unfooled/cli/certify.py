"""`unfooled certify`: proofs that no allowed change flips a label, and their second check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.workflows import CertifyRecord


def certify(
    model: options.ModelOpt,
    threat: options.ThreatOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    effort: Annotated[
        str, typer.Option("--effort", help="Effort of the proofs: intervals, quick, normal, thorough, smoothing:SIGMA.")
    ] = "normal",
    draws: Annotated[int, typer.Option("--draws", help="Draws of smoothing, which limit its radius.")] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", help="File of the certificate, a .safetensors; a second start continues.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", help="Certificate to check again, in float64, instead of a new one.")
    ] = None,
    n: options.NOpt = catalog.DEFAULT_N,
    split: options.SplitOpt = "test",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    label: options.LabelOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Prove samples robust: the lower end of robust accuracy, whose upper end `unfooled audit` measures.

    Every proof is computed twice, the second time in float64 with outward rounding; --check does that again for a
    stored certificate. For example:

        unfooled certify --model ckpt.pt --arch small-cnn --data digits --threat linf:0.01 --out proofs.safetensors
    """
    check_sources(model, data)
    from unfooled import workflows
    from unfooled.cli import show

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, n, shuffle, mean, std, size, labels, channels, trust_pickle, limits,
        label=label,
    )  # fmt: skip
    with show.stages(quiet or json) as progress:
        record = workflows.certify(
            inputs, threat, effort=effort, draws=draws, out=out, check=check, seed=seed,
            machine=workflows.Machine(device, threads), progress=progress,
        )  # fmt: skip
    if json:
        show.record(record)
    elif not quiet:
        print_record(record)


def print_record(record: CertifyRecord) -> None:
    """Print a few lines on stdout."""
    from unfooled.cli import show

    whose = " of the smoothed classifier" if record.smoothed else ""
    show.out.print(f"clean accuracy      {show.percent(record.clean_accuracy)}{whose}")
    show.out.print(f"certified accuracy  {show.percent(record.certified_accuracy)} at least{whose}")
    if record.examples:
        show.out.print(f"broken              {100 * record.examples / record.n:.1f} % by the search for proofs")
    show.out.print(f"open                {100 * record.open:.1f} %")
    if record.ceiling is not None:
        show.out.print(
            f"With these draws no radius exceeds {record.ceiling:.3g}; each is too large with a probability of at most "
            f"{record.failure:g}.",
            soft_wrap=True,
        )
    elif not record.rechecked:
        show.out.print("[bold red]Some proofs did not pass the second check; they do not count.", soft_wrap=True)
    if record.out:
        show.out.print(f"{show.plain(record.out)}: {record.n} samples", soft_wrap=True)
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
