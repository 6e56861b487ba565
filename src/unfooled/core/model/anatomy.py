"""Modules and other objects that a callable uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn


def modules_of(model: Any) -> list[nn.Module]:
    """Find the modules behind a callable.

    These are searched: the callable itself, the object it wraps (`.model`, `.module`, `.func`), the owner of a method,
    and the closure variables and globals of a function.
    """
    modules: list[nn.Module] = []
    visited: set[int] = set()

    def visit(item: Any) -> None:
        if item is None or id(item) in visited:
            return
        visited.add(id(item))
        if isinstance(item, nn.Module):
            modules.append(item)
            return
        for name in ("model", "module", "func", "__self__", "__wrapped__"):
            visit(getattr(item, name, None))
        for part in bound(item):
            if isinstance(part, nn.Module):
                visit(part)

    visit(model)
    return modules


def bound(item: Any) -> Iterator[Any]:
    """Yield the objects that a partial or function uses: bound arguments, closure variables, globals."""
    if isinstance(item, partial):
        yield from (*item.args, *item.keywords.values())
    for cell in getattr(item, "__closure__", None) or ():
        with suppress(ValueError):  # a cell that is still empty
            yield cell.cell_contents
    code, names = getattr(item, "__code__", None), getattr(item, "__globals__", {})
    if code is not None:
        yield from (names[name] for name in code.co_names if name in names)


@dataclass(frozen=True)
class Anatomy:
    """A callable with the modules and other objects that it uses.

    Attributes:
        model: The callable itself.
        modules: Modules that it uses.
        parts: Other objects that it uses: bound arguments, closure variables, globals, attributes. Empty for a module.
    """

    model: Any
    modules: tuple[nn.Module, ...]
    parts: tuple[Any, ...]


def anatomy_of(model: Any) -> Anatomy:
    """Return the anatomy of a callable."""
    parts = () if isinstance(model, nn.Module) else (*bound(model), *getattr(model, "__dict__", {}).values())
    return Anatomy(model, tuple(modules_of(model)), parts)
