"""`unfooled attack`: adversarial examples as a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.workflows import AttackRecord


def attack(
    model: options.ModelOpt,
    threat: options.ThreatOpt,
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    model_kind: options.ModelKindOpt = None,
    out: Annotated[
        str,
        typer.Option(
            "--out", help="File of the points, an .npz that --data reads, or a URL such as s3://bucket/a.npz."
        ),
    ] = "adversarial.npz",
    attack: Annotated[
        str | None, typer.Option("--attack", help=f"Attack: {', '.join(catalog.ATTACKS)}; apgd-margin if not given.")
    ] = None,
    effort: Annotated[
        str | None, typer.Option("--effort", help=f"Ensemble to run instead: {', '.join(catalog.EFFORTS)}.")
    ] = None,
    purify: Annotated[
        str | None,
        typer.Option("--purify", help="Purifier in front of the model, attacked with it: a folder, or file.py:name."),
    ] = None,
    steps: options.StepsOpt = None,
    restarts: options.RestartsOpt = 1,
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
    batch: options.BatchOpt = None,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    rows: options.RowsOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Attack a model and store the points, each judged by `verify`.

    A kill loses at most 100 samples; the same command continues. Minimal-norm attacks (ddn, fmn, ...) look for the
    nearest adversarial examples; --threat decides which of them count.
    """
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
    machine = workflows.Machine(device, threads, batch, None, workers, scheduler)
    with show.stages(quiet or json) as progress:
        if rows is None:
            record = workflows.attack(
                inputs, threat, attack=attack, steps=steps, restarts=restarts, effort=effort, purify=purify,
                out=workflows.open_out_file(out, ".npz", store_options, lasting=True), seed=seed, machine=machine,
                progress=progress,
            )  # fmt: skip
        else:
            folder = options.share_folder(out, store_options)
            choices = workflows.AttackOptions(attack, steps, restarts, effort, purify)
            share = workflows.attack_rows(
                inputs, threat, rows, folder, options=choices, seed=seed, machine=machine, progress=progress
            )
    if rows is not None:
        show.share(share, folder, json=json, quiet=quiet)
        return
    if json:
        show.record(record)
    elif not quiet:
        print_record(record)


def print_record(record: AttackRecord) -> None:
    """Print a few lines on stdout."""
    from unfooled.cli import show

    show.out.print(f"clean accuracy   {show.percent(record.clean_accuracy)}")
    show.out.print(f"robust accuracy  {show.percent(record.robust_accuracy)} at most")
    if "median_distance" in record.model_fields_set:
        median = record.median_distance
        show.out.print(f"median distance  {'none: fewer than half were fooled' if median is None else f'{median:.4g}'}")
    show.out.print(f"{show.plain(record.out)}: {record.n} samples", soft_wrap=True)
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
