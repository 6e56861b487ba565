"""Rows of work that any number of processes share, on one machine, and that survive a kill.

The result for rows [a, b) is the file `<a>-<b>.safetensors`, with a hash of what it holds, of its rows and of the
settings: a damaged file, or one of other rows, is made again. A process that works on them holds a lock, which the
system lets go of when the process ends, however it ends; the others take other rows, and at last wait for what is left.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.runs.files import write_whole
from unfooled.runs.hashes import tensors_hash

Rows = dict[str, Tensor]
"""Results by name, each with one entry a row."""

SETTINGS = "settings.json"
OURS = re.compile(r"\.users|\.(\d+|save)\.lock|\.?(\d+-\d+\.safetensors|settings\.json)(\..*)?")
"""Names of the files in a folder of shards, those that a kill left half written among them."""

Progress = Callable[[str, int, int], None]
"""(what, rows done, rows in all)."""


def in_shards(
    work: Callable[[Tensor], Rows],
    n: int,
    *,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    shard: int = 500,
    what: str = "samples",
    progress: Progress | None = None,
) -> Rows:
    """Compute rows 0 to n, shard by shard, and return all of them, on the CPU.

    Args:
        work: `(rows (b,) int64) -> {name: (b, ...)}`; must not depend on which rows come together.
        n: how many rows.
        folder: where shards are kept, until `discard`; in memory where None. Its first start decides on the size of a
            shard.
        settings: what must agree for a folder to be continued; JSON values.
        shard: rows a file.
        what: told to `progress`.
        progress: told what is done: what was found at first, then after each shard.

    Raises:
        BadInput: the folder holds other work; the first setting that differs is named.
    """
    if shard < 1:
        raise BadInput(f"shard is {shard}; it must be at least 1")
    with ExitStack() as stack:
        about = json.loads(json.dumps({**(settings or {}), "n": n}))
        if folder is not None:
            stack.enter_context(_used(folder))
            shard = _agree(folder, about, shard)
        mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return _all(work, n, folder, mark, shard, what, progress)


def _all(
    work: Callable[[Tensor], Rows], n: int, folder: Path | None, mark: str, shard: int, what: str,
    progress: Progress | None,
) -> Rows:  # fmt: skip
    """All rows; those of shards that bear the mark are read."""
    parts: dict[int, Rows] = {}
    ranges = {a: min(a + shard, n) for a in range(0, n, shard)}
    file = {a: None if folder is None else folder / f"{a}-{b}.safetensors" for a, b in ranges.items()}

    def tell() -> None:
        if progress is not None:
            progress(what, sum(ranges[a] - a for a in parts), n)

    for a in ranges:
        if (held := _read(file[a], ranges[a] - a, f"{mark} {a}")) is not None:
            parts[a] = held
    tell()
    for wait in (False, True):
        for a, b in ranges.items():
            if a in parts:
                continue
            with _locked(folder, a, wait=wait) as mine:
                if not mine:
                    continue
                held = _read(file[a], b - a, f"{mark} {a}")  # another process may have been faster
                if held is None:
                    held = {k: v.detach().cpu().contiguous().clone() for k, v in work(torch.arange(a, b)).items()}
                    _write(file[a], held, f"{mark} {a}")
            parts[a] = held
            tell()
    names = list(parts[0]) if parts else []
    return {name: torch.cat([parts[a][name] for a in ranges]) for name in names}


def _agree(folder: Path, settings: dict[str, Any], shard: int) -> int:
    """Refuse a folder of other work; the size of its shards."""
    file = folder / SETTINGS
    if not file.is_file():
        write_whole(file, json.dumps({**settings, "shard": shard}, indent=2).encode())
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        size = int(old["shard"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read ({error}); remove {folder}, or choose another place") from error
    if said := changed(old, settings, {*old, *settings} - {"shard"}):
        raise BadInput(f"{folder} holds other work: {said}; choose another place, or start again (--fresh)")
    return size


def changed(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The first setting that differs, "seed was 0, now it is 1"; empty where none does. JSON values."""
    for k in sorted(keys):
        if old.get(k) != new.get(k):
            return f"{k} was {old.get(k)!r}, now it is {new.get(k)!r}"
    return ""


def discard(folder: Path) -> bool:
    """Remove the shards of work that is finished, or not wanted; what others put into the folder stays.

    Returns:
        Whether nobody else is at work there. Where somebody is, all stays, for the last one to remove.
    """
    if not folder.is_dir():
        return True
    with _used(folder, alone=True) as alone:
        if not alone:
            return False
        (folder / SETTINGS).unlink(missing_ok=True)  # first: without it the rest is no work to be continued
        for file in folder.iterdir():
            if OURS.fullmatch(file.name):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            folder.rmdir()
    return True


def _sum(held: Rows, mark: str) -> str:
    """The hash of a shard: names, shapes, dtypes and bytes, and what it belongs to."""
    names = sorted(held)
    told = json.dumps([mark, names, tensors_hash(*(held[name] for name in names))])
    return hashlib.sha256(told.encode()).hexdigest()


def _read(file: Path | None, rows: int, mark: str) -> Rows | None:
    """A shard that is whole; None where it is not there, damaged, or belongs elsewhere."""
    if file is None or not file.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = file.read_bytes()
        held = load(data)
    except (OSError, SafetensorError):
        return None
    # `load` has read the header, which is JSON behind its length, and keeps what was said beside the tensors to itself.
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    whole = about.get("sha256") == _sum(held, mark) and all(v.shape[:1] == (rows,) for v in held.values())
    return held if whole else None


def _write(file: Path | None, held: Rows, mark: str) -> None:
    if file is not None:
        from safetensors.torch import save

        write_whole(file, save(held, {"sha256": _sum(held, mark)}))


@contextmanager
def _used(folder: Path, *, alone: bool = False) -> Iterator[bool]:
    """Be at work in a folder, so that nobody discards it; `alone`: yields whether nobody else is. Makes the folder."""
    try:
        import fcntl
    except ImportError:  # the system has no such locks
        yield True
        return
    place = folder / ".users"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                f = place.open("ab")
            except FileNotFoundError:  # discarded in between
                continue
        except OSError as e:
            raise BadInput(f"cannot write {folder}: {e.strerror or e}; choose another place") from e
        with f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            except BlockingIOError:
                yield False
                return
            except OSError:  # a file system without locks: nobody can tell
                yield True
                return
            # While we waited another process may have discarded the folder, and the file with it.
            try:
                same = os.path.samestat(place.stat(), os.fstat(f.fileno()))
            except FileNotFoundError:
                same = False
            if same:
                yield True
                return


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """One process after the other, of those that work in a folder: for what they make of its shards."""
    with _used(folder), _locked(folder, "save", wait=True):
        yield


@contextmanager
def _locked(folder: Path | None, a: int | str, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a shard; yields whether it is ours. Where the system has no such locks, it always is."""
    if folder is None:
        yield True
        return
    try:
        import fcntl
    except ImportError:  # two processes may then do the same work, with the same result
        yield True
        return
    # A file a shard: locks of parts of one file are dropped when a process closes that file anywhere.
    with (folder / f".{a}.lock").open("wb") as f:
        while True:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    yield False
                    return
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield True
