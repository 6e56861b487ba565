"""`unfooled report`: one page from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli import options


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or a page's worth of them side by side.")],
    out: Annotated[Path, typer.Option("--out", help="The page.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Its heading.")] = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Write one self-contained page from one or more run folders."""
    from unfooled.evaluation.audit.records import Summary
    from unfooled.report import render
    from unfooled.runs.records import read_record

    page = render(runs, out, title=title)
    if json:
        import json as lib

        typer.echo(
            lib.dumps([read_record(r / "summary.json", Summary).model_dump(mode="json") for r in runs], indent=2)
        )
    elif not quiet:
        from unfooled.cli import show

        show.summaries([read_record(r / "summary.json", Summary) for r in runs])
        show.out.print(f"page: {page}", soft_wrap=True)
