"""Helpers: workers of an executor that help with a run.

A helper runs the same program as the process that was started, in the same folder: it computes chunks that nobody has
claimed, and takes the same decisions from the same stored results. So nothing but a short description travels, no
result depends on the helpers, and whatever a helper that dies was computing is computed again by another process. A
helper that dies is started again.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unfooled.core.errors import describe_error
from unfooled.runs.claims import Holder
from unfooled.runs.executors import died
from unfooled.runs.failures import ALONE, Start

QUICK_SECONDS = 60.0
"""A helper that dies within so many seconds of its start died quickly."""
MAX_QUICK_DEATHS = 3
"""Quick deaths in a row after which a helper is not started again."""
MIN_CHUNK = 25
"""Samples per file that are not divided any further for the sake of sharing."""
PARTS_EACH = 8
"""Parts per process that a stage should have, where it is large enough."""
POLL_SECONDS = 0.2
"""Seconds between two looks at the helpers."""


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

    @property
    def start(self) -> Start:
        """The start that a helper works for."""
        return Start(self.driver.token, check=self.check)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Raise `DriverEnded` if the process is gone."""
        self.check()

    def check(self) -> None:
        """Raise `DriverEnded` if the process is gone."""
        if self.driver.of_this_machine and self.driver.has_ended:
            raise DriverEnded


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
        source: Function without arguments that returns what the helpers work on. None: their job knows it.
        watch: Watch over this process, for the helpers.

    Attributes:
        notes: What went wrong with helpers, one sentence each; the run does not need them.
    """

    executor: Executor | None
    source: Callable[[], Any] | None = None
    watch: Watch = field(default_factory=Watch.here)
    notes: list[str] = field(default_factory=list)
    _team: _Team | None = field(default=None, init=False, repr=False)

    @property
    def count(self) -> int:
        """Number of helpers; 1 for an executor that does not say."""
        client = getattr(self.executor, "_client", None)
        if self.executor is None:
            return 0
        sizes = (getattr(self.executor, name, None) for name in ("count", "_max_workers"))
        size = len(client.nthreads()) if client is not None else next((n for n in sizes if isinstance(n, int)), 1)
        return max(1, size)

    @property
    def start(self) -> Start:
        """The start that this process works for: with helpers, failed chunks are tried again."""
        return ALONE if self.executor is None else Start(self.watch.driver.token, helped=lambda: self.at_work)

    @property
    def at_work(self) -> bool:
        """True while there are helpers that have not ended."""
        return self._team is not None and self._team.at_work

    def chunk(self, chunk: int, n: int) -> int:
        """Return the samples per file of a stage: `chunk`, or fewer where helpers would have nothing to do."""
        return min(chunk, max(MIN_CHUNK, math.ceil(n / (PARTS_EACH * (self.count + 1))))) if self.count else chunk

    @contextmanager
    def on(self, job: Callable[[], None]) -> Iterator[None]:
        """Let every worker call a function while the block runs, and wait for them at its end.

        Args:
            job: The function. It must end by itself once the work of the block is done.
        """
        if self.executor is None:
            yield
            return
        self._team = team = _Team(self.executor, job, self.count)
        try:
            yield
        except BaseException:
            team.dismiss()
            raise
        self.notes += team.settled()


class _Team:
    """Helpers at work, and a thread that starts those again that die."""

    def __init__(self, executor: Executor, job: Callable[[], None], count: int) -> None:
        self.executor, self.job = executor, job
        self.futures: list[Future[None]] = []
        self._started: dict[Future[None], tuple[float, int]] = {}
        self._restarts: list[BaseException] = []
        self._ending = threading.Event()
        for _ in range(count):
            self._start(0)
        self._thread = threading.Thread(target=self._keep_up, daemon=True)
        self._thread.start()

    @property
    def at_work(self) -> bool:
        """True while there are helpers that have not ended, or are started again."""
        return bool(self._started)

    def settled(self) -> list[str]:
        """Wait for the helpers, and return what went wrong with them."""
        self._ending.set()
        self._thread.join()
        wait(self.futures)
        errors = [error for future in self.futures if (error := future.exception()) is not None]
        return [
            *_sentences(self._restarts, "died, and was started again", "died, and were started again"),
            *_sentences(errors, *["failed, and the others did the work"] * 2),
        ]

    def dismiss(self) -> None:
        """End the helpers without waiting for their work, which nobody needs any more."""
        self._ending.set()
        self._thread.join()
        for future in self.futures:
            future.cancel()
        if hasattr(self.executor, "dismiss"):  # processes of our own
            self.executor.dismiss()

    def _start(self, quick_deaths: int) -> None:
        future = self.executor.submit(_at_home, str(Path.cwd()), list(sys.path), self.job)
        self._started[future] = time.monotonic(), quick_deaths
        self.futures.append(future)

    def _keep_up(self) -> None:
        """Start helpers again that die, until the work is done."""
        while not self._ending.is_set():
            active = [future for future in self._started if not future.done()]
            for future in [future for future in self._started if future.done()]:
                self._replace(future)
                del self._started[future]
            if active:
                wait(active, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            elif not self._started:
                return

    def _replace(self, future: Future[None]) -> None:
        """Start a helper again in place of one that died."""
        began, quick = self._started[future]
        error = None if future.cancelled() else future.exception()
        if error is None or not died(error):
            return
        quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
        if quick < MAX_QUICK_DEATHS:
            try:
                self._start(quick)
            except Exception:
                return
            self.futures.remove(future)
            self._restarts.append(error)


def _sentences(errors: list[BaseException], one: str, several: str) -> list[str]:
    """Return one sentence for each kind of error."""
    counts: dict[str, int] = {}
    for error in errors:
        if not isinstance(error, DriverEnded):
            text = describe_error(error, longest=200)
            counts[text] = counts.get(text, 0) + 1
    return [
        f"A helping process {one} ({text})." if count == 1 else f"{count} helping processes {several} ({text})."
        for text, count in counts.items()
    ]
