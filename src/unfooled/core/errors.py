"""Errors that name the invalid argument and the remedy in one sentence, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

NO_GRADIENT = (
    "the model's output carries no gradient to its input (detach, no_grad, numpy or argmax inside? "
    "torch.inference_mode() around the call?); gradient attacks cannot judge it"
)


class BadInput(ValueError):
    """An invalid argument; the message names it and says how to correct it."""


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
