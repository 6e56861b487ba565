"""Heartbeats of long work: for progress displays, and to stop it where its time is over.

with listening(show):
attack(model, x, y, threat)      show is called with every batch that goes through a counted model
with time_limit(60):
attack(model, x, y, threat)      OutOfTime is raised at the first batch after a minute
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Receiver of heartbeats, such as a progress bar."""

    def beat(self, samples: int) -> None:
        """Note that samples went through a model."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note how much of a stage is done."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send heartbeats to a listener until the context ends."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def beat(samples: int) -> None:
    """Report that samples went through a model.

    Raises:
        OutOfTime: The time of the work around it is over.
    """
    if (listener := _LISTENER.get()) is not None:
        listener.beat(samples)
    if (end := _END.get()) is not None and time.monotonic() > end:
        raise OutOfTime


class OutOfTime(BaseException):
    """Sign that the time of some work is over; no `Exception`, so that no handler of errors takes it for one."""


_END: ContextVar[float | None] = ContextVar("end", default=None)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop work at the first heartbeat after a time; None: do not stop it, whatever a context around this one says."""
    token = _END.set(None if seconds is None else time.monotonic() + seconds)
    try:
        yield
    finally:
        _END.reset(token)


def is_limited() -> bool:
    """Return whether the work around the call has a time limit."""
    return _END.get() is not None


def report_answer(figure: str, value: float, n: int) -> None:
    """Report a figure that is known already, such as ("clean accuracy", 0.98, 64), to a listener that shows some."""
    listener = _LISTENER.get()
    if (answer := getattr(listener, "answer", None)) is not None:
        answer(figure, value, n)


def report_stage(stage: str, done: int, total: int) -> None:
    """Report how much of a stage that stores no chunks is done."""
    if (listener := _LISTENER.get()) is not None:
        listener(stage, done, total)
