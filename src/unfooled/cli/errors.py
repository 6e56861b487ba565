"""Errors of the command line: one sentence on stderr and an exit code, never a traceback.

Exit codes: 0 done, 1 a defect of unfooled, 2 bad input, 3 below `--fail-under` or the baseline, or not trusted,
130 interrupted, 141 the reader of the output closed it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from unfooled.core.errors import BadInput, printable
from unfooled.workflows.errors import BelowBound

BAD_INPUT, BELOW_LIMIT, INTERRUPTED, CLOSED = 2, 3, 130, 141


class ClosedOutput(BaseException):
    """The reader of this command's output, such as `head`, has closed it."""


class Refused(ValueError):
    """An option that the command line itself refuses."""


def as_flag(name: str, value: str = "") -> str:
    """Write an option of a workflow as a command-line flag: `--attack-steps`, `--loss madry`, `--fresh`."""
    flag = "--" + name.replace("_", "-")
    return flag if value in ("", "True") else f"{flag} {value}"


def refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments, such as `--out ""` from an unset variable in a script.

    Raises:
        Refused: an argument is empty.
    """
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.partition("=")
        if not word.strip():
            raise Refused(
                f"{before if before.startswith('-') else 'an argument'} is empty; leave it out, or give a value"
            )
        if option.startswith("--") and equals and not value.strip():
            raise Refused(f"{option} is empty; leave it out, or give a value")


def guarded(call: Callable[[], object], *, resumable: bool = True) -> int:
    """Run the command, print any exception as one sentence, return the exit code. UNFOOLED_DEBUG=1 shows tracebacks.

    Args:
        call: The command.
        resumable: True if finished work lies on disk when the command is interrupted.
    """
    try:
        call()
        return 0
    except KeyboardInterrupt:
        work = "finished work is kept, the same command continues" if resumable else "nothing was kept"
        return report_error(f"interrupted; {work}", INTERRUPTED)
    except BelowBound as e:
        return report_error(f"{e} (--fail-under or --baseline)", BELOW_LIMIT)
    except MemoryError:
        return report_error("out of memory; try a smaller --batch or --n", BAD_INPUT)
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # typer makes these of any closed pipe, a model's too
            help_closed = _module_of(e.__context__).startswith("rich.")
            return CLOSED if help_closed else report_error(*_sentence(e.__context__))
        sentence = f"the code of the model or the data ended the process (SystemExit: {e}); let it return instead"
        return report_error(sentence, BAD_INPUT)
    except ClosedOutput:  # nothing is printed; the code is that of other programs whose output is closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except Exception as e:
        if os.environ.get("UNFOOLED_DEBUG"):
            raise
        return report_error(*_sentence(e))
    except BaseException as e:  # of the model's code; nothing else raises one
        if os.environ.get("UNFOOLED_DEBUG"):
            raise
        return report_error(f"the code of the model or the data raised {type(e).__name__}: {e}", BAD_INPUT)


def _module_of(error: BaseException) -> str:
    """Return the name of the module that raised an error; empty where it is not known."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))


def _sentence(error: Exception) -> tuple[str, int]:
    """Return the sentence that the command line prints for an error, and its code."""
    if isinstance(error, BadInput):
        notes = getattr(error, "__notes__", ())
        return error.spelled(as_flag) + (f" ({'; '.join(notes)})" if notes else ""), BAD_INPUT
    if isinstance(error, OSError):
        file = error.filename
        if error.errno == errno.ENOSPC:
            return f"the disk is full{f' ({file})' if file else ''}; free some space", BAD_INPUT
        return f"{error.strerror or error}{f': {file}' if file else ''}", BAD_INPUT
    if isinstance(error, ValueError):
        return str(error), BAD_INPUT
    if "out of memory" in str(error).lower():
        return "the device is out of memory; try a smaller --batch", BAD_INPUT
    kind = type(error).__name__
    return f"{kind}: {error} (a defect, or a model that fails; UNFOOLED_DEBUG=1 shows where)", 1


def report_error(sentence: str, code: int) -> int:
    """Print a sentence on stderr, and return the exit code."""
    text = printable(" ".join(sentence.split()))
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[1;31munfooled:\x1b[0m" if colour else "unfooled:"
    print(f"{label} {text}", file=sys.stderr)  # noqa: T201
    return code
