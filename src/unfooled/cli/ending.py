"""Guard of the exit code: the command decides it, not code of a model or of data that ends or replaces the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn


class Ending:
    """A replacement of `os._exit` and `os.exec*` that ends the process with no other code than that of the command.

    Before the command is done it raises `SystemExit`, as `sys.exit` does; afterwards, as in a function that runs at
    exit, it ends the process with the command's code. Processes that were forked meanwhile end as they like.

    Attributes:
        code: Exit code of the command. None: it is not done.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.process, self.end = os.getpid(), os._exit
        self.replacing = {name: getattr(os, name) for name in ("execv", "execve") if hasattr(os, name)}

    def __call__(self, status: int = 0) -> NoReturn:
        """End this process."""
        if os.getpid() != self.process:
            self.end(status)
        self._stop(f"os._exit({status})")

    def _stop(self, call: str) -> NoReturn:
        """End the process with the command's code, or raise `SystemExit` before it is done."""
        if self.code is None:
            raise SystemExit(f"{call} was called")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.end(self.code)

    def install(self) -> None:
        """Replace `os._exit` and the functions behind `os.exec*`, also where `os` has them from, until the end."""
        for place in (os, *(sys.modules[name] for name in ("posix", "nt") if name in sys.modules)):
            place._exit = self  # type: ignore[attr-defined]
            for name, replace in self.replacing.items():
                setattr(place, name, partial(self._replace, name, replace))

    def _replace(self, name: str, replace: Callable[..., NoReturn], file: Any, *arguments: Any) -> NoReturn:
        """Let a forked process become another program, and stop this one."""
        if os.getpid() != self.process:
            replace(file, *arguments)
        self._stop(f"os.{name}({file!r})")
