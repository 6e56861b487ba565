"""Data that the user's own code makes: `package.module:factory`, `path/to/file.py:factory`, returning (x, y).

The code runs: it is the user's own. It sees the current directory (and the file's own) among the importable ones.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from unfooled.core.checks import BadInput
from unfooled.data import arrays
from unfooled.data.dataset import Source, split_named, unsplit
from unfooled.data.nearest import nearest


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Put folders first among the importable ones, for a while."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def _module_of(place: str) -> ModuleType:
    """Import a dotted name, or a file by its path."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def from_factory(source: str, split: str) -> Source:
    """What `place:factory` returns, called with `split=` where it takes it.

    Raises:
        BadInput: the place or the name does not exist, its code fails, or it returns no (x, y).
    """
    place, _, attribute = source.rpartition(":")
    if place.endswith(".py") and not Path(place).is_file():
        raise BadInput(f"{source}: there is no file {place}")
    folders = [Path.cwd(), Path(place).resolve().parent] if place.endswith(".py") else [Path.cwd()]
    with importable(*folders):
        try:
            module = _module_of(place)
        except Exception as error:
            raise BadInput(f"{source}: importing {place} failed with {type(error).__name__}: {error}") from error
        factory = getattr(module, attribute, None)
        if not callable(factory):
            names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            hint = nearest(attribute, names) or f"; it has {', '.join(names[:8]) or 'none'}"
            raise BadInput(f"{source}: {place} has no function {attribute!r}{hint}")
        return from_callable(factory, split, source)


def from_callable(factory: Callable[..., Any], split: str, name: str) -> Source:
    """What a function returns: (x, y), or (x, y, classes)."""
    try:
        accepted = inspect.signature(factory).parameters.values()
        takes = any(p.name == "split" or p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted)
    except (TypeError, ValueError):  # a built-in without a signature
        takes = False
    try:
        made = factory(split=split) if takes else factory()
    except Exception as error:
        raise BadInput(f"{name} raised {type(error).__name__}: {error}") from error
    if takes:
        return from_arrays(made, name, split_named(split) or split)
    return from_arrays(made, name).warned(unsplit(split, name))


def from_arrays(made: Any, name: str, split: str = "all") -> Source:
    """A pair (x, y) or a triple (x, y, classes) of arrays or tensors.

    Raises:
        BadInput: it is neither, or the lengths differ.
    """
    if not isinstance(made, (tuple, list)) or len(made) not in (2, 3):
        raise BadInput(f"{name} is a {type(made).__name__}; data are (x, y) or (x, y, classes)")
    x = arrays.array(made[0])
    y, names = arrays.labels(arrays.array(made[1]), f"y of {name}")
    if len(x) != len(y):
        raise BadInput(f"{name} has {len(x)} samples and {len(y)} labels")
    classes = [str(item) for item in made[2]] if len(made) == 3 else names or arrays.numbered(y)
    if len(y) and y.max() >= len(classes):
        raise BadInput(f"{name} has labels up to {y.max()}, and {len(classes)} class names")

    def read(rows: np.ndarray) -> np.ndarray:
        return arrays.samples(x, rows, f"x of {name}")

    return Source(name, split, y, classes, read)
