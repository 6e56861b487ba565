"""Inspection of the parameters of functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["has_arg"]


def has_arg(fn: Callable[..., Any], arg_name: str | None) -> bool:
    """Return whether a callable takes a parameter of this name by keyword.

    Args:
        fn: Function, method, or object with a `__call__`.
        arg_name: Name of the parameter. A catch-all `**kwargs` takes no name in particular.
    """
    try:
        parameters = inspect.signature(fn).parameters
    except ValueError:  # a compiled function without a text signature
        parameters = inspect.signature(fn.__call__).parameters  # type: ignore[operator]
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(name == arg_name and parameter.kind in by_keyword for name, parameter in parameters.items())
