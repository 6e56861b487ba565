"""Executors: processes of this machine or of a cluster that help with a run; any `concurrent.futures.Executor` does.

A helper runs the same program as the process that was started, in the same folder: it computes chunks that nobody has
claimed, and takes the same decisions from the same stored results. So nothing but a short description travels, no
result depends on the helpers, and whatever a helper that dies was computing is computed again by another process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, option
from unfooled.runs.claims import Holder

MAX_WORKERS = 1024


class DriverEnded(Exception):
    """The process that asked for help is gone."""


@dataclass(frozen=True)
class Watch:
    """Progress callback of a helper; it raises `DriverEnded` once the process that asked for help has ended.

    Args:
        driver: That process.
    """

    driver: Holder

    @classmethod
    def here(cls) -> Watch:
        """Watch this process."""
        return cls(Holder.here("driver"))

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Raise `DriverEnded` if the process is gone."""
        if self.driver.of_this_machine and self.driver.has_ended:
            raise DriverEnded


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(workers: str | int) -> int:
    """Read a number of processes; "auto" is one per core.

    Raises:
        BadInput: It is no whole number from 1 to `MAX_WORKERS`.
    """
    if workers == "auto":
        return cores()
    try:
        count = int(workers)
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_WORKERS:
        raise BadInput(f"{option('workers')} is {workers}; give a number of processes from 1 to {MAX_WORKERS}, or auto")
    return count


def processes(count: int, *, threads: int | None = None) -> Executor | None:
    """Return an executor of the processes that work beside this one; None for one process, which works alone.

    Args:
        count: Number of processes in all, this one included.
        threads: Threads of each process. None: the cores are shared evenly.

    Processes end with this one, and a while after their last work. Needs no `if __name__ == "__main__"`; functions of
    notebooks travel too.
    """
    if count == 1:
        return None
    from joblib.externals.loky import get_reusable_executor

    each = threads or max(1, cores() // count)
    environment = {name: str(each) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    executor: Executor = get_reusable_executor(max_workers=count - 1, env=environment, initializer=_quiet_start)
    return executor


def _quiet_start() -> None:
    """Let an interrupt of the terminal end the process that was started, which ends the others."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def dask(address: str, *, timeout: float = 10.0) -> Executor:
    """Return an executor of the workers of a Dask scheduler; they must see the run's folder under the same name.

    Args:
        address: Address of the scheduler, such as "tcp://10.0.0.1:8786".
        timeout: Seconds to wait for it.

    Raises:
        BadInput: Dask is not installed, there is no scheduler at the address, or it has no workers.
    """
    try:
        from distributed import Client
    except (ImportError, RuntimeError, OSError) as error:
        raise BadInput(
            f'a Dask scheduler needs the package distributed ({error}); install it: pip install "unfooled[cluster]"'
        ) from error
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise BadInput(f"there is no Dask scheduler at {address} ({type(error).__name__}); is it running?") from error
    if not client.nthreads():
        client.close()
        raise BadInput(f"the Dask scheduler at {address} has no workers; start some: dask worker {address}")
    executor: Executor = client.get_executor(pure=False)
    return executor


def _at_home(folder: str, modules: list[str], job: Callable[[], None]) -> None:
    """Call a function where relative paths and imports mean what they mean to the process that asked for help."""
    sys.path += [place for place in modules if place not in sys.path]
    if os.path.isdir(folder):  # noqa: PTH112  (a folder of another machine)
        os.chdir(folder)
    job()


@dataclass
class Helpers:
    """Workers that help with one run.

    Args:
        executor: Executor. None: there is no help.
        source: Function without arguments that returns what the helpers work on.

    Attributes:
        notes: What went wrong with helpers, one sentence each; the run does not need them.
    """

    executor: Executor | None
    source: Callable[[], Any]
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of helpers; 1 for an executor that does not say."""
        client = getattr(self.executor, "_client", None)
        if self.executor is None:
            return 0
        size = len(client.nthreads()) if client is not None else getattr(self.executor, "_max_workers", 1)
        return max(1, int(size or 1))

    @contextmanager
    def on(self, job: Callable[[], None]) -> Iterator[None]:
        """Let every worker call a function while the block runs, and wait for them at its end.

        Args:
            job: The function. It must end by itself once the work of the block is done.
        """
        futures: list[Future[None]] = []
        for _ in range(self.count):
            assert self.executor is not None
            futures.append(self.executor.submit(_at_home, str(Path.cwd()), list(sys.path), job))
        try:
            yield
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        self._settle(futures)

    def _settle(self, futures: list[Future[None]]) -> None:
        """Wait for the helpers, and note those that failed."""
        failures: dict[str, int] = {}
        for future in futures:
            error = future.exception()
            if error is not None and not isinstance(error, DriverEnded):
                words = " ".join(str(error).split())[:200]
                text = f"{type(error).__name__}: {words}" if words else type(error).__name__
                failures[text] = failures.get(text, 0) + 1
        for text, count in failures.items():
            who = "A helping process" if count == 1 else f"{count} helping processes"
            self.notes.append(f"{who} failed, and the others did the work ({text}).")
