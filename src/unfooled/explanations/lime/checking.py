"""Checks of arguments that all kinds of explanations share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import wraps
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from unfooled.core.errors import BadInput, nearest

P = ParamSpec("P")
R = TypeVar("R")


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


def refusing_unknown(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that refuses options which it does not have, and names its own."""
    known = list(inspect.signature(function).parameters)

    @wraps(function)
    def checked(*args: P.args, **options: P.kwargs) -> R:
        unknown = next((name for name in options if name not in known), None)
        if unknown is not None:
            raise BadInput(
                f"{function.__name__} has no option {unknown!r}{nearest(unknown, known)}; its options are "
                f"{', '.join(known)}"
            )
        if len(args) > len(known):
            raise BadInput(f"{function.__name__} was given {len(args)} values; its options are {', '.join(known)}")
        return function(*args, **options)

    return checked


def between(value: Any, low: float, high: float, name: str, what: str) -> float:
    """Return a number, refused below `low` and above `high`, if it is infinite, and if it is none."""
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not (math.isfinite(number) and low <= number <= high):
        limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise BadInput(f"{name} is {value!r}; it is {what} {limits}")
    return number


def at_least(value: Any, least: int, name: str, what: str) -> int:
    """Return a whole number, refused below `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise BadInput(f"{name} is {value!r}; it is {what} of at least {least}")
    return int(value)


def numbers_of(index: Any, count: int) -> int | slice | list[int]:
    """Return an index as a number, a slice, or a list of numbers; a mask of `count` entries becomes numbers."""
    if isinstance(index, slice):
        return index
    index = index.tolist() if hasattr(index, "tolist") else index
    if type(index) is int:
        return index
    entries = [plain(entry) for entry in index] if isinstance(index, (list, tuple, range)) else [index]
    if count and len(entries) == count and all(isinstance(entry, bool) for entry in entries):
        return [k for k, entry in enumerate(entries) if entry]
    for entry in entries:
        if type(entry) is not int:
            raise BadInput(f"the index has {entry!r}; give numbers of explanations, a slice, or a mask of {count}")
        if not -count <= entry < count:
            raise IndexError(f"there are {count} explanations; {entry} is not one of them")
    return entries


def plain(value: Any) -> Any:
    """Return a number of numpy as one of Python; anything else as it is."""
    return value.item() if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0 else value
