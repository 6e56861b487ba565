"""Limit of the memory that samples and points may take: half of what is free, unless another one is set."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from unfooled.core.errors import BadInput, option

_LIMIT: ContextVar[int | None] = ContextVar("memory", default=None)

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
UNITS |= {f"{unit}i": 1 << (10 * power) for power, unit in enumerate("kmgt", 1)}
MIN_LIMIT = 1 << 24
"""Smallest limit."""
MAX_IN_MEMORY = 1 << 25
"""Bytes up to which all samples of an evaluation are kept in memory."""
MAX_BLOCK = 1 << 21
"""Bytes of the samples that are read at once."""


def read_size(text: str | int) -> int:
    """Return a number of bytes: 500000000, "500MB", "2GB", "1.5 GiB".

    Raises:
        BadInput: The text is no size, or less than 16 MiB.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", str(text).lower())
    if isinstance(text, bool) or match is None or match[2] not in UNITS:
        raise BadInput(f"{option('memory')} is {text!r}; write a size such as 2GB or 500MB")
    size = float(match[1]) * UNITS[match[2]]
    if not MIN_LIMIT <= size < 2**63:
        raise BadInput(f"{option('memory')} is {text!r}; it must be at least 16MiB, such as 2GB or 500MB")
    return int(size)


@contextmanager
def memory_limit(size: str | int | None) -> Iterator[None]:
    """Bound the memory that samples and points may take until the context ends.

    Samples beyond a sixteenth of it, and beyond 32 MiB in any case, are read in parts instead of at once. The figures
    do not depend on it.

    Args:
        size: Bytes, or text such as "2GB" or "500MB". None: half of what is free.

    Raises:
        BadInput: The size cannot be used.
    """
    token = _LIMIT.set(None if size is None else read_size(size))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def given_limit() -> int | None:
    """Return the limit that was set, in bytes; None where none was."""
    return _LIMIT.get()


def free_memory() -> int:
    """Return the free memory of this machine in bytes; 2 GiB where the system does not report it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as f:  # noqa: PTH123  (a kernel file)
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 2 << 30


def trim_heap() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    Large tensors that come and go between small ones that stay would otherwise leave ever more holes in the heap.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def limit() -> int:
    """Return the limit in bytes."""
    given = _LIMIT.get()
    return max(MIN_LIMIT, free_memory() // 2) if given is None else given


def max_bytes_in_memory() -> int:
    """Return the number of bytes up to which samples are kept in memory."""
    return min(MAX_IN_MEMORY, limit() // 16)


def block_bytes() -> int:
    """Return the number of bytes of samples that are read at once."""
    return min(MAX_BLOCK, limit() // 64)
