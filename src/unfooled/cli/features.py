"""`unfooled features`: rebuild a data set from the features of a network."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from unfooled.cli import options
from unfooled.cli.errors import Refused
from unfooled.cli.first_look import check_sources
from unfooled.workflows import catalog


def features(
    model: options.ModelOpt,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Data set: an .npz that --data reads, or its URL, or a folder of images; a second start continues.",
        ),
    ],
    kind: Annotated[str, typer.Option("--kind", help=f"Kind of set: {', '.join(catalog.FEATURES)}.")] = "robust",
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            help="Layer whose output is inverted, or NAME:input for its input; the linear one before the last if not "
            "given.",
        ),
    ] = None,
    relu: Annotated[
        bool, typer.Option("--relu", help="Apply a ReLU to the features, as the MNIST study's source does.")
    ] = False,
    threat: Annotated[
        str | None,
        typer.Option(
            "--threat", help="Threat model in which images may be moved; d-rand and d-det need one, such as l2:1.5."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Start of each inversion: images, noise or grey (robust, non-robust).")
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Largest number of gradients per image.")] = 100,
    tol: Annotated[
        float | None,
        typer.Option("--tol", help="Residual at which an inversion ends (robust, non-robust); 0.05 if not given."),
    ] = None,
    clean: Annotated[bool, typer.Option("--clean", help="Keep only bright strokes, at least 2 pixels thick.")] = False,
    n: options.NOpt = None,
    split: options.SplitOpt = "train",
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    shard: Annotated[int, typer.Option("--shard", help="Images per file of unfinished work.")] = 500,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start again; do not continue --out.")] = False,
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
    """Rebuild a data set from the features of a network, to train another on it.

    For example, images with the same features in a hardened network as the digits, but started from other images:

        unfooled features --model runs/hardened.pt --data digits --kind robust --out runs/robust.npz

        unfooled train --data runs/robust.npz --out runs/retrained.pt

    Unfinished work is stored beside --out, in a folder that ends in .parts, until --out is complete; the same command
    in several terminals shares the work.
    """
    check_sources(model, data)
    from unfooled import workflows
    from unfooled.cli import show

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, n, False, mean, std, size, labels, channels, trust_pickle, limits
    )
    machine = workflows.Machine(device, threads, batch, None, workers, scheduler)
    choices = workflows.FeatureOptions(layer, relu, start, steps, tol, clean, shard)
    with show.stages(quiet or json) as progress:
        if rows is None:
            record = workflows.features(
                inputs, workflows.open_set(out, store_options, lasting=True), kind=kind, threat=threat,
                options=choices, fresh=fresh, seed=seed, machine=machine, progress=progress,
            )  # fmt: skip
        else:
            if fresh:
                raise Refused("--fresh is not for a share; remove its folder, or choose another --out")
            folder = options.share_folder(out, store_options)
            share = workflows.features_rows(
                inputs, rows, folder, kind=kind, threat=threat, options=choices, seed=seed, machine=machine,
                progress=progress,
            )  # fmt: skip
    if rows is not None:
        show.share(share, folder, json=json, quiet=quiet)
        return
    if json:
        show.record(record)
    elif not quiet:
        print_record(record, kind)


def print_record(record: dict[str, Any], kind: str) -> None:
    """Print a few lines on stdout."""
    from unfooled.cli import show
    from unfooled.workflows.rebuilding import attacks_images

    quantiles, moved = record["residual"]["stored"], attacks_images(kind)
    figure, end = ("margin over the target", "target reached") if moved else ("residual", "done early")
    show.out.print(f"{figure}, median {quantiles['0.5']:.3f}, 95 % below {quantiles['0.95']:.3f}")
    show.out.print(f"{end}  {100 * record['reached']:.1f} %")
    if record.get("undefined"):
        show.out.print(f"no finite answer  {record['undefined']} samples, which are not counted as reached")
    show.out.print(f"{show.plain(record['out'])}: {record['n']} samples", soft_wrap=True)
    for warning in record["warnings"]:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
