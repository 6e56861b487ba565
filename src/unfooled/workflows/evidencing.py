"""Write evidence from a run: text for a model card or a technical documentation."""

from __future__ import annotations

from pathlib import Path

from unfooled.evaluation.audit.records import Summary
from unfooled.report.evidence import KINDS
from unfooled.report.runs import read_run
from unfooled.runs.files import write_whole
from unfooled.runs.opening import Place
from unfooled.runs.records import Record
from unfooled.workflows.places import check_file
from unfooled.workflows.words import choose


class EvidenceRecord(Record):
    """Text from an audit.

    Attributes:
        format: Name of the format.
        text: The text, Markdown.
    """

    format: str
    text: str


def evidence(
    run: Place | Summary,
    format: str = "model-card",  # noqa: A002
    *,
    out: str | Path | None = None,
) -> EvidenceRecord:
    """Return text from the record of an audit: each sentence with a figure states its interval and n.

    Args:
        run: Run folder of a finished audit, its URL, or its `Summary`.
        format: "model-card", or "annex-iv" for parts of the technical documentation of Regulation (EU) 2024/1689.
        out: File to write, Markdown. None: none.

    Returns:
        The record with the text, which has a section on what was not tested; what an audit says nothing about is left
        to the author.

    Raises:
        BadInput: No finished audit, another format, or a file that cannot be written.
    """
    write = choose(KINDS, format, "format")
    path = None if out is None else check_file(out)
    text = write(run if isinstance(run, Summary) else read_run(run).summary)
    if path is not None:
        write_whole(path, text.encode())
    return EvidenceRecord(format=format, text=text)
