"""Atomic writing of files: under a temporary name first, then moved or linked into place."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import read_regular

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview

NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}
"""Errors of file systems that have no hard links."""

MAX_TRIES = 20
"""Attempts to create a folder that another process removes because it is empty."""


def write_whole(path: Path, data: bytes | Iterable[Buffer]) -> None:
    """Write a file atomically: a reader finds the old content or the new one, never a part.

    Args:
        path: The file.
        data: Content of the file, or its parts in order.

    Raises:
        BadInput: The folder cannot be written, or the disk is full.
    """
    _placed(path, data, lambda temporary: temporary.replace(path))


def create_exclusive(path: Path, data: bytes, *, durable: bool = True) -> bool:
    """Write a file unless it exists; of several processes that try at once, one succeeds.

    The file appears whole, by a hard link to a temporary file. On a file system without hard links it is created
    exclusively and then filled, so that a reader may find a part of it.

    Args:
        path: The file.
        data: Content of the file.
        durable: True: flush to the disk; not needed for files that are useless after a power failure.

    Returns:
        True if this call created the file.

    Raises:
        BadInput: The folder cannot be written, or the disk is full.
    """

    def link(temporary: Path) -> bool:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return _created(path, data)
        return True

    return _placed(path, data, link, durable=durable)


def read_file(path: Path, *, most: int | None = None) -> bytes | None:
    """Return the content of a file; None where it does not exist.

    Args:
        path: The file.
        most: Length beyond which it is refused. None: any length.

    Raises:
        BadInput: The file cannot be read, or is longer.
    """
    try:
        return read_regular(path, most=most)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def read_part(path: Path, start: int, length: int) -> bytearray | None:
    """Return `length` bytes of a file from `start` on, fewer at its end; None where it does not exist.

    Raises:
        BadInput: The file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            data = bytearray(length)
            size = 0
            while size < length and (count := file.readinto(memoryview(data)[size:])):
                size += count
            return data if size == length else data[:size]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror or error}") from error


def _placed(path: Path, data: bytes | Iterable[Buffer], place: Callable[[Path], T], *, durable: bool = True) -> T:
    """Write a temporary file beside `path`, flush it to the disk and pass it to `place`."""
    parts = [data] if isinstance(data, bytes) else data
    for attempt in range(MAX_TRIES):
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                temporary = Path(file.name)
                for part in parts:
                    file.write(part)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.chmod(0o644)
            return place(temporary)
        except FileNotFoundError as error:  # another process removed the folder, which was empty, in between
            if attempt + 1 == MAX_TRIES:
                raise _unwritable(path, error) from error
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _created(path: Path, data: bytes) -> bool:
    """Create a file exclusively, without a link; remove it if writing fails."""
    try:
        number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _unwritable(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"cannot write {path}: {error.strerror or error}; choose another {option('out')} or free some space"
    )
