"""Copies of models, including the functions that they call and the state that these keep.

`copy.deepcopy` does not copy functions: their closures, and the globals that they change, stay shared with the copy.
Here they are copied too. The globals that a class's methods use cannot be: during a call of the copy, the copied values
are written there, and the current ones are restored afterwards.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import sys
import sysconfig
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ATOMIC = (type(None), bool, int, float, complex, str, bytes, range, type(...), type, ModuleType, BuiltinFunctionType)
LOCKS: dict[type, Any] = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
CACHED_FUNCTION = type(functools.lru_cache(lambda: None))
PACKAGE = "unfooled"


class SharedVariable(NamedTuple):
    """A variable outside a model that its methods use: a global, a closure variable, a class attribute."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


@dataclass(frozen=True)
class Duplicate:
    """A copy of a model, and copies of what its methods use outside of it.

    Attributes:
        model: The copy. None: the model cannot be copied.
        variables: Name -> variable that the model and the copy share.
        values: Name -> copy of that variable's value.
        original: The model.
        before: Hash of a model that cannot be copied, at the time of the attempt; empty if there is a copy.
        opaque: Names of types that the hash cannot inspect; empty if there is a copy.
    """

    model: Any
    variables: Mapping[str, SharedVariable]
    values: Mapping[str, Any]
    original: Any
    before: str = ""
    opaque: tuple[str, ...] = ()

    def changed(self) -> bool:
        """Return whether a model that cannot be copied has changed since `duplicate`; False if there is a copy."""
        return bool(self.before) and state_hash(self.original)[0] != self.before

    def fresh(self) -> Duplicate:
        """Return another copy of the same state."""
        copier = _Copier()
        values = {name: copier.copy_of(value) for name, value in self.values.items()}
        return replace(self, model=copier.copy_of(self.model), values=values)

    def answer(self, x: Tensor) -> Any:
        """Return the copy's output for x, computed while the shared variables hold the copied values."""
        now = {name: place.read() for name, place in self.variables.items()}
        try:
            for name, place in self.variables.items():
                place.write(self.values[name])
            return self.model(x)
        finally:
            for name, place in self.variables.items():
                place.write(now[name])


def duplicate(model: Any) -> Duplicate:
    """Copy a model with all its state; call this before the model's first forward pass.

    Args:
        model: Any callable.
    """
    copier, values = _Copier(), dict[str, Any]()
    try:
        twin = copier.copy_of(model)
        while missing := [name for name in copier.variables if name not in values]:
            values.update({name: copier.copy_of(copier.variables[name].read()) for name in missing})
    except Exception:  # any object may refuse to be copied
        digest, opaque = state_hash(model)
        return Duplicate(None, {}, {}, model, digest, tuple(sorted(opaque)))
    return Duplicate(twin, copier.variables, values, model)


