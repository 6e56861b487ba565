"""Reader for pickles of plain values and NumPy arrays that never runs code from the pickle.

The opcodes are interpreted here instead of by the `pickle` module. Of the functions that a pickle can import, only
those that rebuild NumPy arrays and byte strings are allowed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput

MAX_BYTES = 400_000_000
"""Largest pickle that is read, in bytes."""
_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle imports."""

    module: str
    name: str


@dataclass
class _Array:
    """Placeholder for an array, whose values may be set later."""

    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Type:
    """A NumPy data type, by its code, such as "<f4"."""

    code: str


def read_plain(path: Path) -> Any:
    """Return the content of a pickle.

    Raises:
        BadInput: The file is too large, damaged, or asks for anything but plain values.
    """
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
    try:
        return _finished(_Machine().run(path.read_bytes()))
    except Exception as error:  # a damaged pickle makes the reader raise nearly anything
        raise BadInput(f"{path} is damaged or no pickle of plain values: {error}") from error


class _Machine:
    """Interpreter of pickle opcodes, with a stack and a memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Interpret a pickle."""
        for opcode, value, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                raise ValueError(f"it uses {opcode.name}, which plain values do not need")
            step(self, value)
        raise ValueError("it has no end")

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def text(self, value: Any) -> None:
        """Push bytes; those that Python 2 wrote as a string are encoded as Latin-1."""
        self.stack.append(value.encode("latin1") if isinstance(value, str) else bytes(value))

    def put(self, key: Any) -> None:
        """Store the top of the stack in the memo."""
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def append(self, _: Any) -> None:
        """Append the top to the list below."""
        value = self.stack.pop()
        self.stack[-1].append(value)

    def appends(self, _: Any) -> None:
        """Append everything above the mark to the list below."""
        values = self.since_mark()
        self.stack[-1].extend(values)

    def items(self, values: list[Any]) -> None:
        """Put keys and values into the dictionary on top."""
        self.stack[-1].update(zip(map(_finished, values[::2]), values[1::2], strict=True))

    def reduce(self, _: Any) -> None:
        """Call one of the allowed functions, see `_called`."""
        args = self.stack.pop()
        self.stack.append(_called(self.stack.pop(), args))

    def build(self, _: Any) -> None:
        """Complete an array."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Array):
            _, shape, kind, fortran, data = state
            made.values = _shaped(data, kind, shape, "F" if fortran else "C")
        elif not isinstance(made, _Type):
            raise ValueError("it sets attributes")


def _finished(value: Any) -> Any:
    """Return a value with array placeholders, also those in dictionaries, replaced by their arrays."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    return value


def _called(name: Any, args: Any) -> Any:
    module, function = (name.module, name.name) if isinstance(name, _Name) else ("", "")
    if function == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return _Array()
    if function == "_frombuffer" and module in ("numpy.core.numeric", "numpy._core.numeric"):
        data, kind, shape, order = args
        return _Array(_shaped(data, kind, shape, order))
    if (module, function) == ("numpy", "dtype"):
        code = args[0].decode() if isinstance(args[0], bytes) else str(args[0])
        return _Type(code)
    if (module, function) == ("_codecs", "encode"):
        return args[0].encode("latin1")
    if function == "bytes" and not args:
        return b""
    raise ValueError(f"it asks for {module}.{function}, and only plain arrays are read")


def _shaped(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(kind, _Type) or not isinstance(data, bytes) or kind.code.lstrip("|<=>")[:1] not in "uifb":
        raise ValueError("an array holds something else than numbers")
    return np.frombuffer(data, np.dtype(kind.code)).reshape(tuple(shape), order="F" if order == "F" else "C")


def _name(machine: _Machine, value: str) -> None:
    machine.push(_Name(*value.split(" ", 1)))


def _stack_name(machine: _Machine, _: Any) -> None:
    function = machine.stack.pop()
    machine.push(_Name(str(machine.stack.pop()), str(function)))


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        values = tuple(machine.stack[len(machine.stack) - count :])
        del machine.stack[len(machine.stack) - count :]
        machine.push(values)

    return step


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.items([key, value])


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


_NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys((*_NUMBERS, *_TEXTS), _Machine.push),
    **dict.fromkeys(_BYTES, _Machine.text),
    **dict.fromkeys(("PROTO", "FRAME"), lambda *_: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])),
    "MARK": _constant(lambda: _MARK),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "LIST": lambda machine, _: machine.push(list(machine.since_mark())),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _set_item,
    "SETITEMS": lambda machine, _: machine.items(machine.since_mark()),
    "GLOBAL": _name,
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
"""Opcode -> function that interprets it; all others are refused."""
