"""`unfooled merge`: one result from the shares that `--rows` computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli import options


def merge(
    runs: Annotated[list[str], typer.Argument(help="Folders of all shares.")],
    out: Annotated[
        str,
        typer.Option(
            "--out", help="Run folder of an audit, file of an attack or set, or a URL; a second start continues."
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Model, where it lies elsewhere than for the shares.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data, where they lie elsewhere.")] = None,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish/--no-finish", help="Go on once the parts are joined; copies of --out can be new shares else."
        ),
    ] = True,
    trust_shares: Annotated[
        bool, typer.Option("--trust-shares", help="Run code that the shares name; only for shares of your own.")
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Device; that of the shares if not given.", rich_help_panel=options.SPEED),
    ] = None,
    threads: options.ThreadsOpt = None,
    batch: options.BatchOpt = None,
    memory: options.MemoryOpt = None,
    workers: options.WorkersOpt = "1",
    scheduler: options.SchedulerOpt = None,
    store_options: options.StoreOptionsOpt = None,
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Join shares that `audit`, `attack` or `features` computed with --rows, and go on to the result of a single run.

    For batch systems whose jobs have no folder in common. Loads the model and the data that the shares name, code only
    with --trust-shares. For example:

        unfooled merge shares/0 shares/1 shares/2 shares/3 --out runs/mine
    """
    from unfooled import workflows
    from unfooled.cli import attack, features, show
    from unfooled.evaluation.audit.records import Summary
    from unfooled.runs.opening import is_url
    from unfooled.runs.share_records import Share, read_share

    before = {} if is_url(runs[0]) else read_share(Path(runs[0])).work or {}
    place = device or str(before.get("machine", {}).get("device", "auto"))
    silent = quiet or json
    with show.stages(silent, answers=True) as progress:
        result = workflows.merge(
            runs, out, store_options=store_options, model=model, data=data, finish=finish, trust_shares=trust_shares,
            machine=workflows.Machine(place, threads, batch, memory, workers, scheduler), command=options.command(),
            notify=None if silent else lambda text: show.err.print(f"[dim]{show.plain(text)}", soft_wrap=True),
            progress=progress,
        )  # fmt: skip
    if json:
        show.record(result)
    elif isinstance(result, Summary):
        show.verdict(result) if quiet else show.summaries([result])
        if not quiet:
            show.page(f"{out.rstrip('/')}/report.html")
    elif isinstance(result, Share):
        if not quiet:
            waits = f"; next: {show.plain(result.waits)}" if result.waits else ""
            show.out.print(f"joined in {show.plain(out)}{waits}", soft_wrap=True)
    elif not quiet:
        if isinstance(result, dict):
            features.print_record(result, str(before["kind"]))
        else:
            attack.print_record(result)