class _Copier:
    """A deep copy in progress.

    Attributes:
        memo: Id -> copy, like the memo of `copy.deepcopy`.
        variables: Name -> variable outside the model that its methods use.
    """

    def __init__(self) -> None:
        self.memo: dict[int, Any] = {}
        self.variables: dict[str, SharedVariable] = {}
        self.seen: set[Any] = set()

    def copy_of(self, item: Any) -> Any:
        """Return the copy of an object."""
        owner = getattr(item, "__self__", None) if isinstance(item, BuiltinFunctionType) else None
        if owner is not None and not isinstance(owner, ATOMIC):
            return getattr(self.copy_of(owner), item.__name__)
        if isinstance(item, ATOMIC):
            return item
        if id(item) in self.memo:
            return self.memo[id(item)]
        kind: Any = type(item)
        if kind in (list, tuple, set, frozenset, dict, OrderedDict):
            return self._container(item)
        if kind is FunctionType:
            return self._function(item)
        twin = self._callable(item) if kind in (MethodType, partial, CACHED_FUNCTION) else None
        if twin is None:
            if kind in LOCKS:
                twin = LOCKS[kind]()
            elif isinstance(item, torch.Generator):
                twin = torch.Generator(item.device).set_state(item.get_state())
            elif isinstance(item, Tensor) and item.requires_grad and not item.is_leaf:
                twin = item.detach().clone()
            elif _by_attributes(kind):
                return self._object(item)
            else:
                self._record_class(kind)
                return copy.deepcopy(item, self.memo)
        self._memoize(item, twin)
        return twin

    def _memoize(self, item: Any, twin: Any) -> None:
        self.memo[id(item)] = twin
        self.memo.setdefault(id(self.memo), []).append(item)  # keeps the item alive, so that its id is not reused

    def _container(self, item: Any) -> Any:
        """Copy a list, tuple, set or dict."""
        kind = type(item)
        if kind in (tuple, set, frozenset):
            twin = kind(self.copy_of(value) for value in item)
            self._memoize(item, twin)
            return twin
        twin = kind()
        self._memoize(item, twin)
        if kind is list:
            twin.extend(self.copy_of(value) for value in item)
        else:
            twin.update((self.copy_of(key), self.copy_of(value)) for key, value in item.items())
        return twin

    def _callable(self, item: Any) -> Any:
        """Copy a bound method, a partial or a cached function."""
        if isinstance(item, MethodType):
            return MethodType(self.copy_of(item.__func__), self.copy_of(item.__self__))
        if isinstance(item, partial):
            return partial(self.copy_of(item.func), *self.copy_of(item.args), **self.copy_of(item.keywords))
        return functools.lru_cache(**item.cache_parameters())(self.copy_of(item.__wrapped__))

    def _object(self, item: Any) -> Any:
        """Copy an object by its attributes."""
        kind: Any = type(item)
        self._record_class(kind)
        twin: Any = kind.__new__(kind)
        self._memoize(item, twin)
        own = {name: value for name, value in vars(item).items() if name != "_compiled_call_impl"}  # torch drops it too
        twin.__dict__.update({name: self.copy_of(value) for name, value in own.items()})
        return twin

    def _function(self, item: FunctionType) -> FunctionType:
        """Copy a function with its closure, its defaults and the globals that it uses."""
        if _of_a_library(item.__module__):
            if item.__closure__ is None:
                return item
            scope: dict[str, Any] = item.__globals__
        else:
            if id(item.__globals__) not in self.memo:
                self._memoize(item.__globals__, dict(item.__globals__))
            scope = self.memo[id(item.__globals__)]
        cells = tuple(self.memo.get(id(cell)) or CellType() for cell in item.__closure__ or ())
        twin = FunctionType(item.__code__, scope, item.__name__, None, cells if item.__closure__ is not None else None)
        self._memoize(item, twin)
        for old, new in zip(item.__closure__ or (), cells, strict=True):
            if id(old) not in self.memo:
                self._memoize(old, new)
                if not _is_empty(old):
                    new.cell_contents = self.copy_of(old.cell_contents)
        twin.__defaults__, twin.__kwdefaults__ = self.copy_of(item.__defaults__), self.copy_of(item.__kwdefaults__)
        twin.__dict__.update({name: self.copy_of(value) for name, value in vars(item).items()})
        twin.__qualname__, twin.__module__ = item.__qualname__, item.__module__
        if scope is not item.__globals__:
            for name in _names(item.__code__):
                if name in item.__globals__:
                    scope[name] = self.copy_of(item.__globals__[name])
        return twin

    def _record_class(self, kind: type) -> None:
        """Record the globals, closure variables and class attributes that the methods of a class use."""
        for base in kind.__mro__:
            if base in self.seen or _of_a_library(base.__module__):
                continue
            self.seen.add(base)
            for name, value in list(vars(base).items()):
                function = getattr(value, "__func__", value)
                if isinstance(function, FunctionType):
                    self._record_variables(function)
                elif not name.startswith("__") and _may_change(value):
                    self.variables[f"{base.__qualname__}.{name}"] = SharedVariable(
                        partial(getattr, base, name), partial(setattr, base, name)
                    )

    def _record_variables(self, function: FunctionType) -> None:
        """Record the variables that a function uses, and those of the user's functions that it calls."""
        if function in self.seen or _of_a_library(function.__module__):
            return
        self.seen.add(function)
        for name, place in _variables_of(function):
            value = place.read()
            if isinstance(value, FunctionType):
                self._record_variables(value)
            elif _may_change(value):
                self.variables[f"{function.__module__}.{name}"] = place


