"""Write one page from run folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfooled.evaluation.audit.records import Summary
from unfooled.report import render
from unfooled.report.runs import read_summary
from unfooled.runs.opening import Place, is_url, open_store
from unfooled.workflows.errors import BadOption
from unfooled.workflows.places import check_file


def report(
    runs: Sequence[Place],
    out: str | Path = "report.html",
    *,
    title: str | None = None,
    store_options: str | Path | None = None,
) -> list[Summary]:
    """Write one self-contained page from one or more run folders.

    Args:
        runs: Run folders of finished audits, or URLs such as "s3://bucket/run", the one to compare with first.
        out: The page.
        title: Heading of the page; None: the audit's own.
        store_options: JSON file of options and credentials of the URLs' store. None: those of the environment.

    Returns:
        The runs' summaries.

    Raises:
        BadInput: no run, a folder without a finished audit, or a page that cannot be written.
    """
    out = check_file(out)
    if store_options is not None and not any(map(is_url, runs)):
        raise BadOption("{store_options} belongs to a URL, and there is none among the runs; leave it out")
    stores = [open_store(run, store_options if is_url(run) else None, write=False) for run in runs]
    render(stores, out, title=title)
    return [read_summary(store) for store in stores]
