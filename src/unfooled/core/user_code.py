"""Import of the user's own code: `package.module:name`, `path/to/file.py:name`.

The current directory and the file's own folder are on `sys.path` while the code runs.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from unfooled.core.errors import BadInput, nearest
from unfooled.core.used_files import note_user, using


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Put folders at the front of `sys.path` until the context ends."""
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before


def _module_of(place: str) -> ModuleType:
    """Import a module by its dotted name or by the path of its file."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    path = Path(place).resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up modules there
    spec.loader.exec_module(module)
    return module


@contextmanager
def imported(source: str) -> Iterator[Any]:
    """Import `place:name` and yield the object of that name, with its folder on `sys.path` until the context ends.

    Raises:
        BadInput: The place or the name does not exist, or its code fails; the message gives the original error.
    """
    place, _, attribute = source.rpartition(":")
    if place.endswith(".py") and not Path(place).is_file():
        raise BadInput(f"{source}: there is no file {place}")
    folders = [Path.cwd(), Path(place).resolve().parent] if place.endswith(".py") else [Path.cwd()]
    module_name = str(Path(place).resolve()) if place.endswith(".py") else place
    with importable(*folders), using(module_name) as used:
        used.begin(module_name if place.endswith(".py") else None)
        try:
            module = _module_of(place)
        except (Exception, SystemExit) as error:
            raise BadInput(f"{source}: importing {place} failed with {type(error).__name__}: {error}") from error
        if not hasattr(module, attribute):
            names = [name for name in vars(module) if not name.startswith("_")]
            hint = nearest(attribute, names) or f"; it has {', '.join(names[:8]) or 'no public names'}"
            raise BadInput(f"{source}: {place} has no {attribute!r}{hint}")
        used.begin(getattr(module, "__file__", None) if used.main is None else None)
        item = getattr(module, attribute)
        note_user(item, used)
        yield item
