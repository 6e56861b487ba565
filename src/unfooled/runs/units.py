"""Work divided into named units, such as trainings, one sealed JSON file each (see `unfooled.runs.sealed`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError

from unfooled.core.errors import BadInput
from unfooled.core.limits import read_regular
from unfooled.runs.chunks import Progress
from unfooled.runs.folder import Folder, open_folder
from unfooled.runs.opening import Place
from unfooled.runs.records import Config

R = TypeVar("R", bound=BaseModel)


@dataclass(frozen=True)
class Units:
    """A study's folder, or its work in memory.

    Args:
        path: Folder, created if missing; URL or open store. None: in memory.
        config: Settings; a folder with other settings raises `BadInput`.
        progress: Callback `(stage, units done, units in total)`. None: none.

    Attributes:
        folder: The open folder, for other files stored there.

    Raises:
        BadInput: The folder holds other work, or cannot be written.
    """

    path: Place | None
    config: Config
    progress: Progress | None = None
    folder: Folder = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", open_folder(self.path, self.config))

    def map(self, stage: str, kind: type[R], names: Sequence[str], compute: Callable[[str], R]) -> list[R]:
        """Compute the missing units in order, and store each.

        Several processes may share the folder: units that another process is computing are waited for at the end.

        Args:
            stage: Name of the work for `progress`, and of its folder.
            kind: Record type of a unit.
            names: Unique names of the units, also used as file names.
            compute: `(name) -> record`. Runs with torch's global generator seeded by the name and restored afterwards,
                so that a resumed study equals an uninterrupted one.

        Returns:
            The records of all units, in the order of `names`.
        """
        records = {name: record for name in names if (record := self._stored(stage, name, kind)) is not None}
        self._report(stage, records, names)
        remaining = [name for name in names if name not in records]
        while remaining:
            elsewhere = []
            for name in remaining:
                with self.folder.claims.claimed(_file(stage, name)) as mine:
                    if not mine:
                        elsewhere.append(name)
                        continue
                    record = self._stored(stage, name, kind)  # another process may have stored it meanwhile
                    records[name] = self._computed(stage, name, compute) if record is None else record
                self._report(stage, records, names)
            if len(elsewhere) == len(remaining):
                self.folder.claims.pause()
            remaining = elsewhere
        return [records[name] for name in names]

    def _computed(self, stage: str, name: str, compute: Callable[[str], R]) -> R:
        with torch.random.fork_rng():
            torch.manual_seed(_seed_of(name))
            record = compute(name)
        self.folder.store_json(_file(stage, name), json.loads(record.model_dump_json()))
        return record

    def _stored(self, stage: str, name: str, kind: type[R]) -> R | None:
        """Read the unit of an earlier start; None where it is missing or damaged."""
        content = self.folder.read_json(_file(stage, name))
        return None if content is None else _validated(content, kind)

    def _report(self, stage: str, records: dict[str, R], names: Sequence[str]) -> None:
        if self.progress is not None:
            self.progress(stage, len(records), len(names))


def read_unit(path: Path, kind: type[R]) -> R:
    """Read a unit's file, of any configuration.

    Raises:
        BadInput: The file is missing, or holds something else.
    """
    try:
        record = _validated(json.loads(read_regular(path))["content"], kind)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput(
            f"{path} is not the record of a unit of work ({error}); remove it, and it is computed again"
        ) from error
    if record is None:
        raise BadInput(f"{path} holds no {kind.__name__.lower()}; remove it, and it is computed again")
    return record


def _validated(content: Any, kind: type[R]) -> R | None:
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError:
        return None


def _file(stage: str, name: str) -> str:
    return f"units/{stage}/{name}.json"


def _seed_of(name: str) -> int:
    """Return a seed from a name, the same in every process."""
    value = 0
    for byte in name.encode():
        value = (value * 257 + byte) % (2**61 - 1)
    return value


def file_name(name: str) -> str:
    """Return a name with characters not allowed in file names replaced by underscores."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def by_file_name(names: Sequence[str], compute: Callable[[str], Any]) -> tuple[list[str], Callable[[str], Any]]:
    """Return valid file names for units, and a function that computes a unit from its file name."""
    known = {file_name(name): name for name in names}
    return list(known), lambda unit: compute(known[unit])


def requested_sets(known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """Return the requested data sets, all of them for None.

    Raises:
        BadInput: A requested data set is not among the known ones.
    """
    for name in wanted or ():
        if name not in known:
            raise BadInput(f"this scale has no data set {name!r}; it has {', '.join(known)}")
    return list(wanted or known)