def _may_change(value: Any) -> bool:
    """Return whether an object that model and copy share may hold changing state, and can be inspected."""
    if isinstance(value, (ModuleType, type, BuiltinFunctionType, CACHED_FUNCTION)):
        return False
    known = isinstance(value, (*ATOMIC, list, tuple, dict, set, deque, bytearray, Tensor, nn.Module))
    return (
        known or hasattr(value, "tobytes") or (hasattr(value, "__dict__") and not _of_a_library(type(value).__module__))
    )


def _variables_of(function: FunctionType) -> Iterator[tuple[str, SharedVariable]]:
    """Yield the globals and closure variables that a function uses, with their names."""
    scope = function.__globals__
    for name in sorted(_names(function.__code__)):
        if name in scope:
            yield name, SharedVariable(partial(scope.get, name), partial(scope.__setitem__, name))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name != "__class__" and not _is_empty(cell):
            yield name, SharedVariable(partial(getattr, cell, "cell_contents"), partial(setattr, cell, "cell_contents"))


def _names(code: CodeType) -> set[str]:
    """Return the names that code uses, those of inner functions included."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inner)


def _is_empty(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _by_attributes(kind: type) -> bool:
    """Return whether objects of a class are copied by their attributes alone."""
    own = [base for base in kind.__mro__ if base not in (object, nn.Module)]
    special = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__deepcopy__", "__new__", "__slots__")
    return not any(vars(base).get(name) for base in own for name in special) and kind.__dictoffset__ != 0


@functools.cache
def _of_a_library(name: str | None) -> bool:
    """Return whether a module belongs to the standard library, an installed package or this package."""
    root = (name or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    paths = sysconfig.get_paths()
    folders = [Path(paths[key]) for key in ("purelib", "platlib")]
    installed = file is not None and any(Path(file).is_relative_to(folder) for folder in folders)
    return root in (PACKAGE, "torch", "numpy", "builtins") or installed


def state_hash(value: Any) -> tuple[str, frozenset[str]]:
    """Return a hash of everything that an object holds, and the names of types that cannot be inspected."""
    total, opaque, visited, stack = hashlib.sha256(), set[str](), dict[int, Any](), [value]
    while stack:
        item = stack.pop()
        total.update(type(item).__qualname__.encode())
        if isinstance(item, (type, ModuleType, BuiltinFunctionType)) or id(item) in visited:
            continue
        if isinstance(item, ATOMIC):
            total.update(repr(item).encode())
            continue
        visited[id(item)] = item  # keeps the item alive, so that its id is not reused
        parts = _parts(item)
        if parts is None:
            opaque.add(type(item).__name__)
        elif isinstance(parts, bytes):
            total.update(parts)
        else:
            total.update(str(len(parts)).encode())
            stack += parts
    return total.hexdigest(), frozenset(opaque)


def _parts(item: Any) -> bytes | list[Any] | None:
    """Return what an object holds: bytes, or other objects; None where it cannot be inspected."""
    if isinstance(item, Tensor):
        data = item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return repr((tuple(item.shape), item.dtype)).encode() + data
    if isinstance(item, dict):
        return [part for pair in item.items() for part in pair]
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return list(item)
    if isinstance(item, FunctionType):
        used = [item.__defaults__, item.__kwdefaults__, *(place.read() for _, place in _variables_of(item))]
        return [] if _of_a_library(item.__module__) else used
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, partial):
        return [item.func, item.args, item.keywords]
    if isinstance(item, torch.Generator):
        return [item.get_state()]
    if hasattr(item, "tobytes"):  # an array
        return bytes(item.tobytes())
    if type(item) in LOCKS or isinstance(item, (torch.dtype, torch.device, CACHED_FUNCTION)):
        return []
    own = isinstance(item, nn.Module) or not _of_a_library(type(item).__module__)
    return [vars(item)] if own and hasattr(item, "__dict__") else None
