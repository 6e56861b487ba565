"""Checks of arguments that all kinds of explanations share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Integral
from typing import Any

from unfooled.core.errors import BadInput


def check_function(value: Any, name: str, examples: str) -> None:
    """Refuse what cannot be called.

    Args:
        value: The argument.
        name: Its name.
        examples: Functions to give in its place.
    """
    if not callable(value):
        raise BadInput(f"{name} is {value!r}; give a function, such as {examples}")


def check_takes(function: Callable[..., Any], name: str, takes: str, examples: str, *args: Any, **options: Any) -> None:
    """Refuse a function that cannot be called with some arguments.

    Args:
        function: The function.
        name: Name of the argument that it was given as.
        takes: Its parameters in words.
        examples: Functions to give in its place.
        args: Arguments that it has to take.
        options: Arguments that it has to take by name.
    """
    check_function(function, name, examples)
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        raise BadInput(f"{name} must take {takes} ({error}); give a function such as {examples}") from error
    except ValueError:  # a function of C without a signature
        return


def at_least(value: Any, least: int, name: str, what: str) -> int:
    """Return a whole number, refused below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise BadInput(f"{name} is {value!r}; it is {what} of at least {least}")
    return int(value)


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python; anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
