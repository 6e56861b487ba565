"""Whether the operations of a model are being recorded, when no value of a tensor can be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RECORDED: ContextVar[bool] = ContextVar("recorded", default=False)


def is_recorded() -> bool:
    """Return True in a call whose operations are being recorded; wrappers leave out checks of values there."""
    return _RECORDED.get()


@contextmanager
def recorded() -> Iterator[None]:
    """Say that operations are being recorded until the context ends."""
    token = _RECORDED.set(True)
    try:
        yield
    finally:
        _RECORDED.reset(token)
