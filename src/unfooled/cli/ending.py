"""Guard of the exit code: the command decides it, not code of a model or of data that ends the process."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


class Ending:
    """A replacement of `os._exit` that ends the process with no other code than that of the command.

    Before the command is done it raises `SystemExit`, as `sys.exit` does; afterwards, as in a function that runs at
    exit, it ends the process with the command's code. Processes that were forked meanwhile end as they like.

    Attributes:
        code: Exit code of the command. None: it is not done.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.process, self.end = os.getpid(), os._exit

    def __call__(self, status: int = 0) -> NoReturn:
        """End this process."""
        if os.getpid() != self.process:
            self.end(status)
        if self.code is None:
            raise SystemExit(f"os._exit({status}) was called")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.end(self.code)

    def install(self) -> None:
        """Replace `os._exit` until the process ends."""
        os._exit = self
