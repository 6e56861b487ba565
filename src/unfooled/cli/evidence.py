"""`unfooled evidence`: text for a model card or a technical documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli import options


def evidence(
    run: Annotated[str, typer.Argument(help="Run folder of a finished audit, or its URL.")],
    format: Annotated[str, typer.Option("--format", help="Format: model-card or annex-iv.")] = "model-card",  # noqa: A002
    out: Annotated[Path | None, typer.Option("--out", help="Markdown file to write; printed if not given.")] = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Write text for a model card, or for parts of a technical documentation, from the record of an audit.

    Each sentence with a figure states its interval and number of samples; what was not tested has a section of its own.
    """
    from unfooled import workflows
    from unfooled.cli import show

    record = workflows.evidence(run, format, out=out)
    if json:
        show.record(record)
    elif out is None:
        typer.echo(record.text.rstrip())
    elif not quiet:
        show.out.print(f"written: {show.plain(out)}", soft_wrap=True)
