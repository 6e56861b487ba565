"""Class names: when two are the same, lists that only count, and lists in short."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def plain_name(name: str) -> str:
    """Normalise a name: case, underscores, hyphens inside it, spaces, and the code points of accented letters."""
    name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(re.sub(r"(?<=\w)-(?=\w)", " ", name.replace("_", " ")).split())


def counting(names: Sequence[str]) -> bool:
    """Return whether names are only class numbers: 0, 1, 2, ... or LABEL_0, LABEL_1, ..."""
    return all(plain_name(name) in (str(k), f"label {k}") for k, name in enumerate(names))


def few_names(names: Sequence[str]) -> str:
    """Return the first eight names, and the number of all, as text."""
    return ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
