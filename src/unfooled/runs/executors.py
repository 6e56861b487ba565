"""Executors: processes of this machine or of a cluster; any other `concurrent.futures.Executor` does as well."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeVar

from unfooled.core.errors import BadInput, describe_error, option
from unfooled.runs.claims import process_start
from unfooled.runs.records import Environment

T = TypeVar("T")
MAX_PER_CORE = 4
"""Processes per core at most; more than one per core is of use to a model that waits, such as a service."""
WATCH_SECONDS = 1.0
"""Seconds between two looks of a helping process at the one that started it."""
IDLE_SECONDS = 60
"""Seconds without work after which a process of this machine ends."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(workers: str | int) -> int:
    """Read a number of processes; "auto" is one per core.

    Raises:
        BadInput: It is no whole number from 1 to `MAX_PER_CORE` per core.
    """
    if workers == "auto":
        return cores()
    try:
        count = int(workers)
    except ValueError:
        count = 0
    most = MAX_PER_CORE * cores()
    if not 1 <= count <= most:
        here = "1 core" if cores() == 1 else f"{cores()} cores"
        raise BadInput(
            f"{option('workers')} is {workers}, and this machine has {here}; give a number of processes from 1 to "
            f"{most} ({MAX_PER_CORE} per core), or auto, one per core"
        )
    return count


def processes(count: int, *, threads: int | None = None) -> Processes | None:
    """Return an executor of the processes that work beside this one; None for one process, which works alone.

    Args:
        count: Number of processes in all, this one included.
        threads: Threads of each process. None: the cores are shared evenly.

    Raises:
        BadInput: More than `MAX_PER_CORE` processes per core.

    Processes end with this one, and a while after their last work. Needs no `if __name__ == "__main__"`; functions of
    notebooks travel too.
    """
    if worker_count(count) == 1:
        return None
    return Processes(count - 1, threads or max(1, cores() // count))


@dataclass(eq=False)
class Processes(Executor):
    """Processes of this machine, each in a pool of its own, so that one that dies takes no other with it.

    Args:
        count: Number of processes; they are started when there is work.
        threads: Threads of each.
    """

    count: int
    threads: int = 1
    _pools: dict[int, Any] = field(default_factory=dict, init=False, repr=False)
    _waiting: dict[int, int] = field(default_factory=dict, init=False, repr=False)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Let the process with the least work call a function; one that died is started again."""
        place = min(range(self.count), key=lambda k: self._waiting.get(k, 0))
        try:
            future: Future[T] = self._pool(place).submit(fn, *args, **kwargs)
        except (BrokenExecutor, RuntimeError):  # it died, or was stopped
            self._pools.pop(place, None)
            future = self._pool(place).submit(fn, *args, **kwargs)
        self._waiting[place] = self._waiting.get(place, 0) + 1
        future.add_done_callback(lambda _: self._waiting.update({place: self._waiting[place] - 1}))
        return future

    def warm(self, module: str) -> Processes:
        """Start the processes, which import a module meanwhile; return this executor."""
        for place in range(self.count):
            self._pool(place).submit(import_module, module)
        return self

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once they have done their work; at once if `cancel_futures`."""
        for pool in [self._pools.pop(place) for place in list(self._pools)]:
            pool.shutdown(wait=wait, kill_workers=cancel_futures)

    def dismiss(self) -> None:
        """End the processes at once; the next work starts others."""
        self.shutdown(wait=False, cancel_futures=True)

    def _pool(self, place: int) -> Any:
        """Return the pool of one process."""
        from joblib.externals.loky import ProcessPoolExecutor

        if place not in self._pools:
            names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
            self._pools[place] = ProcessPoolExecutor(
                max_workers=1, timeout=IDLE_SECONDS, env={name: str(self.threads) for name in names},
                initializer=_quiet_start, initargs=(os.getpid(), process_start(os.getpid()) or ""),
            )  # fmt: skip
        return self._pools[place]


@contextmanager
def dismissed_on_error(executor: Executor | None) -> Iterator[None]:
    """End processes of this machine at once where the block fails, so that nobody waits for their start."""
    try:
        yield
    except BaseException:
        if isinstance(executor, Processes):
            executor.dismiss()
        raise


def died(error: BaseException) -> bool:
    """Return whether the error of a task says that its process died, rather than what the task raised."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"  # of Dask


def _quiet_start(parent: int, started: str) -> None:
    """Let an interrupt of the terminal end the process that was started, which ends the others; end with it.

    Args:
        parent: Number of the process that was started.
        started: Its start time, see `process_start`.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while (now := process_start(parent)) is None or (now and now == started):
            time.sleep(WATCH_SECONDS)
        os._exit(0)  # what it was computing is left as after a kill: another process takes it over

    threading.Thread(target=watch, daemon=True, name="watch").start()


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


def worker_environments(address: str) -> dict[str, Environment | str]:
    """Return the environment of each worker of a Dask scheduler; why it cannot be told, where it cannot.

    Raises:
        BadInput: Dask is not installed, there is no scheduler at the address, or it has no workers.
    """
    client: Any = getattr(dask(address), "_client")  # noqa: B009  (no public name)
    try:
        answers = client.run(_environment, on_error="return")
    finally:
        client.close()
    return {
        worker: Environment.model_validate(answer) if isinstance(answer, dict) else describe_error(answer)
        for worker, answer in sorted(answers.items())
    }


def _environment() -> dict[str, Any]:
    return Environment.here("cpu").model_dump()
