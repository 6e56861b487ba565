"""Models built by the user's own code: `package.module:factory`, `path/to/file.py:factory`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from unfooled.core.errors import BadInput
from unfooled.core.used_files import same_user
from unfooled.core.user_code import imported
from unfooled.models.black_boxes.estimators import from_estimator, is_estimator

SAMPLES = frozenset(["a", "array", "arrays", "batch", "data", "images", "inputs", "rows", "samples", "x", "z"])
"""Names of the one argument of a function that is a model, and no factory of one."""


def from_factory(source: str) -> Any:
    """Return the result of `place:factory`, called without arguments; a model itself is returned unchanged.

    A model is a module, a fitted estimator, or a function of one argument that is called like samples, such as `x`.

    Raises:
        BadInput: The place or the name does not exist, its code fails, or it returns no model; with the original error.
    """
    attribute = source.rpartition(":")[2]
    with imported(source) as factory:
        if is_estimator(factory):
            return same_user(from_estimator(factory), factory)
        if isinstance(factory, nn.Module) or _takes_samples(factory):
            return factory
        if not callable(factory):
            raise BadInput(f"{source} is a {type(factory).__name__}; name a module or a function that returns one")
        try:
            model = factory()
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"{source}: {attribute}() raised {type(error).__name__}: {error} (it is called without arguments, and "
                "returns the model)"
            ) from error
    if is_estimator(model):
        model = from_estimator(model)
    if not callable(model):
        raise BadInput(
            f"{source}: {attribute}() returned a {type(model).__name__}; it must return a module or callable"
        )
    return same_user(model, factory)


def _takes_samples(function: Callable[..., Any]) -> bool:
    """Return whether a function, no class, needs exactly one argument, which is called like samples."""
    if isinstance(function, type):
        return False
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C without a signature
        return False
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 1 and needed[0].lower() in SAMPLES
