"""Names: how a value is spelled, and suggestions for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unfooled.core.checks import BadInput


def spelled(value: Any) -> str:
    """Write a value as its call, functions by their names: the same text in every process, where `repr` has addresses.

    Example:
        >>> spelled(partial(nearest, n=2))
        'nearest(n=2)'
    """
    if isinstance(value, partial):
        words = [*map(spelled, value.args), *(f"{k}={spelled(v)}" for k, v in value.keywords.items())]
        return f"{spelled(value.func)}({', '.join(words)})"
    if is_dataclass(value) and not isinstance(value, type):
        words = [f"{f.name}={spelled(getattr(value, f.name))}" for f in fields(value) if f.repr]
        return f"{type(value).__qualname__}({', '.join(words)})"
    return str(value.__qualname__) if callable(value) and hasattr(value, "__qualname__") else repr(value)


def nearest(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """The closest known names as a question, `; did you mean a or b?`; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def missing_file(path: Path, suffixes: Iterable[str]) -> BadInput:
    """The error for a path that is not there, with the nearest names of its folder."""
    folder = path.parent
    if not folder.is_dir():
        return BadInput(f"there is no file {path}, nor a folder {folder}")
    names = sorted(item.name for item in folder.iterdir() if item.suffix in set(suffixes) or item.is_dir())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    found = f"that folder holds {', '.join(close)}" if close else "that folder holds no model file"
    return BadInput(f"there is no file {path}; {found}")
