"""Claim files, by which several processes share work in one folder without doing any of it twice.

A process that begins a piece of work creates a claim file exclusively and removes it at the end; other processes work
on other pieces, or wait. A claim names its process, and its heartbeat changes every `REFRESH_SECONDS`. Another process
takes it over once its holder is gone: on the same machine when the process has ended, on another machine when the
heartbeat has not changed for `EXPIRY_SECONDS`. Taking over also creates a file exclusively: the claim with the highest
number is valid.

Clocks of machines are never compared: the reader measures by its own clock how long a heartbeat has stood still, and
asks the store, which dates all files by one clock, how old a claim was when it was first seen.

Claims avoid duplicate work but are no locks: two processes that compute the same piece get the same result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path

from unfooled.core.errors import BadInput
from unfooled.runs.opening import FilePlace, open_file
from unfooled.runs.store import Store

FOLDER = ".claims"
PRESENT = "present "
"""Prefix of claims that only show that a process is active in the folder."""
DRIVER = "driver"
"""Claim of the start that writes the result; other starts help it."""
REFRESH_SECONDS = 15.0
"""Seconds between two refreshes of a claim."""
EXPIRY_SECONDS = 120.0
"""Seconds without a change of its heartbeat after which a process on another machine counts as gone."""
POLL_SECONDS = 0.2
"""Longest pause between two looks while waiting for other processes, in seconds."""
FIRST_POLL_SECONDS = 0.01
"""The first pause; each is twice as long as the one before."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a claim.

    Attributes:
        name: Name of the claimed work.
        token: Random identifier of the claim.
        host: Identifier of machine, boot and process namespace.
        pid: Process number on that machine.
        started: Start time of the process as reported by the system. Empty: not known.
        beat: Heartbeat, another number after each refresh: the seconds since the epoch by the clock of the holder.
        start: Start that the process works for, where several processes share its work. Empty: none.
    """

    name: str
    token: str
    host: str
    pid: int
    started: str
    beat: float
    start: str = ""

    @classmethod
    def here(cls, name: str, start: str = "") -> Holder:
        """Return a new claim of this process."""
        return cls(name, uuid.uuid4().hex, _host(), os.getpid(), process_start(os.getpid()) or "", time.time(), start)

    @classmethod
    def parse(cls, data: bytes) -> Holder:
        """Parse the output of `data`.

        Raises:
            ValueError, TypeError, KeyError: The bytes are not a claim.
        """
        stored = json.loads(data)
        name, token, host, started = (str(stored[key]) for key in ("name", "token", "host", "started"))
        start = str(stored.get("start", ""))
        return cls(name, token, host, int(stored["pid"]), started, float(stored["beat"]), start)

    def data(self) -> bytes:
        """Return the stored form of the claim."""
        return json.dumps(asdict(self)).encode()

    @property
    def of_this_machine(self) -> bool:
        """True if the process runs on this machine."""
        return self.host == _host()

    @property
    def machine(self) -> str:
        """Name of the machine."""
        return self.host.partition(" ")[0]

    @property
    def has_ended(self) -> bool | None:
        """True once the process has ended; None where the system cannot tell, as on another machine."""
        started = process_start(self.pid) if self.of_this_machine else None
        return None if started is None else started != self.started


@dataclass
class Claims:
    """The claims in one store; without a store (work in memory) every claim is granted.

    Args:
        store: Store that holds the claim files. None: work in memory.
        start: Start that this process works for, see `Holder`.
        instead: Function that is called instead of a pause, and returns whether it did something useful.
    """

    store: Store | None
    start: str = ""
    instead: Callable[[], bool] = field(default=lambda: False, repr=False)
    _own: dict[str, Holder] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _refresher: threading.Thread | None = field(default=None, repr=False)
    _idle: threading.Event = field(default_factory=threading.Event, repr=False)
    _pauses: int = field(default=0, repr=False)
    _unreadable_since: dict[str, float] = field(default_factory=dict, repr=False)
    _unchanged_since: dict[str, tuple[str, float, float]] = field(default_factory=dict, repr=False)

    @contextmanager
    def claimed(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """Claim a piece of work for the duration of the block; yield whether it was granted.

        Args:
            name: Name of the work.
            wait: True: wait until it is granted.

        Raises:
            BadInput: The folder cannot be written.
        """
        if self.store is None:
            yield True
            return
        while (file := self._take(self.store, name)) is None and wait:
            self.pause()
        if file is None:
            yield False
            return
        try:
            yield True
        finally:
            self._release(self.store, file)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Mark this process as active in the folder, see `live`; remove the marks of ended processes."""
        with self.claimed(PRESENT + uuid.uuid4().hex):
            if self.store is not None:
                for file, holder in self._holders(self.store):
                    if holder.name.startswith(PRESENT) and self._is_gone(self.store, file, holder):
                        self.store.remove(file)
            yield

    def pause(self) -> None:
        """Do something useful or wait before the next look at the store, longer each time."""
        if self.instead():
            return
        seconds = min(POLL_SECONDS, FIRST_POLL_SECONDS * 2 ** min(self._pauses, 10))
        self._pauses += 1
        time.sleep(seconds * (1.0 if self.store is None else self.store.patience))

    def holder(self, name: str) -> Holder | None:
        """Return the active process that holds a claim; None: there is none."""
        store = self.store
        holders = [] if store is None else [(file, one) for file, one in self._holders(store) if one.name == name]
        live = (one for file, one in holders if store and not self._is_gone(store, file, one))
        return next(live, None)

    def live(self) -> list[str]:
        """Return the names of the claims whose processes are active, this process included."""
        return (
            []
            if self.store is None
            else [one.name for file, one in self._holders(self.store) if not self._is_gone(self.store, file, one)]
        )

    def deserted(self, start: str) -> list[str]:
        """Return the names of claims whose processes died while they worked for a start, once for each process."""
        names: list[str] = []
        if self.store is not None:
            for file in filter(_numbered, self.store.list(FOLDER)):
                one = self._holder(self.store, file)
                if one is not None and one.start == start and self._is_gone(self.store, file, one):
                    names.append(one.name)
        return names

    def _holders(self, store: Store) -> list[tuple[str, Holder]]:
        """Read the valid claims: the last one for each piece of work."""
        top = dict(sorted(_parts(file) for file in store.list(FOLDER) if _numbered(file)))
        files = [_file(key, number) for key, number in top.items()]
        holders = ((file, self._own.get(file) or self._holder(store, file)) for file in files)
        return [(file, holder) for file, holder in holders if holder is not None]

    def _take(self, store: Store, name: str) -> str | None:
        """Create a claim unless an active process holds one; return its file name, None if not granted."""
        key = hashlib.sha256(name.encode()).hexdigest()[:20]
        numbers = [number for known, number in map(_parts, filter(_numbered, store.list(FOLDER))) if known == key]
        if numbers:
            file = _file(key, max(numbers))
            holder = self._holder(store, file)
            if not (self._is_abandoned(file) if holder is None else self._is_gone(store, file, holder)):
                return None
        file = _file(key, max(numbers, default=-1) + 1)
        mine = Holder.here(name, self.start)
        if not store.create_exclusive(file, mine.data(), durable=False):
            return None
        self._pauses = 0
        with self._lock:
            self._own[file] = mine
            if self._refresher is None:
                self._idle = threading.Event()
                self._refresher = threading.Thread(target=self._refresh, args=(store, self._idle), daemon=True)
                self._refresher.start()
        return file

    def _release(self, store: Store, file: str) -> None:
        """Remove a claim and the older claims that it replaced."""
        with self._lock:
            mine = self._own.pop(file)
            if not self._own:
                self._idle.set()
                self._refresher = None
        key, number = _parts(file)
        with suppress(BadInput):
            for other in filter(_numbered, store.list(FOLDER) if number else []):  # it replaced some
                if _parts(other)[0] == key and _parts(other)[1] < number:
                    store.remove(other)
            holder = self._holder(store, file)
            if holder is not None and holder.token == mine.token:
                store.remove(file)

    def _refresh(self, store: Store, idle: threading.Event) -> None:
        """Refresh the time stamps of this process's claims until it holds none."""
        while not idle.wait(REFRESH_SECONDS):
            with self._lock, suppress(BadInput):  # the lock prevents a release meanwhile
                for file, mine in self._own.items():
                    holder = self._holder(store, file)
                    if holder is not None and holder.token == mine.token:
                        store.write_whole(file, replace(mine, beat=time.time()).data())

    def _holder(self, store: Store, file: str) -> Holder | None:
        """Read a claim; None where it is missing or not readable."""
        data = store.read(file)
        if data is None:
            return None
        try:
            return Holder.parse(data)
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def _is_gone(self, store: Store, file: str, holder: Holder) -> bool:
        """Return whether the holder of a claim has ended, or its heartbeat has stood still for too long."""
        if (ended := holder.has_ended) is not None:
            return ended
        token, beat, since = self._unchanged_since.get(file, ("", 0.0, 0.0))
        if (token, beat) != (holder.token, holder.beat):
            since = time.monotonic() - (0.0 if token == holder.token else store.age(file))
            self._unchanged_since[file] = holder.token, holder.beat, since
        return time.monotonic() - since > EXPIRY_SECONDS

    def _is_abandoned(self, file: str) -> bool:
        """Return whether a claim has been unreadable for `EXPIRY_SECONDS`; while it is written, it is so briefly."""
        since = self._unreadable_since.setdefault(file, time.monotonic())
        return time.monotonic() - since > EXPIRY_SECONDS


