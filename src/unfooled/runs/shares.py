"""Shares of the samples, each computed by a command of its own, and joined afterwards.

    audit --rows 0:500       its folder holds the chunks that begin in rows 0 to 499, up to the first stage that
    audit --rows 500:1000    selects its samples from all of them
    merge                    joins the chunks, and goes on with the audit as an ordinary start

A share has the settings of the whole run, so that its chunks are those that the whole run would store. Of a stage with
fewer rows than there are samples, a share computes the chunks that begin in the same part of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, option
from unfooled.runs.claims import Claims
from unfooled.runs.folder import CONFIG, Folder, open_folder, started
from unfooled.runs.opening import Place, open_store
from unfooled.runs.records import write_record
from unfooled.runs.settings import parse, refuse_changed, settings_hash
from unfooled.runs.share_records import FILE, Share, read_share
from unfooled.runs.store import LocalStore, Store

ONE_RUN = "merge shares of one run"
"""Remedy for shares that do not belong together."""
CHUNKS, STARTS = "chunks", "starts"


class Waiting(BaseException):
    """Sign that a share is computed up to a stage that waits for the others; no `Exception`, see `core.pulse`.

    Args:
        stage: Description of the stage.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage
        super().__init__(stage)


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


def join(folders: Sequence[Path], out: Place) -> Share:
    """Join the chunks of all shares of a run in one place, in which the run goes on as at any other start.

    Args:
        folders: Folders of the shares, in any order.
        out: Folder, URL or open store of the run; a second start continues.

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
        for name in ("command", "n", "chunk"):
            mine, others = getattr(shares[one], name), getattr(share, name)
            if mine != others:
                what = f"{name} was {mine!r}, here it is {others!r}"
                raise BadInput(f"{folder} does not belong to {one}: {what}; {ONE_RUN}")
    # A share that holds every part waits for nothing, such as the first one where all samples are one part.
    waiting = {folder: share.waits for folder, share in shares.items() if share.waits}
    for folder, waits in waiting.items():
        other, before = next(iter(waiting.items()))
        if waits != before:
            what = f"one waits for {before}, the other for {waits}"
            raise BadInput(f"{folder} does not belong to {other}: {what}; {ONE_RUN}")
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


def _target(out: Place, settings: dict[str, Any]) -> Folder:
    """Open the place of the merged run.

    Raises:
        BadInput: It holds something else, or another process works there.
    """
    store = open_store(out)
    place = store.place()
    if not started(store) and not _is_empty(store):
        raise BadInput(f"{place} is not empty and holds no merged run; choose another {option('out')}")
    if store.size(FILE) is not None:
        raise BadInput(f"{place} is itself a share; choose another {option('out')}")
    target = open_folder(store, settings)
    if target.claims.live():
        raise BadInput(f"another process works in {place}; wait for it, or choose another {option('out')}")
    return target


def _is_empty(store: Store) -> bool:
    """Return whether there is nothing in a store, folders included."""
    if isinstance(store, LocalStore):
        return not (store.root.is_dir() and any(store.root.iterdir()))
    return not store.list(deep=True)


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
