"""A folder of resumable work with one configuration, which a second start with equal settings continues."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from unfooled.core.errors import BadInput
from unfooled.runs.claims import Claims
from unfooled.runs.opening import Place, open_store
from unfooled.runs.sealed import Rows, Seal, open_json, open_rows, seal_json, seal_rows
from unfooled.runs.settings import OTHER_FOLDER, Settings, as_text, parse, refuse_changed, settings_hash
from unfooled.runs.store import Store

T = TypeVar("T")

CONFIG = "config.json"
"""File that holds the settings."""
SETTINGS_0_1 = "settings.json"
"""File in which version 0.1 stored the settings of data sets."""
OUR_FILES = re.compile(
    r"\.claims/[^/]+|(chunks/([^/]+/)?)?\.?(\d+-\d+\.safetensors|config\.json|settings\.json)(\.[^/]*)?"
    r"|\.failures/[^/]+|\.users|\.(\d+|save)\.lock|starts/[0-9a-f]{16}\.json"
)
"""Names of our files in a folder of chunks, including partly written ones and those of version 0.1."""


@dataclass(frozen=True)
class Folder:
    """An open folder, or work in memory where `store` is None; `open_folder` makes one.

    Args:
        store: Store of the files. None: work in memory.
        config: Hash of the settings, part of every sealed file.
        claims: Claims on pieces of the work, shared with other processes.

    Attributes:
        damaged: Names of files that could not be used: damaged, renamed, or of other work.
    """

    store: Store | None
    config: str
    claims: Claims
    damaged: list[str] = field(default_factory=list, compare=False)

    def read_rows(self, name: str, rows: int | None) -> tuple[Rows, dict[str, Any]] | None:
        """Read a file of rows and its metadata; None where it is missing, damaged or of other work.

        Args:
            name: Name of the file.
            rows: Number of entries of each tensor. None: any.
        """
        data = self._read(name)
        return None if data is None else self._usable(name, open_rows(data, rows, Seal(self.config, name)))

    def store_rows(
        self, name: str, rows: Rows, facts: Mapping[str, float], count: int | None = None
    ) -> tuple[Rows, dict[str, Any]] | None:
        """Store rows in a file, unless another process has stored the same rows; then return those.

        Args:
            name: Name of the file.
            rows: The tensors.
            facts: Metadata.
            count: Number of entries of each tensor. None: any.

        Raises:
            BadInput: The file cannot be written.
        """
        if self.store is None:
            return None
        data = seal_rows(rows, facts, Seal(self.config, name))
        if self.store.create_exclusive(name, data):
            return None
        stored = self.read_rows(name, count)
        if stored is None:  # damaged
            self.store.write_whole(name, data)
        return stored

    def read_json(self, name: str) -> Any:
        """Read the content of a JSON file; None where it is missing, damaged or of other work."""
        data = self._read(name)
        return None if data is None else self._usable(name, open_json(data, Seal(self.config, name)))

    def store_json(self, name: str, content: Any) -> None:
        """Store JSON values in a file; an existing file, which could not be used, is replaced.

        Raises:
            BadInput: The file cannot be written.
        """
        if self.store is not None:
            data = seal_json(content, Seal(self.config, name))
            if not self.store.create_exclusive(name, data):
                self.store.write_whole(name, data)

    def note_unusable(self, name: str) -> None:
        """Note a file that cannot be used."""
        if name not in self.damaged:
            self.damaged.append(name)

    def _usable(self, name: str, content: T) -> T:
        """Return the content of a file; note the file where there is none."""
        if content is None:
            self.note_unusable(name)
        return content

    def _read(self, name: str) -> bytes | None:
        """Read a file; None where it is missing or cannot be read, so that it is computed again."""
        try:
            return None if self.store is None else self.store.read(name)
        except BadInput:
            return None


def open_folder(path: Place | None, settings: Settings, *, remedy: str = OTHER_FOLDER) -> Folder:
    """Open a folder for work with these settings; create it at the first start.

    Of two simultaneous first starts, one stores its settings and the other is compared with them.

    Args:
        path: Folder, URL or open store. None: work in memory.
        settings: All settings that affect a result.
        remedy: Advice at the end of the error message.

    Raises:
        BadInput: The folder holds work with other settings, or of version 0.1, or it cannot be written.
    """
    if path is None:
        return Folder(None, settings_hash(settings), Claims(None))
    store = open_store(path)
    if not started(store) and _of_version_0_1(store):
        refuse_changed(store.place(), {}, settings, layout=None, remedy=remedy)
    folder = Folder(store, settings_hash(settings), Claims(store))
    layout, before = _stored_settings(folder, store, as_text(settings).encode(), remedy)
    refuse_changed(store.place(), before, settings, layout=layout, remedy=remedy)
    return replace(folder, config=settings_hash(before))  # which holds the answers of the model at the first start


def started(path: Place) -> bool:
    """Return whether a folder, URL or open store holds work that can be continued."""
    return open_store(path, write=False).read(CONFIG) is not None


def discard(path: Place) -> bool:
    """Remove the chunks of finished or unwanted work; other files in the folder are kept.

    Returns:
        True if removed. False: another process is active there and removes them later; nothing is removed.
    """
    store = open_store(path)
    if Claims(store).live():
        return False
    store.remove(CONFIG)  # first: without it the rest cannot be continued
    for file in store.list(deep=True):
        if OUR_FILES.fullmatch(file):
            store.remove(file)
    return True


def recomputed_note(files: Sequence[str]) -> list[str]:
    """Return the sentence about files that could not be used; none where there are none."""
    if not files:
        return []
    shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
    were = "1 stored file was" if len(files) == 1 else f"{len(files)} stored files were"
    return [f"{were} damaged, renamed or of other work, and computed again: {shown}."]


@contextmanager
def saving(path: Place) -> Iterator[None]:
    """Admit one process at a time to the block, in which processes that share a folder save the final result."""
    claims = Claims(open_store(path))
    with claims.present(), claims.claimed("save", wait=True):
        yield


def _of_version_0_1(store: Store) -> bool:
    """Return whether the folder holds chunks of a data set from version 0.1."""
    try:
        return "shard" in json.loads(store.read(SETTINGS_0_1) or b"{}")
    except (ValueError, TypeError, RecursionError):
        return False


def _stored_settings(folder: Folder, store: Store, text: bytes, remedy: str) -> tuple[int | None, dict[str, Any]]:
    """Store the settings of a folder, or read those that another start has stored or is writing.

    Settings that are damaged are replaced where there are chunks, which hold the hash of their own settings.
    """
    error = ValueError("it is removed again and again")
    for _ in range(5):
        data = store.read(CONFIG)
        if data is None:
            if not store.create_exclusive(CONFIG, text):
                time.sleep(0.1)  # of a store that shows late what another start has written
            continue
        try:
            return parse(data)
        except ValueError as e:
            error = e
            time.sleep(0.1)
    if store.read(CONFIG) is not None and store.list("chunks", deep=True):
        with folder.claims.claimed(CONFIG, wait=True):
            with suppress(ValueError):  # another start was faster
                return parse(store.read(CONFIG) or b"")
            folder.note_unusable(CONFIG)
            store.write_whole(CONFIG, text)
            return parse(text)
    raise BadInput(f"{store.place(CONFIG)} cannot be read ({error}); {remedy}") from error
