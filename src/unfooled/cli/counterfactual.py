"""`unfooled counterfactual`: the attributes that would have to change for another class, and pixels that do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options
from unfooled.cli.first_look import check_sources

if TYPE_CHECKING:
    from unfooled.counterfactuals.records import Counterfactual, CounterfactualRecord

SHOWN = 8  # attributes of an image that are printed


def counterfactual(
    model: options.ModelOpt,
    attributes: Annotated[
        Path,
        typer.Option(
            "--attributes",
            help="CSV of images and their attributes: a column path, and one for each attribute; empty where unknown.",
            rich_help_panel=options.SOURCE,
        ),
    ],
    data: options.DataOpt,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            help="Folder that the paths of --attributes are below; by default that of the CSV or of --data.",
            rich_help_panel=options.SOURCE,
        ),
    ] = None,
    arch: options.ArchOpt = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Class to reach, a name or a number; the nearest other class if not given."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="Attribute that must stay as it is; repeatable.")
    ] = None,
    threat: options.ThreatOpt = "l2:3",
    steps: Annotated[int, typer.Option("--steps", help="Gradients of each search for a changed image.")] = 200,
    index: Annotated[
        str | None,
        typer.Option("--index", help="Numbers of the images, from 0: 3 or 0,3,7; the first --n if not given."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for counterfactual.html, counterfactual.json and counterfactual.npz.")
    ] = Path("counterfactual"),
    n: options.NOpt = 8,
    split: options.SplitOpt = "test",
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
    """Find the attributes that would have to change for an image to be of another class, and pixels that do it.

    The attributes are those of a concept network, or are read off any frozen network by probes that are fitted to the
    images of the table. --data may be one image, a folder of images, or a data set:

        unfooled counterfactual --model net.pt --attributes birds.csv --data photo.png --target auklet --keep crest
    """
    check_sources(model)
    from unfooled import workflows
    from unfooled.cli import show

    limits = workflows.Limits(max_pixels, max_bytes, max_classes)
    inputs = workflows.Inputs(
        model, data, arch, split, n, shuffle, mean, std, size, labels, channels, trust_pickle, limits
    )
    with show.stages(quiet or json) as progress:
        record = workflows.counterfactual(
            inputs, workflows.AttributeFiles(attributes, images), target=target, keep=keep or (), threat=threat,
            steps=steps, index=index, out=out, seed=seed, machine=workflows.Machine(device, threads, batch),
            command=options.command(), progress=progress,
        )  # fmt: skip
    if json:
        show.record(record)
    elif not quiet:
        print_record(record, out)


def print_record(record: CounterfactualRecord, out: Path) -> None:
    """Print the answer and a table for each image, the success rates, the warnings and the page."""
    from unfooled.cli import show
    from unfooled.report.sections.counterfactual import auc_text

    poor = {fact.name for fact in record.attributes if not fact.usable}
    must_stay = {fact.name for fact in record.attributes if fact.kept}
    for one in record.results:
        print_one(one, poor, must_stay)
    for name, text in record.success.items():
        show.out.print(f"[dim]{show.plain(name)}: {show.plain(text)}", soft_wrap=True)
    show.out.print(f"[dim]{show.plain(auc_text(record))}", soft_wrap=True)
    unread = [fact.name for fact in record.attributes if not fact.usable and fact.name not in record.left_out]
    if unread:
        listed = f"{len(unread)} of {len(record.attributes)} attributes cannot be read off the network (AUC below 0.8)"
        show.out.print(f"[yellow]{listed}; no edit changes them", soft_wrap=True)
    if record.left_out:
        show.out.print(
            f"[yellow]left out, fewer than 5 images of one value: {show.plain(', '.join(record.left_out))}",
            soft_wrap=True,
        )
    for warning in record.warnings:
        show.out.print(f"[yellow]{show.plain(warning)}", soft_wrap=True)
    show.page(out / "counterfactual.html")


def print_one(one: Counterfactual, poor: set[str], must_stay: set[str]) -> None:
    """Print the answer about an image, the attributes that change most, and those that must stay."""
    from rich.table import Table

    from unfooled.cli import show

    show.out.print(
        f"[bold]{show.plain(one.item)}[/bold]: {show.plain(one.predicted)}. {show.plain(one.sentence)}", soft_wrap=True
    )
    if one.outcome != "same":
        show.out.print(show.plain(whole_flips(one)), soft_wrap=True)
    if not one.curve:
        return
    lines = Table(title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    lines.add_column("attribute", overflow="fold")
    for heading in ("before", "wanted", "achieved"):
        lines.add_column(heading, justify="right", no_wrap=True)
    rows = sorted(one.rows, key=lambda row: (-abs(row.asked), -abs(row.reached or 0.0)))
    for row in [*rows[:SHOWN], *(row for row in rows[SHOWN:] if row.name in must_stay)]:
        values = (show.number(value) for value in (row.before, row.wanted, row.achieved))
        style = "yellow" if row.stays is False else "dim" if row.name in poor else ""
        lines.add_row(f"{show.plain(row.name)}{' (must stay)' if row.name in must_stay else ''}", *values, style=style)
    show.out.print(lines)
    selective = "; ".join(
        f"{show.plain(name)}: {'valid' if figures.valid else 'not valid'}"
        f"{' (also in 8 bits)' if figures.valid_8bit else ''}, selectivity {show.number(figures.selectivity)}, "
        f"l_2 distance {show.number(figures.distance)}"
        f"{'' if figures.noise is None else f', noise ratio {show.number(figures.noise)}'}"
        for name, figures in one.figures.items()
    )
    show.out.print(f"[dim]{selective}", soft_wrap=True)


def whole_flips(one: Counterfactual) -> str:
    """Return the sentence on the fewest whole attributes to flip."""
    if one.whole is None:
        return "No flips of whole attributes are enough."
    return f"{'Fewest' if one.whole_exact else 'At most these'} whole attributes to flip: {', '.join(one.whole)}."
