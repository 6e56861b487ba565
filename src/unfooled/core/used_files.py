"""Files that a user's code depends on: modules that it imports, and other files that it reads while it is loaded.

Modules are found in the text of the code, also those that a function imports later, and by the audit hook of Python,
which sees what is executed and opened. Files of Python itself, of installed packages and of this package do not count.
"""

from __future__ import annotations

import ast
import hashlib
import os
import site
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

CODE, FILE = "code: ", "file: "
"""Prefixes of the names of modules and of other files, see `UsedFiles.hashes`."""
MOST_BYTES = 1 << 30  # of a larger file only the size counts
MOST_ENTRIES = 100  # of more files the hashes are joined
WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
SYSTEM = tuple(f"{os.sep}{name}{os.sep}" for name in ("proc", "sys", "dev", "etc", "usr", "run"))


def _libraries() -> tuple[str, ...]:
    """Return the folders of Python, of installed packages and of this package."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*(sysconfig.get_path(kind) for kind in kinds), *site.getsitepackages(), site.getusersitepackages()]
    folders.append(str(Path(__file__).parents[1]))
    return tuple(sorted({f"{path}{os.sep}" for one in folders for path in (one, Path(one).resolve())}))


LIBRARIES = _libraries()
_loading: list[tuple[int, UsedFiles]] = []
_by_code: dict[str, list[UsedFiles]] = {}
_known: dict[str, UsedFiles] = {}
_hashes: dict[Path, str] = {}
_users: dict[int, tuple[weakref.ref[Any], UsedFiles]] = {}
_hooked: list[bool] = []


@dataclass(eq=False)
class UsedFiles:
    """Files that a module of the user's code depends on.

    Attributes:
        main: File of the module. None: not known yet, or a module without a file.
        code: Files of code that it imports, directly or not.
        files: Other files that it reads, with their hashes.
        events: Executed and opened files that are not sorted yet: kind, name, and whether it was opened for writing.
    """

    main: Path | None = None
    code: set[Path] = field(default_factory=set)
    files: dict[Path, str] = field(default_factory=dict)
    events: list[tuple[str, str, bool]] = field(default_factory=list)

    def hashes(self) -> dict[str, str]:
        """Return the hashes of all files, by their names in the folder of the main one, with a prefix for the kind.

        Of Python code, comments and docstrings do not count.
        """
        self.sort()
        self._follow()
        code = [(CODE + self._name(path), _code_hash(path)) for path in sorted(self.code)]
        files = [(FILE + self._name(path), value) for path, value in sorted(self.files.items())]
        return {**_few(CODE, code), **_few(FILE, files)}

    def begin(self, main: str | None) -> None:
        """Set the file of the module, which has just been executed or soon will be."""
        path = None if main is None else _of_user(main)
        if path is not None:
            self.main = path
            self._add(path, executed=True)

    def sort(self) -> None:
        """Sort what was executed and opened into code and other files."""
        events, self.events = self.events, []
        written = {path for _, path, writes in events if writes}
        for kind, name, _ in events:
            path = None if name in written else _of_user(name)
            if path is None:
                continue
            if path.suffix == ".py":
                self._add(path, executed=kind == "exec")
            elif path not in self.files and not self._is_hidden(path):
                with suppress(OSError):
                    self.files[path] = _bytes_hash(path)

    def _add(self, path: Path, *, executed: bool) -> None:
        """Add a file of code; one that has just been executed is hashed again."""
        if executed:
            _hashes.pop(path, None)
        self.code.add(path)
        users = _by_code.setdefault(str(path), [])
        if self not in users:
            users.append(self)

    def _follow(self) -> None:
        """Add the modules that the text of the code imports."""
        names = {file: module for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))}
        todo, visited = list(self.code), set[Path]()
        while todo:
            path = todo.pop()
            if path in visited:
                continue
            visited.add(path)
            module = names.get(str(path))
            package = str(getattr(module, "__package__", None) or "")
            if module is None and path.is_relative_to(self._folder):
                package = ".".join(path.parent.relative_to(self._folder).parts)
            for name in _imports(path, package):
                if (other := self._module(name)) is not None and other not in visited:
                    self._add(other, executed=False)
                    todo.append(other)

    @property
    def _folder(self) -> Path:
        """Folder of the module, to which names refer."""
        return Path.cwd() if self.main is None else self.main.parent

    def _module(self, name: str) -> Path | None:
        """Return the file of a user's module by its dotted name."""
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded:
            return _of_user(loaded)
        tail = Path(*name.split("."))
        bases = [root / tail for root in (self._folder, *list(self._folder.parents)[:1])]
        files = [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py")]
        return next((path for file in files if (path := _of_user(str(file))) is not None), None)

    def _name(self, path: Path) -> str:
        """Return a name that does not depend on where the files lie."""
        if path.is_relative_to(self._folder):
            return path.relative_to(self._folder).as_posix()
        return "/".join(path.parts[-2:])

    def _is_hidden(self, path: Path) -> bool:
        """Return whether a file or a folder of its name begins with a dot."""
        if path.is_relative_to(self._folder):
            path = path.relative_to(self._folder)
        return any(part.startswith(".") for part in path.parts)


@contextmanager
def using(module: str) -> Iterator[UsedFiles]:
    """Yield the used files of a module, and record what is executed and opened until the context ends.

    They are the same for the same module in one process, as Python executes what it imports once.

    Args:
        module: The module: its full name, or the full path of its file.
    """
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_notice)
    used = _known.setdefault(module, UsedFiles())
    entry = (threading.get_ident(), used)
    _loading.append(entry)
    try:
        yield used
        used.hashes()  # of the code as it is now
    finally:
        _loading.remove(entry)


