"""Signs of life of long work, for whoever shows progress: samples that a model was given, stages without chunks.

with listening(show):
attack(model, x, y, threat)      show is called with every batch that goes through a counted model
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Receiver of the signs of life."""

    def beat(self, samples: int) -> None:
        """Note that samples went through a model."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note how much of a stage is done."""


_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the signs of life to a listener until the context ends."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def beat(samples: int) -> None:
    """Say that samples went through a model."""
    if (listener := _LISTENER.get()) is not None:
        listener.beat(samples)


def report_stage(stage: str, done: int, total: int) -> None:
    """Say how much of a stage is done that stores no chunks."""
    if (listener := _LISTENER.get()) is not None:
        listener(stage, done, total)
