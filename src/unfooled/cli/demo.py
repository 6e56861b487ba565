"""`unfooled demo`: training and audits on the embedded data, in under three minutes on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unfooled.cli import options


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder; a second start continues it.")] = Path("runs/demo"),
    n: Annotated[int | None, typer.Option("--n", help="Number of test samples; all 540 if not given.")] = None,
    seed: options.SeedOpt = 0,
    device: options.DeviceOpt = "cpu",
    threads: options.ThreadsOpt = 1,  # more threads slow down images of 64 pixels
    json: options.JsonOpt = False,
    quiet: options.QuietOpt = False,
) -> None:
    """Train a standard and a hardened network on handwritten digits, audit both, and write the page.

    The data are the 8 x 8 scans that come with scikit-learn; nothing is downloaded.
    """
    from unfooled import workflows
    from unfooled.cli import show

    with show.stages(quiet or json) as progress:
        summaries = workflows.demo(
            out, n=n, seed=seed, machine=workflows.Machine(device, threads), progress=progress
        )  # fmt: skip
    if json:
        show.records(summaries)
    elif not quiet:
        show.summaries(summaries)
        show.page(out / "report.html")
