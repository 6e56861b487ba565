"""Text form of values in records and settings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import MethodType
from typing import Any

from unfooled.runs.hashes import function_hash, has_shared_name


def spelled(value: Any) -> str:
    """Format a value as a call, with functions by name: unlike `repr`, without memory addresses.

    Lambdas and functions defined inside of functions share their names with others, so a hash of their code, defaults
    and captured values follows the name. A method of a dataclass follows the text of its object.

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
    if isinstance(value, MethodType) and is_dataclass(value.__self__) and not isinstance(value.__self__, type):
        return f"{spelled(value.__self__)}.{value.__name__}"
    if callable(value) and hasattr(value, "__qualname__"):
        name = str(value.__qualname__)
        return f"{value.__module__}.{name} {function_hash(value)[:8]}" if has_shared_name(value) else name
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def as_json(value: Any, *, depth: int = 0) -> Any:
    """Return a value that JSON can hold: other types and numbers that are not finite become text.

    Args:
        value: Any value.
        depth: Levels of dataclasses that become mappings of their fields; deeper ones become text, see `spelled`.

    Example:
        >>> as_json({"norms": (2, float("inf")), "attack": partial(sorted, reverse=True)})
        {'norms': [2, 'inf'], 'attack': 'sorted(reverse=True)'}
    """
    if isinstance(value, Enum):
        return as_json(value.value)
    if isinstance(value, Mapping):
        return {str(name): as_json(item, depth=depth) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, depth=depth) for item in value]
    if depth and is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name), depth=depth - 1) for f in fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) or value is None else spelled(value)
