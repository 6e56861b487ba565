"""The store of a run: files of a folder by their relative names, written whole or created exclusively."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unfooled.core.errors import BadInput
from unfooled.runs.files import create_exclusive, read_file, write_whole


@dataclass(frozen=True)
class Store:
    """A folder whose files are known by their relative names, such as `chunks/clean/0-100.safetensors`.

    Nothing else in `runs` touches a run's files, and nothing here relies on a lock or on renaming what others see, so
    that another store can take its place.

    Args:
        root: Folder; created with the first file.
    """

    root: Path

    def read(self, name: str) -> bytes | None:
        """Return what a file holds; None where there is none.

        Raises:
            BadInput: The file cannot be read.
        """
        return read_file(self.root / name)

    def write_whole(self, name: str, data: bytes) -> None:
        """Write a file, in place of another of this name; readers find the old one or the new one.

        Raises:
            BadInput: The file cannot be written.
        """
        write_whole(self.root / name, data)

    def create_exclusive(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless there is one, and return whether this call made it.

        Args:
            name: Name of the file.
            data: What it will hold.
            durable: Wait until the disk has it.

        Raises:
            BadInput: The file cannot be written.
        """
        return create_exclusive(self.root / name, data, durable=durable)

    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """Return the names of the files in a folder, sorted.

        Args:
            folder: Folder inside this one. Empty: this one.
            deep: Those of the folders inside it, too.

        Raises:
            BadInput: The folder cannot be read.
        """
        place = self.root / folder
        try:
            items = sorted(place.rglob("*") if deep else place.iterdir())
            return [item.relative_to(self.root).as_posix() for item in items if item.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise BadInput(f"cannot read {place}: {error.strerror or error}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and the folders that this leaves empty."""
        file = self.root / name
        with suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
        with suppress(OSError):  # a folder that holds something else, or is gone
            for folder in file.parents:
                if folder == self.root.parent:
                    break
                folder.rmdir()
