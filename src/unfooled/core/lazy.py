"""Packages whose names are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package in which a name wins against the module of the same name that defines it, as in `verify.verify`."""

    def __setattr__(self, name: str, value: object) -> None:
        if isinstance(value, ModuleType) and name in self.__dict__["_OWN"]:  # the import system binds a submodule
            value = getattr(value, name)
        super().__setattr__(name, value)


def importer(package: str, names: Mapping[str, str], modules: Collection[str] = ()) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package that imports its names at first use.

    Args:
        package: Name of the package.
        names: Name of an object -> the module inside the package that defines it.
        modules: Names of the package's modules that are imported at first use.
    """
    own = frozenset(name for name, module in names.items() if name == module)
    if own:
        sys.modules[package].__dict__["_OWN"] = own
        sys.modules[package].__class__ = _LazyPackage

    def get(name: str) -> Any:
        if name in names:
            value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
