"""A folder of work with one configuration: what a first start left there, a second start with equal settings finds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput
from unfooled.runs.claims import Claims
from unfooled.runs.sealed import Rows, Seal, open_json, open_rows, seal_json, seal_rows
from unfooled.runs.settings import OTHER_FOLDER, Settings, as_text, parse, refuse_changed, settings_hash
from unfooled.runs.store import Store

CONFIG = "config.json"
"""File that holds the settings."""
SETTINGS_0_1 = "settings.json"
"""File in which version 0.1 kept the settings of data sets."""
OURS = re.compile(
    r"\.claims/[^/]+|(chunks/([^/]+/)?)?\.?(\d+-\d+\.safetensors|config\.json|settings\.json)(\.[^/]*)?"
    r"|\.users|\.(\d+|save)\.lock"
)
"""Names of files in a folder of chunks, those that a kill left half written and those of version 0.1 among them."""


@dataclass(frozen=True)
class Folder:
    """An open folder, or work in memory where `store` is None; `open_folder` makes one.

    Args:
        store: Where files are.
        config: Hash of the settings, part of every sealed file.
        claims: Claims on pieces of the work, shared with other processes.
    """

    store: Store | None
    config: str
    claims: Claims

    def read_rows(self, name: str, rows: int) -> tuple[Rows, dict[str, Any]] | None:
        """Read a file of rows and its facts; None where it is missing, damaged or belongs elsewhere."""
        data = self._read(name)
        return None if data is None else open_rows(data, rows, Seal(self.config, name))

    def keep_rows(self, name: str, rows: Rows, facts: Mapping[str, float]) -> None:
        """Keep rows in a file, unless an equal start was faster.

        Raises:
            BadInput: The file cannot be written.
        """
        if self.store is None:
            return
        data = seal_rows(rows, facts, Seal(self.config, name))
        if not self.store.create_exclusive(name, data):
            count = len(next(iter(rows.values()))) if rows else 0
            if self.read_rows(name, count) is None:  # damaged
                self.store.write_whole(name, data)

    def read_json(self, name: str) -> Any:
        """Read the content of a JSON file; None where it is missing, damaged or belongs elsewhere."""
        data = self._read(name)
        return None if data is None else open_json(data, Seal(self.config, name))

    def keep_json(self, name: str, content: Any) -> None:
        """Keep JSON values in a file, in place of one that cannot be used.

        Raises:
            BadInput: The file cannot be written.
        """
        if self.store is not None:
            data = seal_json(content, Seal(self.config, name))
            if not self.store.create_exclusive(name, data):
                self.store.write_whole(name, data)

    def _read(self, name: str) -> bytes | None:
        """Read a file; one that cannot be read counts as none, and is computed again."""
        try:
            return None if self.store is None else self.store.read(name)
        except BadInput:
            return None


def open_folder(path: Path | None, settings: Settings, *, remedy: str = OTHER_FOLDER) -> Folder:
    """Open a folder for work with these settings; the first start creates it.

    Of two first starts at once, one creates the settings and the other is compared with them.

    Args:
        path: The folder. None: work in memory.
        settings: All that changes a result.
        remedy: What a refusal advises.

    Raises:
        BadInput: The folder holds work with other settings, or of version 0.1, or it cannot be written.
    """
    if path is None:
        return Folder(None, settings_hash(settings), Claims(None))
    store = Store(path)
    if not started(path) and _of_version_0_1(store):
        refuse_changed(path, {}, settings, layout=None, remedy=remedy)
    layout, before = _agreed(store, as_text(settings).encode(), remedy)
    refuse_changed(path, before, settings, layout=layout, remedy=remedy)
    return Folder(store, settings_hash(settings), Claims(store))


def started(path: Path) -> bool:
    """Return whether a folder holds work that can be continued."""
    return Store(path).read(CONFIG) is not None


def discard(path: Path) -> bool:
    """Remove the chunks of work that is finished, or not wanted; what others put into the folder stays.

    Returns:
        Whether nobody is at work there. Where somebody is, all stays, for the last one to remove.
    """
    store = Store(path)
    if Claims(store).live():
        return False
    store.remove(CONFIG)  # first: without it the rest is no work to continue
    for file in store.list(deep=True):
        if OURS.fullmatch(file):
            store.remove(file)
    return True


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Let the processes that work in a folder enter the block one after the other: to save what they made of it."""
    claims = Claims(Store(path))
    with claims.present(), claims.claimed("save", wait=True):
        yield


def _of_version_0_1(store: Store) -> bool:
    """Return whether version 0.1 kept the chunks of a data set here."""
    try:
        return "shard" in json.loads(store.read(SETTINGS_0_1) or b"{}")
    except (ValueError, TypeError):
        return False


def _agreed(store: Store, text: bytes, remedy: str) -> tuple[int | None, dict[str, Any]]:
    """Create the settings of a folder, or read those that another start created, or is about to."""
    error = ValueError("it is removed again and again")
    for _ in range(5):
        data = store.read(CONFIG)
        if data is None:
            store.create_exclusive(CONFIG, text)
            continue
        try:
            return parse(data)
        except ValueError as e:
            error = e
            time.sleep(0.1)
    raise BadInput(f"{store.root / CONFIG} cannot be read ({error}); {remedy}") from error
