"""`unfooled study`: reproduce a published experiment."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unfooled.cli import catalog, options
from unfooled.cli.errors import Refused

if TYPE_CHECKING:
    from unfooled.studies.common.records import StudySummary

SCALES = ("small", "medium", "full")
OWN_NETWORK = "studies.attention:OwnNetwork"
"""The value that the options under Inputs make, for studies that take one."""


def study(
    name: Annotated[str | None, typer.Argument(help="Of the study; --list says what there is.")] = None,
    scale: Annotated[str, typer.Option("--scale", help=f"{', '.join(SCALES)}.")] = "small",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder; a second start continues it. runs/NAME-SCALE if not given.")
    ] = None,
    known: Annotated[bool, typer.Option("--list", help="Say what there is and what it costs.")] = False,
    seed: options.SeedOpt = 0,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds, from --seed on.")] = 1,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="One of the scale's data sets, where it has several; repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A network of your own, where the study takes one (attention).")
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="With --model: CSV of where the objects are in --data.")
    ] = None,
    arch: options.ArchOpt = None,
    n: options.NOpt = None,
    split: options.SplitOpt = "test",
    mean: options.MeanOpt = None,
    std: options.StdOpt = None,
    size: options.SizeOpt = None,
    labels: options.LabelsOpt = None,
    device: options.DeviceOpt = "auto",
    threads: options.ThreadsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Reproduce a published experiment, and say which of its claims hold.

    The options under Inputs go with --model. For example:

        unfooled study broken-defences --scale small --out runs/broken-defences
    """
    if known:
        listing(catalog.STUDIES, json=json)
        return
    if name is None:
        raise Refused(f"which study? There are {', '.join(catalog.STUDIES)}; unfooled study --list says more")
    path, _, costs = catalog.choose(catalog.STUDIES, name, "study")
    catalog.choose(costs, scale, "scale")
    if seeds < 1:
        raise Refused(f"--seeds is {seeds}; it must be at least 1")
    where = options.machine(device, threads, seed=seed + seeds - 1)
    from unfooled.cli import audit, show
    from unfooled.report.study_page import render_study

    folder, compute = out or Path("runs") / f"{name}-{scale}", catalog.resolve(path)
    given = {
        "model": model, "boxes": boxes, "arch": arch, "n": n, "labels": labels,
        "split": None if split == "test" else split, "mean": catalog.numbers(mean, "--mean"),
        "std": catalog.numbers(std, "--std"), "image_size": catalog.size(size),
    }  # fmt: skip
    own = {option: value for option, value in given.items() if value is not None}
    takes = inspect.signature(compute).parameters
    more: dict[str, Any] = {"data": data} if data else {}
    if own and "own" in takes:
        own = {"own": catalog.resolve(OWN_NETWORK)(**own)}
    more |= own
    if "device" in takes or device not in ("auto", "cpu"):
        more["device"] = where
    for option in more:
        if option not in takes:
            flag = {"image_size": "size"}.get(option, option)
            raise Refused(f"the study {name} takes no --{flag}; leave it out")
    with show.stages(quiet or json) as progress:
        found = compute(
            scale, out=folder, seeds=range(seed, seed + seeds), progress=progress, command=audit.command(), **more
        )
    page = render_study(folder)
    if json:
        typer.echo(found.model_dump_json(indent=2))
    elif not quiet:
        tell(found)
        show.out.print(f"page: {page}", soft_wrap=True)


def listing(studies: Mapping[str, tuple[str, str, Mapping[str, str]]], *, json: bool) -> None:
    """What there is, on stdout."""
    if json:
        import json as lib

        typer.echo(lib.dumps({k: {"asks": asks, "costs": dict(costs)} for k, (_, asks, costs) in studies.items()}))
        return
    from unfooled.cli import show

    for name, (_, asks, costs) in studies.items():
        show.out.print(f"[bold]{name}[/bold]  {asks}", soft_wrap=True)
        for scale, cost in costs.items():
            show.out.print(f"  {scale:<7} [dim]{cost}", soft_wrap=True)


def tell(found: StudySummary) -> None:
    """Claims as a table, notes below."""
    from rich.markup import escape
    from rich.table import Table

    from unfooled.cli import show

    colours = {"holds": "green", "fails": "bold red", "undecided": "yellow"}
    table = Table(title=found.title, title_justify="left", header_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("claim", "", "value", "n"):
        table.add_column(heading, overflow="fold")
    for claim in found.claims:
        table.add_row(escape(claim.claim), f"[{colours[claim.verdict]}]{claim.verdict}", figure(claim), str(claim.n))
    show.out.print(table)
    for note in found.notes:
        show.out.print(f"[dim]{escape(note)}", soft_wrap=True)


def figure(claim: Any) -> str:
    """0.96 [0.82, 1.00]."""
    if claim.value is None:
        return "not available"
    between = "" if claim.low is None or claim.high is None else f" [dim]\\[{claim.low:.2f}, {claim.high:.2f}][/dim]"
    return f"{claim.value:.2f}{between}"
