"""Suggestions for a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """The closest known names as a question, `; did you mean a or b?`; empty where none is close."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""
