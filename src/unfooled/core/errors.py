"""Errors that name the invalid argument and the remedy in one sentence, and suggestions for misspelt names.

An option in a message is written `option("mean")`, or `option("fresh", True)` with the value to give. Python shows it
as a keyword (`mean`, `fresh=True`), the command line as a flag (`--mean`, `--fresh`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

NO_GRADIENT = (
    "the model's output carries no gradient to its input (detach, no_grad, numpy or argmax inside? "
    "torch.inference_mode() around the call?); gradient attacks cannot judge it"
)


Spell = Callable[[str, str], str]
"""(name of an option, a value or "") -> text of the option, as Python or the shell writes it."""

_OPTION = re.compile("\x02(\\w+)\x1f([^\x03]*)\x03")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class BadInput(ValueError):
    """An invalid argument; the message names it and says how to correct it.

    Args:
        message: The sentence; options in it are written by `option`. Control characters become visible.

    Example:
        >>> str(BadInput(f"the range is unknown; give {option('mean')}, or {option('fresh', True)}"))
        'the range is unknown; give mean, or fresh=True'
    """

    def __init__(self, message: str = "") -> None:
        self.message = message
        super().__init__(self.spelled(as_keyword))

    def spelled(self, spell: Spell) -> str:
        """Return the sentence with the options written by `spell`."""
        return printable(_OPTION.sub(lambda match: spell(match[1], match[2]), self.message))

    def __reduce__(self) -> tuple[type[BadInput], tuple[object, ...]]:
        return type(self), (self.message,)


class OneOutput(BadInput):
    """A model with a single output per sample, which is a model of two classes."""


class Unrecordable(RuntimeError):
    """An operation that a record of a model's operations cannot hold; what calls the model leaves it as it is."""


def option(name: str, value: object = "") -> str:
    """Write an option into the message of a `BadInput`; `value` is what the user should give."""
    return f"\x02{name}\x1f{value}\x03"


def as_keyword(name: str, value: str = "") -> str:
    """Write an option as Python does: `loss`, `loss='madry'`, `fresh=True`."""
    if not value:
        return name
    return f"{name}={value if value == 'True' or value.isdigit() else repr(value)}"


def printable(text: str, *, json: bool = False) -> str:
    r"""Return text in which no control character, escape code or mark that reorders text takes effect.

    Args:
        text: The text.
        json: True: write them as JSON does.

    Example:
        >>> print(printable("cat" + chr(27) + "[2J"))
        cat\x1b[2J
    """

    def visible(match: re.Match[str]) -> str:
        return f"\\u{ord(match[0]):04x}" if json or ord(match[0]) > 255 else f"\\x{ord(match[0]):02x}"

    return _CONTROL.sub(visible, text)


def describe_error(error: BaseException, *, longest: int = 300) -> str:
    """Return the type and the message of an error on one line, such as "KeyError: 'x'".

    Args:
        error: The error.
        longest: Number of characters of the message that are shown.
    """
    words = " ".join(str(error).split())[:longest]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def nearest(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """Return the closest known names as a question, `; did you mean a or b?`; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def missing_file(path: Path, suffixes: Iterable[str]) -> BadInput:
    """Return the error for a path that does not exist, with the most similar names in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return BadInput(f"there is no file {path}, nor a folder {folder}")
    names = sorted(item.name for item in folder.iterdir() if item.suffix in set(suffixes) or item.is_dir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    content = f"that folder holds {', '.join(close)}" if close else "that folder holds no model file"
    return BadInput(f"there is no file {path}; {content}")