@contextmanager
def claimed_file(place: FilePlace, *, wait: bool = True) -> Iterator[bool]:
    """Claim the work whose result is one file, such as the training of a network.

    Args:
        place: The result file; the claim lies in a folder beside it, or in that of its store.
        wait: True: wait until no other process holds the claim; check then whether the file exists.

    Raises:
        BadInput: The folder cannot be written.
    """
    file = open_file(place)
    with Claims(file.store).claimed(file.name, wait=wait) as mine:
        yield mine


def process_start(pid: int) -> str | None:
    """Return the start time of a process on this machine, as reported by the system.

    Empty where there is no such process; None where the system cannot tell.
    """
    with suppress(OSError, ValueError, IndexError):
        # After the last parenthesis, which ends the command: the state, and 19 fields later the start time.
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
    """Return an identifier of this machine: its name, boot and process namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _file(key: str, number: int) -> str:
    return f"{FOLDER}/{key}.{number}"


def _numbered(file: str) -> bool:
    """Return whether a file is a claim and not a temporary file."""
    return file.rpartition(".")[2].isdigit() and not file.removeprefix(f"{FOLDER}/").startswith(".")


def _parts(file: str) -> tuple[str, int]:
    """Return the key and the number of a claim file."""
    key, _, number = file.removeprefix(f"{FOLDER}/").rpartition(".")
    return key, int(number)
