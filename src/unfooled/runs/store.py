"""Stores of runs: files by relative name, written whole or created exclusively.

Only a store accesses a run's files. It needs no locks and no renaming of visible files, so that a folder of this
machine (`LocalStore`) and an object store (`unfooled.runs.remote_store`) serve alike.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from unfooled.core.errors import BadInput
from unfooled.runs.files import Buffer, create_exclusive, read_file, read_part, write_whole

COPIED_BYTES = 1 << 26
"""Bytes of a file that are copied at once."""


class Store(ABC):
    """Files addressed by relative names, such as `chunks/clean/0-100.safetensors`.

    Attributes:
        patience: Factor by which the pauses between two looks at the store are longer than for a folder.
        private: True if other processes cannot see the store.
    """

    patience: ClassVar[float] = 1.0
    private: ClassVar[bool] = False

    @abstractmethod
    def place(self, name: str = "") -> str:
        """Return the path or URL of a file, or of the store itself, for messages."""

    @abstractmethod
    def inside(self, folder: str) -> Store:
        """Return the store of a subfolder."""

    def absolute(self) -> Store:
        """Return the store as processes with another working directory open it."""
        return self

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Return the length of a file in bytes; None where it does not exist.

        Raises:
            BadInput: The store cannot be read.
        """

    @abstractmethod
    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """Return the content of a file; None where it does not exist.

        Args:
            name: Name of the file.
            most: Length beyond which it is refused. None: any length.

        Raises:
            BadInput: The file cannot be read, or is longer.
        """

    @abstractmethod
    def read_part(self, name: str, start: int, length: int) -> bytearray | None:
        """Return `length` bytes of a file from `start` on, fewer at its end; None where it does not exist.

        Raises:
            BadInput: The file cannot be read.
        """

    @abstractmethod
    def write_whole(self, name: str, data: bytes | Iterable[Buffer]) -> None:
        """Write or replace a file; readers find the old content or the new one.

        Args:
            name: Name of the file.
            data: Content of the file, or its parts in order.

        Raises:
            BadInput: The file cannot be written.
        """

    @abstractmethod
    def create_exclusive(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists; return whether this call created it.

        Args:
            name: Name of the file.
            data: Content of the file.
            durable: True: flush to the disk.

        Raises:
            BadInput: The file cannot be written.
        """

    @abstractmethod
    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """Return the names of the files in a folder, sorted; a store may show changes late.

        Args:
            folder: Subfolder. Empty: the root.
            deep: True: include files in subfolders.

        Raises:
            BadInput: The folder cannot be read.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it exists, and the folders that become empty."""

    @abstractmethod
    def age(self, name: str) -> float:
        """Return the seconds since a file was written, by the clock of the store alone; 0 where it cannot tell."""


@dataclass(frozen=True)
class LocalStore(Store):
    """A folder of this machine or of a network file system.

    Args:
        root: Folder; created with the first file.
    """

    root: Path

    def place(self, name: str = "") -> str:
        """Return the path of a file or of the folder."""
        return str(self.root / name)

    def inside(self, folder: str) -> LocalStore:
        """Return the store of a subfolder."""
        return LocalStore(self.root / folder)

    def absolute(self) -> LocalStore:
        """Return the store by its absolute path."""
        return LocalStore(self.root.resolve())

    def size(self, name: str) -> int | None:
        """Return the length of a file; None for what is no file."""
        path = self.root / name
        try:
            return path.stat().st_size if path.is_file() else None
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror or error}") from error

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """Return the content of a file."""
        return read_file(self.root / name, most=most)

    def read_part(self, name: str, start: int, length: int) -> bytearray | None:
        """Return some bytes of a file."""
        return read_part(self.root / name, start, length)

    def write_whole(self, name: str, data: bytes | Iterable[Buffer]) -> None:
        """Write or replace a file."""
        write_whole(self.root / name, data)

    def create_exclusive(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists."""
        return create_exclusive(self.root / name, data, durable=durable)

    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """Return the names of the files in a folder."""
        place = self.root / folder
        try:
            if not deep:
                with os.scandir(place) as entries:  # faster than pathlib, and a folder may hold very many files
                    names = sorted(entry.name for entry in entries if entry.is_file())
                return [f"{folder}/{name}" if folder else name for name in names]
            return [item.relative_to(self.root).as_posix() for item in sorted(place.rglob("*")) if item.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise BadInput(f"cannot read {place}: {error.strerror or error}") from error

    def remove(self, name: str) -> None:
        """Remove a file and the folders that become empty."""
        file = self.root / name
        with suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
        with suppress(OSError):  # a folder that holds something else, or is gone
            for folder in file.parents:
                if folder == self.root.parent:
                    break
                folder.rmdir()

    def age(self, name: str) -> float:
        """Return the seconds since a file was written, compared with a file that is written now."""
        file = self.root / name
        try:
            with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".clock.") as now:
                now.write(b"0")
                now.flush()
                return max(0.0, os.fstat(now.fileno()).st_mtime - file.stat().st_mtime)
        except OSError:
            return 0.0


@dataclass(frozen=True)
class StoredFile:
    """One file of a store, such as the result of a command; `unfooled.runs.opening.open_file` makes one.

    Args:
        store: The store.
        name: Name of the file there.
    """

    store: Store
    name: str

    def __str__(self) -> str:
        return self.store.place(self.name)

    def beside(self, name: str) -> StoredFile:
        """Return another file of the same folder."""
        folder, slash, _ = self.name.rpartition("/")
        return StoredFile(self.store, f"{folder}{slash}{name}")

    @property
    def last(self) -> str:
        """Name without its folder."""
        return self.name.rpartition("/")[2]

    @property
    def parts(self) -> Store:
        """Folder beside the file for unfinished work on it."""
        return self.store.inside(f"{self.name}.parts")

    def exists(self) -> bool:
        """Return whether there is such a file."""
        return self.store.size(self.name) is not None

    def read(self, *, most: int | None = None) -> bytes | None:
        """Return the content; None where the file does not exist."""
        return self.store.read(self.name, most=most)

    def write(self, data: bytes | Iterable[Buffer]) -> None:
        """Write or replace the file whole."""
        self.store.write_whole(self.name, data)

    def remove(self) -> None:
        """Remove the file, if it exists."""
        self.store.remove(self.name)

    @contextmanager
    def on_disk(self) -> Iterator[Path]:
        """Yield a path of this machine for readers that need one: the file itself, or a copy for the block.

        Raises:
            BadInput: There is no such file.
        """
        size = self.store.size(self.name)
        if size is None:
            raise BadInput(f"{self} is not there")
        if isinstance(self.store, LocalStore):
            yield self.store.root / self.name
            return
        with tempfile.TemporaryDirectory(prefix="unfooled-") as folder:
            path = Path(folder) / self.last
            with path.open("wb") as file:
                for start in range(0, size, COPIED_BYTES):
                    file.write(self.store.read_part(self.name, start, COPIED_BYTES) or b"")
            yield path