def note_user(item: Any, used: UsedFiles) -> None:
    """Note the files that an object of the user's code depends on."""
    key = id(item)
    with suppress(TypeError):  # an object without weak references
        _users[key] = (weakref.ref(item, lambda _: _users.pop(key, None)), used)


def same_user(item: Any, other: Any) -> Any:
    """Return an object, noted as one that depends on the same files as another object, which made it."""
    entry = _users.get(id(other))
    if entry is not None and entry[0]() is other:
        note_user(item, entry[1])
    return item


def hashes_of(items: Iterable[Any]) -> dict[str, str]:
    """Return the hashes of all files that objects of the user's code depend on; empty for other objects."""
    found: dict[str, str] = {}
    for item in items:
        entry = _users.get(id(item))
        if entry is not None and entry[0]() is item:
            found |= entry[1].hashes()
    return dict(sorted(found.items()))


def _notice(event: str, args: tuple[Any, ...]) -> None:
    """Record an executed module or an opened file for the code that asked for it, directly or not."""
    if event == "open":
        name, mode, flags = args
        writes = bool(set(mode or "") & set("wxa+")) or bool(isinstance(flags, int) and flags & WRITES)
    elif event == "exec" and getattr(args[0], "co_name", "") == "<module>":
        name, writes = args[0].co_filename, False
    else:
        return
    if isinstance(name, (str, os.PathLike)) and (users := _users_now()):
        name = str(Path.cwd() / name)
        for used in users:
            used.events.append((event, name, writes))


def _users_now() -> list[UsedFiles]:
    """Return the used files of the code that runs: all that are being loaded, and those with code on the stack."""
    users = [used for thread, used in _loading if thread == threading.get_ident()]
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith("linecache.py"):  # a line that is shown with a warning
            return []
        users += [used for used in _by_code.get(file, ()) if used not in users]
        frame = frame.f_back  # type: ignore[assignment]
    return users


def _of_user(name: str) -> Path | None:
    """Return the path of a user's regular file; None for a file of Python, of a package or of the system."""
    if name.startswith(LIBRARIES) or name.startswith(SYSTEM) or name.endswith(".pyc"):
        return None
    path = Path(name).resolve()
    if str(path).startswith(LIBRARIES) or str(path).startswith(SYSTEM) or not path.is_file():
        return None
    return None if {"site-packages", "dist-packages"} & set(path.parts) else path


def _imports(path: Path, package: str) -> frozenset[str]:
    """Return the dotted names of modules that a file of code may import, with those of their packages."""
    try:
        facts = path.stat()
    except OSError:
        return frozenset()
    return _imported_names(path, facts.st_mtime_ns, facts.st_size, package)


@lru_cache(maxsize=4096)
def _imported_names(path: Path, _time: int, _size: int, package: str) -> frozenset[str]:
    """Return the names of `_imports`; the file is read again where its time or size has changed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return frozenset()
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if node.level and package else []
            base = ".".join([*above[: len(above) - node.level + 1], *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names if base}
    return frozenset(".".join(name.split(".")[: k + 1]) for name in names for k in range(name.count(".") + 1))


def _code_hash(path: Path) -> str:
    """Return the hash of a file of code; of a loaded one as it was when it was first looked at."""
    if path not in _hashes:
        value = _content_hash(path)
        if not any(getattr(module, "__file__", None) == str(path) for module in list(sys.modules.values())):
            return value
        _hashes[path] = value
    return _hashes[path]


def _content_hash(path: Path) -> str:
    """Return the hash of code without comments and docstrings, and of other content as it is."""
    try:
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_text(body[0]):
                del body[0]
        return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    except (SyntaxError, ValueError, RecursionError):
        return _bytes_hash(path)
    except OSError:
        return ""


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _bytes_hash(path: Path) -> str:
    """Return the hash of a file's bytes; of a very large file, its size."""
    if (size := path.stat().st_size) > MOST_BYTES:
        return f"{size} bytes"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _few(prefix: str, hashes: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the hashes by name; of many files one for all, and of files of one name one."""
    if len(hashes) > MOST_ENTRIES:
        hashes = [(f"{prefix}{len(hashes)} files", value) for _, value in hashes]
    by_name: dict[str, list[str]] = {}
    for name, value in hashes:
        by_name.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else _joined(values) for name, values in sorted(by_name.items())}


def _joined(values: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(sorted(values)).encode()).hexdigest()[:16]
