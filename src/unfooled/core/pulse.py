"""Heartbeats of long work, for progress displays: samples that went through a model, stages without chunks.

with listening(show):
attack(model, x, y, threat)      show is called with every batch that goes through a counted model
"""

from __future__ import annotations

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
    """Report that samples went through a model."""
    if (listener := _LISTENER.get()) is not None:
        listener.beat(samples)


def report_stage(stage: str, done: int, total: int) -> None:
    """Report how much of a stage that stores no chunks is done."""
    if (listener := _LISTENER.get()) is not None:
        listener(stage, done, total)
