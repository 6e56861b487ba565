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
SECONDS = 60  # of processor time
PATIENCE = 10  # times as much wall time, on a machine with other work


@dataclass(frozen=True)
class Called:
    """What a call did.

    Attributes:
        code: Exit code; None: it did not end in time.
        out: Text on stdout.
        err: Text on stderr.
        seconds: Processor time.
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
    before = _status("VmRSS")
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(home, arguments, texts, memory, seconds, python)
    code, peak, spent = _wait(child, PATIENCE * seconds)
    out, err = (path.read_text(errors="replace") for path in texts)
    for path in texts:
        path.unlink()
    return Called(code, out, err, spent, max(0, peak - before))


def hidden(text: str, home: Path) -> str:
    """Return a text without the paths of this machine."""
    return re.sub(r"(/[\w.+-]+)*/site-packages/", "", text.replace(f"{home.resolve()}/", "").replace(str(home), "."))


def _child(
    home: Path,
    arguments: Sequence[str],
    texts: Sequence[Path],
    memory: int,
    seconds: int,
    python: Callable[[], object] | None,
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
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
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


def _wait(child: int, seconds: float) -> tuple[int | None, int, float]:
    """Wait for a child; return its code, the peak of its memory and its processor time. The code is None if it hung."""
    end, killed = time.monotonic() + seconds, False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            hung = killed or code in (-signal.SIGXCPU, -signal.SIGKILL)
            return None if hung else code, usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime
        if time.monotonic() > end and not killed:
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.005)


def _status(field: str) -> int:
    """Return a size of this process in bytes, as Linux gives it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def warmed_up() -> None:
    """Import what calls would import one after the other, as every call is a fork of this process."""
    import importlib

    import torch

    from unfooled import load_data

    torch.set_num_threads(1)
    load_data("digits", n=8)
    for name in (
        *("cli.show", "studies", "data.formats.maps", "models.readers.exported", "report.study_page"),
        *(
            f"workflows.{name}"
            for name in ("auditing", "demonstrating", "explaining", "rebuilding", "reproducing", "scoring")
        ),
    ):
        importlib.import_module(f"unfooled.{name}")
