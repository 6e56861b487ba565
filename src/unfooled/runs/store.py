"""Store of a run: files in a folder by relative name, written atomically or created exclusively."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unfooled.core.errors import BadInput
from unfooled.runs.files import create_exclusive, read_file, read_part, write_whole


@dataclass(frozen=True)
class Store:
    """A folder whose files are addressed by relative names, such as `chunks/clean/0-100.safetensors`.

    Only this class accesses a run's files, and it needs no locks and no renaming of visible files, so that another kind
    of store can replace it.

    Args:
        root: Folder; created with the first file.
    """

    root: Path

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None where it does not exist.

        Raises:
            BadInput: The file cannot be read.
        """
        return read_file(self.root / name)

    def read_part(self, name: str, start: int, length: int) -> bytearray | None:
        """Return `length` bytes of a file from `start` on, fewer at its end; None where it does not exist.

        Raises:
            BadInput: The file cannot be read.
        """
        return read_part(self.root / name, start, length)

    def write_whole(self, name: str, data: bytes) -> None:
        """Write or replace a file; readers find the old content or the new one.

        Raises:
            BadInput: The file cannot be written.
        """
        write_whole(self.root / name, data)

    def create_exclusive(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists; return whether this call created it.

        Args:
            name: Name of the file.
            data: Content of the file.
            durable: True: flush to the disk.

        Raises:
            BadInput: The file cannot be written.
        """
        return create_exclusive(self.root / name, data, durable=durable)

    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """Return the names of the files in a folder, sorted.

        Args:
            folder: Subfolder. Empty: the root.
            deep: True: include files in subfolders.

        Raises:
            BadInput: The folder cannot be read.
        """
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
        """Remove a file, if it exists, and the folders that become empty."""
        file = self.root / name
        with suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
        with suppress(OSError):  # a folder that holds something else, or is gone
            for folder in file.parents:
                if folder == self.root.parent:
                    break
                folder.rmdir()
