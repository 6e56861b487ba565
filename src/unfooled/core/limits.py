"""Limits on files from outside: only regular files are opened, and sizes are checked before anything is unpacked.

with allowing(Limits(max_pixels=10**9)):
x, y = load_data("scans")
"""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path

from unfooled.core.errors import BadInput, option

RATIO = 20
"""Bytes that a byte of a file may unpack to, however large the file is; real data reach some 10."""


@dataclass(frozen=True)
class Limits:
    """Sizes beyond which a file is refused.

    Args:
        max_pixels: Pixels of one image.
        max_bytes: Bytes that one file is unpacked to; 20 times the file's own length is always allowed.
        max_classes: Number of classes; labels are below it.
    """

    max_pixels: int = 1 << 26
    max_bytes: int = 1 << 30
    max_classes: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"{option(field.name)} is {value!r}; it must be a whole number, at least 1")


DEFAULT = Limits()
_LIMITS: ContextVar[Limits] = ContextVar("limits", default=DEFAULT)


@contextmanager
def allowing(limits: Limits | None) -> Iterator[None]:
    """Read files within these limits until the context ends; None: the limits that are in force."""
    if limits is None:
        yield
        return
    token = _LIMITS.set(limits)
    try:
        yield
    finally:
        _LIMITS.reset(token)


def limits_now() -> Limits:
    """Return the limits that are in force."""
    return _LIMITS.get()


def regular(path: Path) -> Path:
    """Return the path of a regular file, of a folder or of nothing; others, such as pipes, may never end.

    Raises:
        BadInput: It is a pipe, a device or a socket, or a link that leads to itself.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kind = "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise BadInput(f"{path} is a {kind}, not a file; copy its content to a file")
    return path


def read_regular(path: Path, *, most: int | None = None) -> bytes:
    """Read a regular file whole.

    Args:
        path: The file.
        most: Length beyond which it is refused. None: any length.

    Raises:
        BadInput: It is no regular file, is longer, or does not fit into memory.
        OSError: It cannot be read.
    """
    size = regular(path).stat().st_size
    if most is not None and size > most:
        raise BadInput(f"{path} has {size:,} bytes, more than the {most:,} that are read of such a file")
    try:
        return path.read_bytes()
    except MemoryError:
        raise BadInput(f"{path} has {size:,} bytes, which do not fit into memory") from None


def check_unpacked(size: int, path: Path, what: str = "") -> None:
    """Refuse a file that unpacks to more bytes than is allowed.

    Args:
        size: Bytes that it states.
        path: The file.
        what: Name of the part, such as an array of an archive.

    Raises:
        BadInput: It states more.
    """
    own = path.stat().st_size
    most = max(limits_now().max_bytes, RATIO * own)
    if size > most:
        part = f"{what} of {path}" if what else str(path)
        raise BadInput(
            f"{part} would be unpacked to {size:,} bytes, more than {most:,}, from a file of {own:,}; if you trust it, "
            f"raise {option('max_bytes')}"
        )


def check_zip(path: Path) -> None:
    """Refuse a zip file whose entries state more bytes than it has, or unpack to more than is allowed.

    Raises:
        BadInput: They do. A file that is no zip file is not refused.
    """
    regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return
    size, own = sum(item.file_size for item in entries), path.stat().st_size
    if all(item.compress_type == zipfile.ZIP_STORED for item in entries) and size > own:
        raise BadInput(f"{path} states entries of {size:,} bytes, and has {own:,} itself; it is damaged, copy it again")
    check_unpacked(size, path)


def check_classes(count: float, name: str) -> None:
    """Refuse more classes than are allowed, before anything is made for each of them.

    Args:
        count: Number of classes; of labels 0, 1, 2, ... the largest and one more.
        name: Name of what has them.

    Raises:
        BadInput: There are more.
    """
    most = limits_now().max_classes
    if count > most:
        number = f"{count:,.0f}" if count < 1e18 else f"{count:g}"
        raise BadInput(
            f"{name} has labels for {number} classes, and at most {most:,} are read; number the classes from 0, or "
            f"raise {option('max_classes')}"
        )


def _unreadable(path: Path, error: Exception) -> BadInput:
    return BadInput(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")
