"""`unfooled purify`: fit a purifier to a network and its data, and purify images with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources

if TYPE_CHECKING:
    from unfooled.workflows import AppliedRecord, PurifierRecord

app = typer.Typer(
    no_args_is_help=True,
    help="Fit a purifier of images to a network, and purify data with it. Only an attack shows what it is worth.",
)


@app.command(name="fit")
def fit(
    model: options.ModelOpt,
    out: Annotated[Path, typer.Option("--out", help="Folder of the purifier; an earlier one in it is replaced.")],
    data: options.DataOpt = "digits",
    arch: options.ArchOpt = None,
    clusters: Annotated[int, typer.Option("--clusters", help="Largest number of clusters of a class.")] = 5,
    atoms: Annotated[int, typer.Option("--atoms", help="Atoms of the dictionary of a cluster.")] = 64,
    patch: Annotated[
        int | None, typer.Option("--patch", help="Side of a patch; 8, or half the image's side if that is less.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Distance of patches in use; a quarter of a patch if not given.")
    ] = None,
    smooth: Annotated[
        float,
        typer.Option("--smooth", help="Weight of the split into bands; the larger, the more is rebuilt."),
    ] = 5.0,
    sparsity: Annotated[
        float,
        typer.Option("--sparsity", help="Weight of the codes' absolute values; the larger, the fewer atoms are used."),
    ] = 0.3,
    layer: Annotated[
        str | None,
        typer.Option("--layer", help="Layer whose output is clustered; the linear one before the last if not given."),
    ] = None,
    min_size: Annotated[int, typer.Option("--min-size", help="Least number of images of a cluster.")] = 50,
    n: options.NOpt = None,
    split: options.SplitOpt = "train",
    shuffle: options.ShuffleOpt = False,
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Fit a semantic purifier: clusters of latents, and a dictionary of high frequencies for each.

    For example, to a network of the digits:

        unfooled purify fit --model runs/net.pt --data digits --out runs/purifier

    Clean accuracy is printed without and with it, on images that were held out of the fit.
    """
    check_sources(model, data)
    from unfooled import workflows
    from unfooled.cli import show

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, n, shuffle, mean, std, size, labels, channels, trust_pickle, limits
    )
    with show.stages(quiet or json) as progress:
        record = workflows.purify_fit(
            inputs,
            out,
            options=workflows.PurifierOptions(clusters, atoms, patch, stride, smooth, sparsity, layer, min_size),
            seed=seed,
            machine=workflows.Machine(device, threads, batch),
            progress=progress,
        )
    if json:
        show.record(record)
    elif not quiet:
        print_fit(record)


@app.command(name="apply")
def apply(
    purifier: Annotated[Path, typer.Argument(help="Folder of the purifier.", metavar="PURIFIER")],
    out: Annotated[Path, typer.Option("--out", help="Purified data: an .npz, or a folder of PNG files.")],
    data: options.DataOpt = "digits",
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model that it was fitted with, if that is code of your own: file.py:factory."),
    ] = None,
    split: options.SplitOpt = "test",
    n: options.NOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    channels: options.ChannelsOpt = None,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Purify images, and store them as data that --data reads; images without labels as files of the same names.

    For example:

        unfooled purify apply runs/purifier --data digits --out runs/purified.npz
    """
    from unfooled import workflows
    from unfooled.cli import show

    with show.stages(quiet or json) as progress:
        record = workflows.purify_apply(
            purifier,
            data,
            out,
            model=model,
            split=split,
            n=n,
            size=size,
            labels=labels,
            channels=channels,
            limits=workflows.Limits(max_pixels, max_bytes, max_classes),
            machine=workflows.Machine(device, threads, batch),
            progress=progress,
        )
    if json:
        show.record(record)
    elif not quiet:
        print_applied(record)


def print_fit(record: PurifierRecord) -> None:
    """Print the clusters, and the figures of the held-out images."""
    from unfooled.cli import show

    counts = ", ".join(f"{show.plain(one.name)}: {one.clusters}" for one in record.classes)
    show.out.print(f"clusters  {counts}", soft_wrap=True)
    total = sum(one.clusters for one in record.classes)
    show.out.print(
        f"dictionaries  {total} of {record.atoms} atoms, {record.patch}x{record.patch} pixels, stride {record.stride}; "
        f"{record.n} images, {record.seconds:.1f} s",
        soft_wrap=True,
    )
    show.out.print(f"clean accuracy without  {show.percent(record.before)}, n = {record.before.n}", soft_wrap=True)
    show.out.print(f"clean accuracy behind it  {show.percent(record.after)}", soft_wrap=True)
    show.out.print(f"PSNR  {show.mean(record.psnr, 'dB', 1)}", soft_wrap=True)
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
    show.out.print(f"{show.plain(record.out)}: what it adds is seen only under attacks on the guarded network",
                   soft_wrap=True)  # fmt: skip


def print_applied(record: AppliedRecord) -> None:
    """Print the PSNR, the place of the images, and warnings."""
    from unfooled.cli import show

    show.out.print(f"PSNR  {show.mean(record.psnr, 'dB', 1)}, {record.seconds:.1f} s", soft_wrap=True)
    show.out.print(f"{show.plain(record.out)}: {record.n} images", soft_wrap=True)
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
