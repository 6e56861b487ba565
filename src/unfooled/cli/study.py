"""`unfooled study`: reproduce a published experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import options
from unfooled.cli.errors import Refused
from unfooled.workflows import catalog

if TYPE_CHECKING:
    from unfooled.studies.common.records import StudySummary

SCALES = ("small", "medium", "full")
OWN_NETWORK = "studies.attention:OwnNetwork"
"""Dataclass that holds the options in the Inputs section of --help, for studies that take a user's network."""


def reproduce(
    name: Annotated[str | None, typer.Argument(help="Name of the study; --list shows them.")] = None,
    scale: Annotated[str, typer.Option("--scale", help=f"Scale: {', '.join(SCALES)}.")] = "small",
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder or URL; a second start continues it. runs/NAME-SCALE if not given."),
    ] = None,
    list_studies: Annotated[bool, typer.Option("--list", help="List the studies and their costs.")] = False,
    seed: options.SeedOpt = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="Number of seeds, from --seed on.")] = 1,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="One of the scale's data sets, where it has several; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Your own network, where the study takes one (attention).")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="With --model: CSV with the boxes of the objects in --data.")
    ] = None,
    arch: options.ArchOpt = None,
    n: options.NOpt = None,
    split: options.SplitOpt = "test",
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    channels: options.ChannelsOpt = None,
    trust_pickle: options.TrustOpt = False,
    max_pixels: options.PixelsOpt = options.PIXELS,
    max_bytes: options.BytesOpt = options.BYTES,
    max_classes: options.ClassesOpt = options.CLASSES,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Reproduce a published experiment, and say which of its claims hold.

    The options under Inputs go with --model. For example:

        unfooled study broken-defences --scale small --out runs/broken-defences
    """
    if list_studies:
        listing(json=json)
        return
    if name is None:
        raise Refused(f"which study? There are {', '.join(catalog.STUDIES)}; unfooled study --list says more")
    if seeds < 1:
        raise Refused(f"--seeds is {seeds}; it must be at least 1")
    from unfooled import workflows
    from unfooled.cli import show

    place = workflows.open_out(out or Path("runs") / f"{name}-{scale}", store_options, lasting=True)
    part = None if split == "test" else split
    with show.stages(quiet or json) as progress:
        summary = workflows.study(
            name, scale, out=place, seeds=range(seed, seed + seeds), data=data,
            own=workflows.OwnNetwork(
                model, boxes, arch, n, part, mean, std, size, labels, channels, trust_pickle or None
            ),
            limits=workflows.Limits(max_pixels, max_bytes, max_classes),
            machine=workflows.Machine(device, threads, None, None, workers, scheduler), command=options.command(),
            progress=progress,
        )  # fmt: skip
    if json:
        show.record(summary)
    elif not quiet:
        print_claims(summary)
        show.page(place.place("report.html"))


def listing(*, json: bool) -> None:
    """Print the studies and their costs."""
    if json:
        import json as lib

        rows = {name: {"asks": row.asks, "costs": dict(row.costs)} for name, row in catalog.STUDIES.items()}
        typer.echo(lib.dumps(rows))
        return
    from unfooled.cli import show

    for name, row in catalog.STUDIES.items():
        show.out.print(f"[bold]{name}[/bold]  {row.asks}", soft_wrap=True)
        for scale, cost in row.costs.items():
            show.out.print(f"  {scale:<7} [dim]{cost}", soft_wrap=True)


def print_claims(summary: StudySummary) -> None:
    """Print the answer, claims as a table, and notes below."""
    from rich.table import Table

    from unfooled.cli import show

    colours = {"holds": "green", "fails": "bold red", "undecided": "yellow"}
    table = Table(
        title=show.plain(summary.title), title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    for heading in ("claim", "", "value", "n"):
        table.add_column(heading, overflow="fold")
    for claim in summary.claims:
        table.add_row(
            show.plain(claim.claim), f"[{colours[claim.verdict]}]{claim.verdict}", value_of(claim), str(claim.n)
        )
    for answer in summary.answer:
        show.out.print(f"[bold]{show.plain(answer)}", soft_wrap=True)
    show.out.print(table)
    for note in summary.notes:
        show.out.print(f"[dim]{show.plain(note)}", soft_wrap=True)


def value_of(claim: Any) -> str:
    """Format a claim's value: 0.96 [0.82, 1.00]."""
    if claim.value is None:
        return "not available"
    between = "" if claim.low is None or claim.high is None else f" [dim]\\[{claim.low:.2f}, {claim.high:.2f}][/dim]"
    return f"{claim.value:.2f}{between}"
