"""Calls of the command in processes of their own, without starting Python anew: what each printed, took and left.

A call is a fork of this process, which has imported the package, with a limit on its memory and on its seconds.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MEMORY = 2 << 30  # bytes that a call may take beyond what it starts with
SECONDS = 60


@dataclass(frozen=True)
class Called:
    """What a call did.

    Attributes:
        code: Exit code; None: it did not end in time.
        out: Text on stdout.
        err: Text on stderr.
        seconds: Wall time.
        grown: Bytes by which its memory grew beyond that of the process that started it.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    grown: int

    @property
    def sentences(self) -> list[str]:
        """The sentences of the command on stderr."""
        return [line for line in self.err.splitlines() if line.startswith("unfooled:")]

    @property
    def traceback(self) -> bool:
        """True if a traceback was printed."""
        return "Traceback (most recent call last)" in self.out + self.err

    def faults(self, *words: str) -> list[str]:
        """Return what is wrong with a call that should have been refused in one sentence with these words."""
        ended = {None: "hang", 0: "accepted"}.get(self.code, "" if self.code == 2 else f"code {self.code}")
        faults = [ended] if ended else []
        if self.traceback:
            faults.append("traceback")
        if len(self.sentences) != 1:
            faults.append(f"{len(self.sentences)} sentences")
        if any(character < " " and character not in "\n\t" for character in self.out + self.err):
            faults.append("escape codes")
        said = " ".join(self.sentences).lower()
        faults += [f"does not say {word!r}" for word in words if word.lower() not in said]
        return faults


def call(
    home: Path,
    arguments: Sequence[str],
    *,
    seconds: int = SECONDS,
    memory: int = MEMORY,
    python: Callable[[], object] | None = None,
) -> Called:
    """Run the command in a folder.

    Args:
        home: The folder.
        arguments: Arguments of `unfooled`.
        seconds: Seconds until it is stopped.
        memory: Bytes that it may take beyond what it starts with.
        python: Function to call instead of the command.
    """
    texts = [home / ".stdout", home / ".stderr"]
    before, started = _status("VmRSS"), time.perf_counter()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(home, arguments, texts, memory, python)
    code, peak = _wait(child, seconds)
    out, err = (path.read_text(errors="replace") for path in texts)
    for path in texts:
        path.unlink()
    return Called(code, out, err, time.perf_counter() - started, max(0, peak - before))


def hidden(text: str, home: Path) -> str:
    """Return a text without the paths of this machine."""
    return re.sub(r"(/[\w.+-]+)*/site-packages/", "", text.replace(f"{home.resolve()}/", "").replace(str(home), "."))


def _child(
    home: Path, arguments: Sequence[str], texts: Sequence[Path], memory: int, python: Callable[[], object] | None
) -> None:
    """Run the call in this process, a fork, and end it."""
    from unfooled.cli.app import run

    code = 1
    try:
        os.chdir(home)
        for number, path in enumerate(texts, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
        sys.stdin.close()
        room = _status("VmSize") + memory
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        sys.argv = ["unfooled", *arguments]
        if python is not None:
            python()
            code = 0
        else:
            code = run(list(arguments))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(child: int, seconds: float) -> tuple[int | None, int]:
    """Wait for a child, and return its code and the peak of its memory; None for one that had to be stopped."""
    end = time.monotonic() + seconds
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code, usage.ru_maxrss * 1024
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            _, _, usage = os.wait4(child, 0)
            return None, usage.ru_maxrss * 1024
        time.sleep(0.005)


def _status(field: str) -> int:
    """Return a size of this process in bytes, as Linux gives it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
