"""`unfooled report`: one page from run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli import options


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders or URLs, one or several to compare.")],
    out: Annotated[Path, typer.Option("--out", help="Page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page.")] = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Write one self-contained page from one or more run folders."""
    from unfooled import workflows
    from unfooled.cli import show

    summaries = workflows.report(runs, out, title=title, store_options=store_options)
    if json:
        show.records(summaries)
    elif not quiet:
        show.summaries(summaries)
        show.page(out)
