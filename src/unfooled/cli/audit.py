"""`unfooled audit`: accuracy, robust accuracy and explanations of a model, with a verdict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.errors import Refused, as_flag
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog
from unfooled.workflows.bounds import read_bound

if TYPE_CHECKING:
    from unfooled.workflows import Gate


def audit(
    model: options.ModelOpt,
    threat: options.ThreatOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    model_kind: options.ModelKindOpt = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Run folder, or URL such as s3://bucket/run; a second start continues it."),
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
    effort: Annotated[
        str, typer.Option("--effort", help=f"Effort of the attack: {', '.join(catalog.EFFORTS)}.")
    ] = "normal",
    envelope: Annotated[
        bool, typer.Option("--envelope", help="Look for the nearest adversarial examples in L0, L1, L2 and Linf.")
    ] = False,
    attack: Annotated[
        str | None, typer.Option("--attack", help=f"Single attack to run instead: {', '.join(catalog.ATTACKS)}.")
    ] = None,
    steps: options.StepsOpt = None,
    restarts: options.RestartsOpt = 1,
    explain: Annotated[
        str, typer.Option("--explain", help=f"Explanation: {', '.join(catalog.EXPLANATIONS)}.")
    ] = "integrated-gradients",
    reasons: Annotated[
        str,
        typer.Option("--reasons", help=f"Explanation that is attacked, label kept: {', '.join(catalog.REASONS)}."),
    ] = "saliency",
    reasons_n: Annotated[int, typer.Option("--reasons-n", help="Samples whose explanation is attacked at most.")] = 32,
    purify: Annotated[
        str | None,
        typer.Option("--purify", help="Purifier in front of the model: a folder, or file.py:name of a function."),
    ] = None,
    certify: Annotated[
        str, typer.Option("--certify", help=f"Effort of the proofs of robustness: {', '.join(catalog.PROOFS)}.")
    ] = "quick",
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time limit, such as 60s or 5m; a verdict cut short by it is never trusted."),
    ] = None,
    torch_compile: Annotated[
        bool,
        typer.Option(
            "--torch-compile",
            help="Attack a copy of the network compiled by torch.compile; worth its minute on a GPU.",
            rich_help_panel=options.SPEED,
        ),
    ] = False,
    title: Annotated[str | None, typer.Option("--title", help="Title of the run in the report.")] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            help="Bound, robust_accuracy=0.4 or robust_accuracy.low=0.4; exit code 3 below it, or if not trusted.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", help="Run (folder or URL) or file that this run may not be worse than; exit code 3 if it is."
        ),
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option("--write-baseline", help="File to write as the baseline of later runs.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="JUnit file to write.", rich_help_panel=options.OUTPUT)
    ] = None,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", help="SARIF file to write.", rich_help_panel=options.OUTPUT)
    ] = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    memory: options.MemoryOpt = None,
    chunk: Annotated[
        int, typer.Option("--chunk", help="Samples per file of the run folder.", rich_help_panel=options.SPEED)
    ] = 100,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    rows: options.RowsOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Measure clean and robust accuracy, whether the figure can be believed, and whether the explanations survive.

    Prints clean accuracy, and every upper bound of robust accuracy, as soon as it is known. Writes a run folder with a
    report page; after a kill, or after its --budget, the same command continues it. For example:

        unfooled audit --model ckpt.pt --arch small-cnn --data digits --threat linf:0.1 --out runs/mine
    """
    for text in fail_under or []:
        read_bound(text)
    check_sources(model, data, model_kind)
    from unfooled import workflows
    from unfooled.cli import show

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model,
        data,
        arch,
        split,
        n,
        shuffle,
        mean,
        std,
        size,
        labels,
        channels,
        trust_pickle,
        limits,
        model_kind,
        label,
    )
    conditions = workflows.Gate(fail_under or [], baseline, write_baseline, junit, sarif)
    conditions.check(out, certify)
    folder = None if rows is None else share_folder(out, store_options, conditions)
    place = None if rows is not None else workflows.open_out(out, store_options, lasting=True)
    no_progress = quiet or json
    choices = workflows.AuditOptions(
        effort,
        envelope,
        attack,
        steps,
        restarts,
        explain,
        reasons,
        reasons_n,
        purify,
        budget,
        certify,
        torch_compile,
    )
    machine = workflows.Machine(device, threads, batch, memory, workers, scheduler)
    if rows is not None and folder is not None:
        with show.stages(no_progress) as progress:
            share = workflows.audit_rows(
                inputs, threat, rows, folder, options=choices, title=title, chunk=chunk, seed=seed, machine=machine,
                progress=progress,
            )  # fmt: skip
        show.share(share, folder, json=json, quiet=quiet)
        return
    with show.stages(no_progress, answers=True) as progress:
        summary = workflows.audit(
            inputs,
            threat,
            options=choices,
            out=place,
            title=title,
            chunk=chunk,
            seed=seed,
            machine=machine,
            command=options.command(),
            notify=None if no_progress else lambda text: show.err.print(f"[dim]{show.plain(text)}", soft_wrap=True),
            progress=progress,
        )
    if json:
        show.record(summary)
    elif quiet:
        show.verdict(summary)
    else:
        show.summaries([summary])
        if place is not None:
            show.page(place.place("report.html"))
    workflows.enforce(workflows.gate(summary, conditions, out=place), conditions)


def share_folder(out: str | None, store_options: Path | None, conditions: Gate) -> Path:
    """Return the folder of a share.

    Raises:
        Refused: There is none, or a condition, which only a whole audit can meet.
    """
    if out is None:
        raise Refused("--rows needs --out, the folder of the share")
    for name, value in asdict(conditions).items():
        if value:
            raise Refused(
                f"{as_flag(name)} judges a whole audit; give it to the same command without --rows, in the merged --out"
            )
    return options.share_folder(out, store_options)
