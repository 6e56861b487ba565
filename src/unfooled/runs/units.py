"""Work that survives a kill, cut into units that are no rows of one tensor: one whole JSON file each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel

from unfooled.core.errors import BadInput
from unfooled.runs.records import Config, read_record, write_record
from unfooled.runs.chunks import Progress, Run

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

R = TypeVar("R", bound=BaseModel)
POLL = 1.0
"""Seconds between looks at units that others hold."""


@dataclass(frozen=True)
class Units:
    """A study's folder, or its work in memory where `path` is None.

    Args:
        path: the folder; created if need be.
        config: what was asked; a folder that holds another configuration is refused.
        progress: told what is done, `(stage, units done, units in all)`.

    Raises:
        BadInput: the folder holds other work, or cannot be written.
    """

    path: Path | None
    config: Config
    progress: Progress | None = None

    def __post_init__(self) -> None:
        Run(self.path, self.config)

    def map(self, stage: str, kind: type[R], names: Sequence[str], compute: Callable[[str], R]) -> list[R]:
        """Compute every unit that is not there yet, in order, keeping each.

        Several starts may work in one folder: a unit that another one holds is left to it, and waited for at the end.

        Args:
            stage: what progress calls the work, also its folder's name.
            kind: the record that a unit is kept as.
            names: of the units, unique; file names.
            compute: `(name) -> record`. Runs with torch's global generator seeded by the name and restored afterwards,
                so that a resumed study finds what one that was not interrupted does.

        Returns:
            The records of all units, in the order of `names`.
        """
        found = {name: record for name in names if (record := self._found(stage, name, kind)) is not None}
        if self.progress:
            self.progress(stage, len(found), len(names))
        left = [name for name in names if name not in found]
        while left:
            held = []
            for name in left:
                with self._claim(stage, name) as mine:
                    if not mine:
                        held.append(name)
                        continue
                    record = self._found(stage, name, kind)  # another start may have made it meanwhile
                    found[name] = self._made(stage, name, compute) if record is None else record
                if self.progress:
                    self.progress(stage, len(found), len(names))
            if len(held) == len(left):
                time.sleep(POLL)
            left = held
        return [found[name] for name in names]

    def _made(self, stage: str, name: str, compute: Callable[[str], R]) -> R:
        with torch.random.fork_rng():
            torch.manual_seed(_number(name))
            record = compute(name)
        if self.path is not None:
            write_record(self._file(stage, name), record)
        return record

    @contextmanager
    def _claim(self, stage: str, name: str) -> Iterator[bool]:
        """Whether the unit is ours: a lock on a file, which ends with the process, however it ends."""
        if self.path is None or fcntl is None:
            yield True
            return
        file = self._file(stage, name).with_suffix(".lock")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = file.open("w")
        except OSError as error:
            raise BadInput(f"{file.parent} cannot be written: {error.strerror or error}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks: every start does all that it finds undone
                yield True
                return
            try:
                yield True
            finally:
                file.unlink(missing_ok=True)

    def _file(self, stage: str, name: str) -> Path:
        assert self.path is not None
        return self.path / "units" / stage / f"{name}.json"

    def _found(self, stage: str, name: str, kind: type[R]) -> R | None:
        """What an earlier start left; a damaged file counts as none."""
        if self.path is None or not self._file(stage, name).exists():
            return None
        try:
            return read_record(self._file(stage, name), kind)
        except BadInput:
            return None


def _number(name: str) -> int:
    """A seed from a name, the same in every process."""
    value = 0
    for byte in name.encode():
        value = (value * 257 + byte) % (2**61 - 1)
    return value


def filed(name: str) -> str:
    """A name as a file's."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def named(names: Sequence[str], compute: Callable[[str], Any]) -> tuple[list[str], Callable[[str], Any]]:
    """Names of units, and how to compute one from the name that it stands for."""
    known = {filed(name): name for name in names}
    return list(known), lambda unit: compute(known[unit])


def chosen(known: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    """The data sets that were asked for; all where None.

    Raises:
        BadInput: the scale has no such data set.
    """
    for name in wanted or ():
        if name not in known:
            raise BadInput(f"this scale has no data set {name!r}; it has {', '.join(known)}")
    return list(wanted or known)
