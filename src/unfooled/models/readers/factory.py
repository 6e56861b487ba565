"""Models built by the user's own code: `package.module:factory`, `path/to/file.py:factory`."""

from __future__ import annotations

from typing import Any

from torch import nn

from unfooled.core.errors import BadInput
from unfooled.core.user_code import imported


def from_factory(source: str) -> Any:
    """Return the result of `place:factory`, called without arguments; a module instance is returned unchanged.

    Raises:
        BadInput: The place or the name does not exist, its code fails, or it returns no model; with the original error.
    """
    attribute = source.rpartition(":")[2]
    with imported(source) as factory:
        if isinstance(factory, nn.Module):
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
    if not callable(model):
        raise BadInput(
            f"{source}: {attribute}() returned a {type(model).__name__}; it must return a module or callable"
        )
    return model
