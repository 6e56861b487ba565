"""Shares of the samples, each computed by a command of its own, and joined afterwards.

    audit --rows 0:500       its folder holds the chunks that begin in rows 0 to 499, up to the first stage that
    audit --rows 500:1000    selects its samples from all of them
    merge                    joins the chunks, and goes on with the audit as an ordinary start

A share has the settings of the whole run, so that its chunks are those that the whole run would store. Of a stage with
fewer rows than there are samples, a share computes the chunks that begin in the same part of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from unfooled.core.errors import BadInput, option
from unfooled.runs.claims import Claims
from unfooled.runs.folder import CONFIG, Folder, open_folder, started
from unfooled.runs.opening import is_url, url_text
from unfooled.runs.records import Record, read_record, write_record
from unfooled.runs.settings import parse, refuse_changed, settings_hash
from unfooled.runs.store import LocalStore

FILE = "share.json"
"""File that marks a folder as a share."""
ONE_RUN = "merge shares of one run"
"""Remedy for shares that do not belong together."""
COPY = "copy it to this machine"
"""Remedy for a share behind a URL."""
CHUNKS, STARTS = "chunks", "starts"
SPAN = re.compile(r"(\d+):(\d+)")


class Waiting(BaseException):
    """Sign that a share is computed up to a stage that waits for the others; no `Exception`, see `core.pulse`.

    Args:
        stage: Description of the stage.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        super().__init__(stage)


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


def check_local(place: object, *, remedy: str = "give a folder of this machine") -> None:
    """Refuse a URL as the place of a share.

    Raises:
        BadInput: It is a URL.
    """
    if is_url(place):
        raise BadInput(f"{url_text(place)} is a URL, and a share lies in a folder; {remedy}")


def check_audit_local(place: object) -> None:
    """Refuse a URL as the place of a share of an audit: starts of an audit behind a URL share it by themselves.

    Raises:
        BadInput: It is a URL.
    """
    same = f"the same command without {option('rows')}"
    check_local(place, remedy=f"{same}, started several times, shares a run behind a URL")


def write_share(folder: Path, share: Share) -> Share:
    """Write the record of a share, and return it."""
    write_record(folder / FILE, share)
    return share


def compute_share(folder: Path, share: Share, compute: Callable[[], object]) -> Share:
    """Compute a share, and return its record, which is also written.

    Args:
        folder: Folder of the share, opened by its `Run`.
        share: The share.
        compute: The work of the whole run, which stops at the first stage that waits for other shares.
    """
    write_share(folder, share)
    waits = ""
    try:
        compute()
    except Waiting as end:
        waits = end.stage
    return write_share(folder, share.model_copy(update={"finished": True, "waits": waits}))


def join(folders: Sequence[Path], out: Path) -> Share:
    """Join the chunks of all shares of a run in one folder, in which the run goes on as at any other start.

    Args:
        folders: Folders of the shares, in any order.
        out: Folder of the run; a second start continues.

    Returns:
        The record of the first share.

    Raises:
        BadInput: Shares that are not finished, overlap, leave out rows or belong to different runs, or a folder that
            holds something else.
    """
    shares = {folder: read_share(folder) for folder in folders}
    if len(shares) < len(folders) or not shares:
        raise BadInput("a share is named twice" if shares else "there are no shares to merge")
    check_fit(shares)
    sources = {folder: _opened(folder) for folder in shares}
    first, settings = next((folder, settings) for folder, (settings, _) in sources.items())
    for folder, (other, _) in sources.items():
        refuse_changed(folder, settings, other, kind="run", remedy=ONE_RUN)
    target = _target(out, settings)
    for _, source in sources.values():
        _copy(source, target)
    return shares[first]


def check_fit(shares: dict[Path, Share]) -> None:
    """Refuse shares of different work, or whose rows overlap or leave some out."""
    one = next(iter(shares))
    for folder, share in shares.items():
        for name in ("command", "n", "chunk", "waits"):
            mine, others = getattr(shares[one], name), getattr(share, name)
            if mine != others:
                what = f"{name} was {mine!r}, here it is {others!r}"
                if name == "waits":
                    what = f"one waits for {mine or 'nothing'}, the other for {others or 'nothing'}"
                raise BadInput(f"{folder} does not belong to {one}: {what}; {ONE_RUN}")
    end, last = 0, one
    for folder, share in sorted(shares.items(), key=lambda item: item[1].rows):
        first, after = share.rows
        if first < end:
            raise BadInput(f"{last} and {folder} overlap: rows {first} to {min(end, after) - 1} are in both")
        if first > end:
            raise BadInput(f"rows {end} to {first - 1} are missing; add the share that has them")
        end, last = after, folder
    if end < shares[one].n:
        raise BadInput(f"rows {end} to {shares[one].n - 1} are missing; add the share that has them")


def _opened(folder: Path) -> tuple[dict[str, Any], Folder]:
    """Return the settings of a share, and its folder for reading.

    Raises:
        BadInput: The settings are missing or damaged, or of another version.
    """
    store = LocalStore(folder)
    try:
        layout, settings = parse(store.read(CONFIG) or b"")
    except ValueError as error:
        raise BadInput(f"{folder / CONFIG} cannot be read ({error}); start the share's command again") from error
    refuse_changed(folder, settings, settings, layout=layout, remedy=ONE_RUN)
    return settings, Folder(store, settings_hash(settings), Claims(store))


def _target(out: Path, settings: dict[str, Any]) -> Folder:
    """Open the folder of the merged run.

    Raises:
        BadInput: It holds something else, or another process works there.
    """
    if not started(out) and out.is_dir() and any(out.iterdir()):
        raise BadInput(f"{out} is not empty and holds no merged run; choose another {option('out')}")
    if (out / FILE).is_file():
        raise BadInput(f"{out} is itself a share; choose another {option('out')}")
    target = open_folder(out, settings)
    if target.claims.live():
        raise BadInput(f"another process works in {out}; wait for it, or choose another {option('out')}")
    return target


def _copy(source: Folder, target: Folder) -> None:
    """Copy the sealed files of a share, and the times of its starts; damaged files are computed again."""
    assert source.store is not None and target.store is not None
    for name in source.store.list(CHUNKS, deep=True):
        if name.rpartition("/")[2].startswith("."):
            continue
        if name.endswith(".json"):
            content = source.read_json(name)
            if content is not None and target.read_json(name) is None:
                target.store_json(name, content)
        elif (stored := source.read_rows(name, None)) is not None:
            target.store_rows(name, *stored)
    for name in source.store.list(STARTS):
        target.store.write_whole(name, source.store.read(name) or b"")
