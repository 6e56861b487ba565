"""Rows of work that any number of processes share, on one machine, and that survive a kill.

The result for rows [a, b) is the file `<a>-<b>.safetensors`. A process that works on them holds a lock, which the
system lets go of when the process ends, however it ends; the others take other rows, and at last wait for what is left.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unfooled.core.checks import BadInput
from unfooled.core.files import write_whole

Rows = dict[str, Tensor]
"""Results by name, each with one entry a row."""

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
        folder: where shards are kept; in memory where None. Its first start decides on the size of a shard.
        settings: what must agree for a folder to be continued; JSON values.
        shard: rows a file.
        what: told to `progress`.
        progress: told what is done: what was found at first, then after each shard.

    Raises:
        BadInput: the folder holds other work; the first setting that differs is named.
    """
    if shard < 1:
        raise BadInput(f"shard is {shard}; it must be at least 1")
    if folder is not None:
        shard = _agree(folder, {**(settings or {}), "n": n}, shard)
    parts: dict[int, Rows] = {}
    ranges = {a: min(a + shard, n) for a in range(0, n, shard)}
    file = {a: None if folder is None else folder / f"{a}-{b}.safetensors" for a, b in ranges.items()}

    def tell() -> None:
        if progress is not None:
            progress(what, sum(ranges[a] - a for a in parts), n)

    for a in ranges:
        if (held := _read(file[a])) is not None:
            parts[a] = held
    tell()
    for wait in (False, True):
        for a, b in ranges.items():
            if a in parts:
                continue
            with _locked(folder, a, wait=wait) as mine:
                if not mine:
                    continue
                held = _read(file[a])  # another process may have been faster
                if held is None:
                    held = {k: v.detach().cpu().contiguous().clone() for k, v in work(torch.arange(a, b)).items()}
                    _write(file[a], held)
            parts[a] = held
            tell()
    names = list(parts[0]) if parts else []
    return {name: torch.cat([parts[a][name] for a in ranges]) for name in names}


def _agree(folder: Path, settings: dict[str, Any], shard: int) -> int:
    """Refuse a folder of other work; the size of its shards."""
    file = folder / "settings.json"
    new = json.loads(json.dumps({**settings, "shard": shard}))
    if not file.is_file():
        write_whole(file, json.dumps(new, indent=2).encode())
    try:
        old = json.loads(file.read_text(encoding="utf-8"))
        size = int(old["shard"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} cannot be read ({error}); remove {folder}, or choose another place") from error
    changed = [k for k in sorted({*old, *new} - {"shard"}) if old.get(k) != new.get(k)]
    if changed:
        k = changed[0]
        raise BadInput(
            f"{folder} holds other work: {k} was {old.get(k)!r}, now it is {new.get(k)!r}; choose another place, or "
            "remove that folder"
        )
    return size


def _read(file: Path | None) -> Rows | None:
    """A shard that is whole; None where it is not there, or damaged."""
    if file is None or not file.is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError):
        return None


def _write(file: Path | None, held: Rows) -> None:
    if file is not None:
        from safetensors.torch import save

        write_whole(file, save(held))


@contextmanager
def _locked(folder: Path | None, a: int, *, wait: bool) -> Iterator[bool]:
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
            except OSError:
                if not wait:
                    yield False
                    return
                time.sleep(0.2)
        yield True
