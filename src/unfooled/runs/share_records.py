"""Record of a share of the samples of a run, which is read without torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import Field

from unfooled.core.errors import BadInput, option
from unfooled.runs.opening import is_url, url_text
from unfooled.runs.records import Record, read_record

FILE = "share.json"
"""File that marks a folder as a share."""
COPY = "copy it to this machine"
"""Remedy for a share behind a URL."""
SPAN = re.compile(r"(\d+):(\d+)")


class Share(Record):
    """A share of the samples of a run.

    Attributes:
        command: Name of the command.
        rows: First row, and the row after the last one.
        n: Number of samples of the run.
        chunk: Samples per file.
        whole: Stages that each share computes for all samples, since they are cheap and others depend on them.
        finished: True once everything is computed that the share can compute alone.
        waits: Description of the stage that waits for the other shares. Empty: there is none.
        work: Names and options from which the merged run goes on. None: it was given objects.
    """

    command: str
    rows: tuple[int, int]
    n: int
    chunk: int
    whole: tuple[str, ...] = ()
    finished: bool = False
    waits: str = ""
    work: dict[str, Any] | None = Field(default=None)

    def checked(self) -> Share:
        """Return the share.

        Raises:
            BadInput: Its rows are not rows of the run.
        """
        first, last = self.rows
        if not 0 <= first < last <= self.n:
            raise BadInput(f"{option('rows', f'{first}:{last}')} lies outside the {self.n} samples, 0:{self.n}")
        return self

    def span(self, stage: str, n: int, chunk: int) -> tuple[int, int]:
        """Return the rows of a stage with n rows that belong to the share, [a, b): chunks that begin in its part."""
        if stage in self.whole:
            return 0, n
        # Chunk i begins at sample i * chunk * self.n / n; the first one at or after row a is the ceiling.
        first, last = (-(-row * n // (chunk * self.n)) * chunk for row in self.rows)
        return min(first, n), min(last, n)


def read_rows(text: str) -> tuple[int, int]:
    """Read rows such as "0:500", the last one excluded.

    Raises:
        BadInput: The text is something else.
    """
    match = SPAN.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{option('rows')} is {text!r}; give the first row and the one after the last, 0:500")
    if int(match[1]) >= int(match[2]):
        raise BadInput(
            f"{option('rows')} is {text!r}, which holds no row: the second number is the row after the last one, so "
            "that 0:500 is rows 0 to 499"
        )
    return int(match[1]), int(match[2])


def read_share(folder: Path) -> Share:
    """Read the record of a share.

    Raises:
        BadInput: The folder holds none, or one that is not finished.
    """
    if not (folder / FILE).is_file():
        if is_url(folder) and not folder.exists():
            check_local(folder, remedy=COPY)
        what = f"is no share: it was not made with {option('rows', 'A:B')}" if folder.exists() else "does not exist"
        raise BadInput(f"{folder} {what}")
    share = read_record(folder / FILE, Share)
    if not share.finished:
        raise BadInput(f"{folder} is not finished; start its command again, which continues it")
    return share.checked()


def check_local(place: object, *, remedy: str = "") -> None:
    """Refuse a URL as the place of a share: starts of one command behind a URL share its work by themselves.

    Args:
        place: Folder of the share.
        remedy: What to do. Empty: start the command without rows.

    Raises:
        BadInput: It is a URL.
    """
    if is_url(place):
        same = f"the same command without {option('rows')}, started several times, shares its work behind a URL"
        raise BadInput(f"{url_text(place)} is a URL, and a share lies in a folder; {remedy or same}")
