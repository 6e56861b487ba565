"""`unfooled doctor`: installed versions, devices and extras."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from unfooled.cli import options

if TYPE_CHECKING:
    from unfooled.workflows import Doctor


def doctor(
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Dask scheduler whose workers are asked for their versions.")
    ] = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Print versions, devices, free memory, and installed extras.

    Exit 2 if a required library cannot be used, or a worker of --scheduler has other versions.
    """
    from unfooled import workflows
    from unfooled.cli import show

    result = workflows.doctor(scheduler)
    if json:
        show.record(result)
    elif not quiet:
        print_table(result)
    if result.unusable:
        names = ", ".join(result.unusable)
        typer.echo(f"unfooled: {names} cannot be used; reinstall with pip install unfooled", err=True)
        sys.exit(2)
    if result.unfit:
        names = f"{', '.join(result.unfit[:5])}{', ...' if len(result.unfit) > 5 else ''}"
        typer.echo(f"unfooled: {names} cannot help; install the same versions there", err=True)
        sys.exit(2)


def print_table(result: Doctor) -> None:
    """Print a table on stdout."""
    from rich.table import Table

    from unfooled.cli import show
    from unfooled.workflows.examining import OPTIONAL_LIBRARIES, UNUSABLE

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("[bold]unfooled", show.plain(result.unfooled))
    table.add_row("Python", result.python)
    for name, version in result.libraries.items():
        table.add_row(name, f"[red]{show.plain(version)}" if version.startswith(UNUSABLE) else show.plain(version))
    for name, version in result.extras.items():
        missing = version.startswith(UNUSABLE)
        table.add_row(
            f"{name} [dim](optional)",
            f"[dim]not usable; for {OPTIONAL_LIBRARIES[name]}" if missing else show.plain(version),
        )
    for name, description in result.devices.items():
        table.add_row(f"device {show.plain(name)}", show.plain(description))
    for name, description in result.workers.items():
        shown = show.plain(description)
        table.add_row(f"worker {show.plain(name)}", f"[red]{shown}" if name in result.unfit else shown)
    folder, there = result.data["UNFOOLED_DATA"], result.data["there"]
    table.add_row("UNFOOLED_DATA", f"{show.plain(folder)}{'' if there else ' [dim](not there; optional)'}")
    show.out.print(table)
