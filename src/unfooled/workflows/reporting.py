"""Write one page from run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfooled.evaluation.audit.records import Summary
from unfooled.report import render
from unfooled.runs.records import read_record
from unfooled.workflows.places import check_file


def report(runs: Sequence[str | Path], out: str | Path = "report.html", *, title: str | None = None) -> list[Summary]:
    """Write one self-contained page from one or more run folders.

    Args:
        runs: Run folders of finished audits, the one to compare with first.
        out: The page.
        title: Heading of the page; None: the audit's own.

    Returns:
        The runs' summaries.

    Raises:
        BadInput: no run, a folder without a finished audit, or a page that cannot be written.
    """
    out = check_file(out)
    folders = [Path(run) for run in runs]
    render(folders, out, title=title)
    return [read_record(folder / "summary.json", Summary) for folder in folders]
