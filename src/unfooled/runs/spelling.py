"""Text form of values in records and settings."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any


def spelled(value: Any) -> str:
    """Format a value as a call, with functions by name: unlike `repr`, without memory addresses.

    Example:
        >>> spelled(partial(sorted, reverse=True))
        'sorted(reverse=True)'
    """
    if isinstance(value, partial):
        words = [*map(spelled, value.args), *(f"{k}={spelled(v)}" for k, v in value.keywords.items())]
        return f"{spelled(value.func)}({', '.join(words)})"
    if is_dataclass(value) and not isinstance(value, type):
        words = [f"{f.name}={spelled(getattr(value, f.name))}" for f in fields(value) if f.repr]
        return f"{type(value).__qualname__}({', '.join(words)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
