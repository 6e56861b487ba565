"""Claims: several processes share work in one folder, and do nothing twice.

Whoever begins a piece of work creates a claim file exclusively and removes it at the end; the others turn to other
pieces, or wait. A claim says which process holds it, and its time is refreshed every `BEAT` seconds. It is taken over
once its holder is gone: on the same machine when there is no such process any more, on another one when the time is
more than `STALE` seconds old. Taking over is an exclusive creation too: the claim with the next higher number counts.

Claims save work and guard nothing: should two processes ever compute the same, both find the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from unfooled.core.errors import BadInput
from unfooled.runs.store import Store

FOLDER = ".claims"
PRESENT = "present "
"""Beginning of the name of a claim that claims no work."""
BEAT = 15.0
"""Seconds between two refreshments of a claim."""
STALE = 120.0
"""Seconds without one after which a process on another machine counts as gone."""
POLL = 0.2
"""Seconds between two looks at a claim that is waited for."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    Attributes:
        name: Name of the claimed work.
        token: Random identifier of the claim.
        host: Machine, with its boot and its space of process numbers.
        pid: Process number there.
        started: Start of the process as the system states it; empty where it does not.
        beat: Seconds since the epoch when the claim was last refreshed.
    """

    name: str
    token: str
    host: str
    pid: int
    started: str
    beat: float

    @classmethod
    def here(cls, name: str) -> Holder:
        """Describe this process."""
        return cls(name, uuid.uuid4().hex, _host(), os.getpid(), process_start(os.getpid()) or "", time.time())

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """Read what `data` wrote.

        Raises:
            ValueError, TypeError, KeyError: It is something else.
        """
        stored = json.loads(data)
        name, token, host, started = (str(stored[key]) for key in ("name", "token", "host", "started"))
        return cls(name, token, host, int(stored["pid"]), started, float(stored["beat"]))

    def data(self) -> bytes:
        """Return the claim as it is stored."""
        return json.dumps(asdict(self)).encode()

    @property
    def gone(self) -> bool:
        """True once the process has ended or, on another machine, has not refreshed the claim for `STALE` seconds."""
        if self.host == _host():
            started = process_start(self.pid)
            if started is not None:
                return started != self.started
        return abs(time.time() - self.beat) > STALE


@dataclass
class Claims:
    """The claims in one store; in memory (None) there is nobody to share with, and every claim is granted.

    Args:
        store: Where claim files are.
    """

    store: Store | None
    _mine: dict[str, Holder] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _keeper: threading.Thread | None = field(default=None, repr=False)
    _idle: threading.Event = field(default_factory=threading.Event, repr=False)
    _unread: dict[str, float] = field(default_factory=dict, repr=False)

    @contextmanager
    def claimed(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim a piece of work for the duration of the block; yields whether it was granted.

        Args:
            name: Name of the work.
            wait: Wait until it is granted.

        Raises:
            BadInput: The folder cannot be written.
        """
        if self.store is None:
            yield True
            return
        while (file := self._take(self.store, name)) is None and wait:
            time.sleep(POLL)
        if file is None:
            yield False
            return
        try:
            yield True
        finally:
            self._release(self.store, file)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Show the others that this process works in the folder, see `live`; remove such signs of processes gone."""
        with self.claimed(PRESENT + uuid.uuid4().hex):
            if self.store is not None:
                for file, holder in self._holders(self.store):
                    if holder.gone and holder.name.startswith(PRESENT):
                        self.store.remove(file)
            yield

    def live(self) -> list[str]:
        """Return the names of the claims whose holders are at work, those of this process included."""
        return [] if self.store is None else [holder.name for _, holder in self._holders(self.store) if not holder.gone]

    def _holders(self, store: Store) -> list[tuple[str, Holder]]:
        """Read the claims that count: of each work the last one."""
        top = dict(sorted(_parts(file) for file in store.list(FOLDER) if _numbered(file)))
        files = [_file(key, number) for key, number in top.items()]
        return [(file, holder) for file in files if (holder := self._holder(store, file)) is not None]

    def _take(self, store: Store, name: str) -> str | None:
        """Create a claim unless somebody at work holds one; the name of its file."""
        key = hashlib.sha256(name.encode()).hexdigest()[:20]
        numbers = [number for known, number in map(_parts, filter(_numbered, store.list(FOLDER))) if known == key]
        if numbers:
            file = _file(key, max(numbers))
            holder = self._holder(store, file)
            if not (self._abandoned(file) if holder is None else holder.gone):
                return None
        file = _file(key, max(numbers, default=-1) + 1)
        mine = Holder.here(name)
        if not store.create_exclusive(file, mine.data(), durable=False):
            return None
        with self._lock:
            self._mine[file] = mine
            if self._keeper is None:
                self._idle = threading.Event()
                self._keeper = threading.Thread(target=self._refresh, args=(store, self._idle), daemon=True)
                self._keeper.start()
        return file

    def _release(self, store: Store, file: str) -> None:
        """Remove a claim, and those that it took over."""
        with self._lock:
            mine = self._mine.pop(file)
            if not self._mine:
                self._idle.set()
                self._keeper = None
        key, number = _parts(file)
        with suppress(BadInput):
            for other in filter(_numbered, store.list(FOLDER)):
                if _parts(other)[0] == key and _parts(other)[1] < number:
                    store.remove(other)
            holder = self._holder(store, file)
            if holder is not None and holder.token == mine.token:
                store.remove(file)

    def _refresh(self, store: Store, idle: threading.Event) -> None:
        """Refresh the time of the claims of this process until it holds none."""
        while not idle.wait(BEAT):
            with self._lock, suppress(BadInput):  # not released meanwhile
                for file, mine in self._mine.items():
                    holder = self._holder(store, file)
                    if holder is not None and holder.token == mine.token:
                        store.write_whole(file, replace(mine, beat=time.time()).data())

    def _holder(self, store: Store, file: str) -> Holder | None:
        """Read a claim; None where it is gone, or not readable."""
        data = store.read(file)
        if data is None:
            return None
        try:
            return Holder.parse(data)
        except (ValueError, TypeError, KeyError):
            return None

    def _abandoned(self, file: str) -> bool:
        """Return whether a claim could not be read for `STALE` seconds; one in the making cannot for a moment."""
        since = self._unread.setdefault(file, time.monotonic())
        return time.monotonic() - since > STALE


@contextmanager
def claimed_file(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Claim the work that ends in one file, such as the training of a network, among all processes that want it.

    Args:
        path: The file; its claim lies in a folder beside it while it is made.
        wait: Wait until nobody else makes it; look then whether it is there.

    Raises:
        BadInput: The folder cannot be written.
    """
    with Claims(Store(path.parent)).claimed(path.name, wait=wait) as mine:
        yield mine


def process_start(pid: int) -> str | None:
    """Return when a process of this machine began, as the system states it.

    Empty where there is no such process; None where the system cannot tell.
    """
    with suppress(OSError, ValueError, IndexError):
        # Behind the command, which may hold anything but a last parenthesis: the state, and 19 further on the start.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    if os.name != "posix":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except (OSError, OverflowError):
        return None
    return None


@cache
def _host() -> str:
    """Return what tells this machine from others: its name, its boot and its space of process numbers."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _file(key: str, number: int) -> str:
    return f"{FOLDER}/{key}.{number}"


def _numbered(file: str) -> bool:
    """Return whether a file is a claim, and no temporary one."""
    return file.rpartition(".")[2].isdigit() and not file.removeprefix(f"{FOLDER}/").startswith(".")


def _parts(file: str) -> tuple[str, int]:
    """Return the key of a claim, and its number."""
    key, _, number = file.removeprefix(f"{FOLDER}/").rpartition(".")
    return key, int(number)
