"""Work on blocks of samples that helping processes share through a folder, which is removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from unfooled.runs.chunks import Progress, Run
from unfooled.runs.helpers import Helpers, Watch
from unfooled.runs.settings import Settings
from unfooled.workflows.errors import BadOption
from unfooled.workflows.machine import Machine


class Task(Protocol):
    """Work that a helper can load: a value that travels to other processes."""

    def loaded(self) -> tuple[Settings, Callable[[Run], object]]:
        """Load what the work is about; return what identifies it, and the work on a run."""


@contextmanager
def shared_run(
    task: Task, settings: Settings, machine: Machine, block: int, out: Path | None, progress: Progress | None = None
) -> Iterator[tuple[Run, Helpers]]:
    """Yield a run whose stages helpers share while the block of code works on it.

    Args:
        task: The work, for the helpers.
        settings: What identifies the work, as `task` returns it; a helper with another is refused.
        machine: Machine whose helpers are used; without any the run is in memory.
        block: Samples per chunk.
        out: Path of the result, beside which the folder lies. None: a temporary folder of this machine.
        progress: Callback, see `Run`.

    Raises:
        BadInput: Helpers of other machines, and no path.
    """
    helpers = Helpers(machine.helpers())
    if not helpers.count:
        yield Run(None, settings, chunk=block, progress=progress), helpers
        return
    if machine.scheduler is not None and out is None:
        raise BadOption("{scheduler} needs {out}, a folder that its workers see")
    place, name = (None, "unfooled-") if out is None else (out.resolve().parent, f"{out.name}.parts-")
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=name, dir=place) as folder:
        run = Run(Path(folder), settings, chunk=block, progress=progress, start=helpers.start)
        with helpers.on(partial(_help, task, Path(folder), block, helpers.watch)):
            yield run, helpers
        run.failures.clear()


def _help(task: Task, folder: Path, block: int, watch: Watch) -> None:
    """Help in another process: compute blocks, and write no result."""
    settings, work = task.loaded()
    work(Run(folder, settings, chunk=block, progress=watch, start=watch.start))
