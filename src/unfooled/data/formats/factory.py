"""Data from the user's own code: `package.module:factory`, `path/to/file.py:factory`, returning (x, y)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from unfooled.core.errors import BadInput
from unfooled.core.user_code import imported
from unfooled.data.dataset import Source, canonical_split, no_splits
from unfooled.data.formats import arrays


def from_factory(source: str, split: str) -> Source:
    """Open the data that `place:factory` returns, called with `split=` if it has that parameter.

    Raises:
        BadInput: The module, file or name does not exist, its code fails, or it does not return (x, y).
    """
    with imported(source) as factory:
        if not callable(factory):
            raise BadInput(f"{source} is a {type(factory).__name__}; name a function that returns (x, y)")
        return from_callable(factory, split, source)


def from_callable(factory: Callable[..., Any], split: str, name: str) -> Source:
    """Open the data that a function returns: (x, y), or (x, y, classes)."""
    try:
        accepted = inspect.signature(factory).parameters.values()
        takes = any(p.name == "split" or p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted)
    except (TypeError, ValueError):  # a built-in without a signature
        takes = False
    try:
        made = factory(split=split) if takes else factory()
    except (Exception, SystemExit) as error:
        raise BadInput(f"{name} raised {type(error).__name__}: {error}") from error
    if takes:
        return from_arrays(made, name, canonical_split(split) or split)
    return from_arrays(made, name).warned(no_splits(split, name))


def from_arrays(made: Any, name: str, split: str = "all") -> Source:
    """Open a pair (x, y) or a triple (x, y, classes) of arrays or tensors.

    Raises:
        BadInput: The value is neither, or the lengths differ.
    """
    if not isinstance(made, (tuple, list)) or len(made) not in (2, 3):
        raise BadInput(f"{name} is a {type(made).__name__}; data are (x, y) or (x, y, classes)")
    x = arrays.array(made[0])
    y, names = arrays.targets(arrays.array(made[1]), f"y of {name}")
    if x.ndim and len(x) != len(y):
        raise BadInput(f"{name} has {len(x)} samples and {len(y)} labels")
    if len(made) == 3 and (isinstance(made[2], str) or not isinstance(made[2], Iterable)):
        raise BadInput(f"the classes of {name} are of type {type(made[2]).__name__}; give their names in a list")
    classes = [str(item) for item in made[2]] if len(made) == 3 else names or arrays.numbered(y)
    arrays.check_named(y, classes, name, "class names")

    read = arrays.lazy_reader(lambda: arrays.reader(x, f"x of {name}"))
    return Source(name, split, y, classes, read, sorted=len(made) == 2 and names is not None)
