"""How the command fails: one sentence on stderr and a code, never a traceback.

Codes: 0 done, 1 a defect of unfooled, 2 bad input, 3 below `--fail-under`, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

BAD_INPUT, BELOW, INTERRUPTED = 2, 3, 130


class Refused(ValueError):
    """Bad input found by the command line itself."""


class Below(Exception):
    """A figure is under the bound that `--fail-under` asks for."""


def guarded(call: Callable[[], object], *, keeps: bool = True) -> int:
    """Run the command and turn what it raises into a sentence and a code. UNFOOLED_DEBUG=1 shows tracebacks.

    `keeps` says whether finished work lies on disk when the command is interrupted.
    """
    try:
        call()
        return 0
    except KeyboardInterrupt:
        kept = "finished work is kept, the same command continues" if keeps else "nothing was kept"
        return _say(f"interrupted; {kept}", INTERRUPTED)
    except Below as e:
        return _say(str(e), BELOW)
    except MemoryError:
        return _say("out of memory; try a smaller --batch", BAD_INPUT)
    except BrokenPipeError:
        # The reader went away (head, less): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        if os.environ.get("UNFOOLED_DEBUG"):
            raise
        if e.errno == errno.ENOSPC:
            return _say(f"the disk is full{f' ({e.filename})' if e.filename else ''}; free some space", BAD_INPUT)
        return _say(f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}", BAD_INPUT)
    except Exception as e:
        if os.environ.get("UNFOOLED_DEBUG"):
            raise
        if isinstance(e, ValueError):
            return _say(str(e), BAD_INPUT)
        if "out of memory" in str(e).lower():
            return _say("the device is out of memory; try a smaller --batch", BAD_INPUT)
        return _say(f"{type(e).__name__}: {e} (a defect, or a model that fails; UNFOOLED_DEBUG=1 shows where)", 1)


def _say(sentence: str, code: int) -> int:
    text = " ".join(sentence.split())
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[1;31munfooled:\x1b[0m" if colour else "unfooled:"
    print(f"{label} {text}", file=sys.stderr)  # noqa: T201
    return code
