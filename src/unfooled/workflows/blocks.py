"""Work on blocks of samples that several processes share through a folder, which is removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from unfooled.runs.chunks import Progress, Run
from unfooled.runs.folder import discard
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.opening import seen_by_helpers
from unfooled.runs.settings import Settings, settings_hash
from unfooled.runs.store import LocalStore, Store
from unfooled.workflows.errors import BadOption
from unfooled.workflows.machine import Machine


class Task(Protocol):
    """Work that a helper can load: a value that travels to other processes."""

    def loaded(self) -> tuple[Settings, Callable[[Run], object]]:
        """Load what the work is about; return what identifies it, and the work on a run."""


@contextmanager
def shared_run(
    task: Task, settings: Settings, machine: Machine, block: int, out: Store | None, progress: Progress | None = None
) -> Iterator[tuple[Run, Helpers]]:
    """Yield a run whose stages helpers share while the block of code works on it.

    Its chunks lie in the place of the result, in a folder that is named by the settings, so that a second start after a
    kill goes on. They are removed at the end.

    Args:
        task: The work, for the helpers.
        settings: What identifies the work, as `task` returns it; a helper with another is refused.
        machine: Machine whose helpers are used.
        block: Samples per chunk.
        out: Place of the result; without helpers only a URL is used, since work on this machine is quick. None: the
            run is in memory, or in a temporary folder of this machine.
        progress: Callback, see `Run`.

    Raises:
        BadInput: Helpers of other machines, and no place; or a place that is seen by this process alone.
    """
    helpers = Helpers(machine.helpers())
    if not helpers.count and (out is None or isinstance(out, LocalStore)):
        yield Run(None, settings, chunk=block, progress=progress), helpers
        return
    if machine.scheduler is not None and out is None:
        raise BadOption("{scheduler} needs {out}, a place that its workers see")
    with _parts(out, settings) as parts:
        store = seen_by_helpers(parts, helped=helpers.count > 0)
        run = Run(store, settings, chunk=block, progress=progress, start=helpers.start)
        with helpers.on(partial(_help, task, store, block, helpers.watch)):
            yield run, helpers
        run.failures.clear()


@contextmanager
def _parts(out: Store | None, settings: Settings) -> Iterator[Store]:
    """Yield the folder of the chunks; after an error it stays where there is a place for it."""
    if out is None:
        with TemporaryDirectory(prefix="unfooled-") as folder:
            yield LocalStore(Path(folder))
        return
    store = out.inside(f"parts-{settings_hash(settings)[:12]}")
    yield store
    discard(store)


def _help(task: Task, store: Store, block: int, watch: Watch) -> None:
    """Help in another process: compute blocks, and write no result."""
    settings, work = task.loaded()
    work(Run(store, settings, chunk=block, progress=watch, start=watch.start))
