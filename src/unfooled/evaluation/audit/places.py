"""Store of an audit's run, and the start that writes the result where several starts share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from unfooled.core.errors import BadInput
from unfooled.evaluation.audit.records import Summary
from unfooled.evaluation.audit.storing import SUMMARY
from unfooled.runs.claims import DRIVER, Claims
from unfooled.runs.folder import started
from unfooled.runs.opening import Place, open_store, seen_by_helpers
from unfooled.runs.records import MAX_BYTES, Config, parse_record
from unfooled.runs.store import LocalStore, Store

Settle = Callable[[Summary, Callable[[Summary], None]], Summary]
"""(summary, write) -> the summary of the run, written by this start or by the one that leads."""


def open_run(out: Place | None, *, shared: bool) -> Store | None:
    """Open the store of a run; None for none.

    Args:
        out: Folder, URL or open store.
        shared: True if other processes help.

    Raises:
        BadInput: The store cannot be used, or not by other processes.
    """
    return None if out is None else seen_by_helpers(open_store(out), helped=shared)


@contextmanager
def run_place(store: Store | None, config: Config, *, needed: bool) -> Iterator[Store | None]:
    """Yield the store of a run.

    Args:
        store: The user's. None: none was asked for.
        config: Settings of the run; a summary of others is removed.
        needed: True if chunks are streamed or shared: without a store, they lie in a temporary folder.
    """
    if store is not None:
        _drop_other(store, config)
    if store is not None or not needed:
        yield store
        return
    with TemporaryDirectory(prefix="unfooled-") as place:
        yield LocalStore(Path(place))


@contextmanager
def leading(store: Store | None, claims: Claims) -> Iterator[Settle]:
    """Let one start of several lead: it writes the result, and the others return what it wrote.

    A start that helps waits for the one that leads; if that one has died, it writes the result itself.

    Args:
        store: Store of the results. None: they are not written.
        claims: Claims of the run.
    """
    if store is None:
        yield lambda summary, write: summary
        return
    before = store.read(SUMMARY)
    with claims.claimed(DRIVER) as leads:

        def settle(summary: Summary, write: Callable[[Summary], None]) -> Summary:
            if leads:
                write(summary)
                return summary
            with claims.claimed(DRIVER, wait=True):
                data = store.read(SUMMARY)
                if data is not None and data != before:
                    return parse_record(data, Summary, store.place(SUMMARY))
                write(summary)
                return summary

        yield settle


def _drop_other(store: Store, config: Config) -> None:
    """Remove the summary of other settings, which a store without its `config.json` may hold."""
    if started(store):
        return
    try:
        data = store.read(SUMMARY, most=MAX_BYTES)
        before = None if data is None else parse_record(data, Summary, store.place(SUMMARY))
    except BadInput:
        return
    if before is not None and any(
        getattr(before, name) != getattr(config, name) for name in ("n", "threat", "seed", "options")
    ):
        store.remove(SUMMARY)
