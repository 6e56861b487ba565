"""Sources of loaded models: the arguments that load a model again, stored for as long as the model exists."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_ORIGINS: dict[int, tuple[weakref.ref[Any], Mapping[str, Any]]] = {}


def record_origin(load: Callable[P, T]) -> Callable[P, T]:
    """Decorate a loader: store its arguments for each model whose `source` is a name or path, for `origin_of`."""
    signature = inspect.signature(load)

    @functools.wraps(load)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        model = load(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        if isinstance(given.get("source"), (str, Path)):
            key = id(model)
            _ORIGINS[key] = (weakref.ref(model, lambda _: _ORIGINS.pop(key, None)), given)
        return model

    return run


def origin_of(model: Any) -> Mapping[str, Any] | None:
    """Return the arguments by which `load_model` loads the model again; None where its source was no name or path."""
    entry = _ORIGINS.get(id(model))
    return entry[1] if entry is not None and entry[0]() is model else None
