"""Stores behind a URL that fsspec reads, such as `s3://bucket/run` or `gs://bucket/run`.

Objects are written whole and, where two writers may meet, created exclusively by the store itself (on S3 with
`If-None-Match`). Options and credentials come from the environment, a file or the caller; they are part of no record,
no hash and no message.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from unfooled.core.errors import BadInput, describe_error, option
from unfooled.core.limits import read_regular
from unfooled.runs.files import Buffer
from unfooled.runs.store import Store

T = TypeVar("T")

PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
    "sftp": "paramiko", "ssh": "paramiko", "http": "aiohttp", "https": "aiohttp", "oss": "ossfs",
}  # fmt: skip
"""Protocol -> package that reads it, for those that people are likely to give."""
MAX_OPTIONS_BYTES = 1 << 20
OPEN_OPTIONS = ("url", "endpoint", "region", "project", "protocol", "version")
"""Words in the names of options whose values may appear in a message; all other values are hidden."""
SECRET = re.compile("SECRET|TOKEN|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are hidden."""
NO_CREDENTIALS = re.compile("NoCredentials|PartialCredentials|CredentialRetrieval|DefaultCredentials|ProfileNotFound")
FULL = re.compile("quota|storage ?full|insufficient ?storage|no space left|entitytoolarge", re.IGNORECASE)
"""Names of errors, and words in them, that say what is wrong."""
EXISTS = re.compile("PreconditionFailed|ConditionNotMet|AlreadyExists")
CONFLICT = re.compile("ConditionalRequestConflict|OperationAborted")
"""Answers of stores to an exclusive creation: the object exists, or somebody else is about to create it."""
TRIES = 5
"""Attempts to create an object while the store says that another writer is at it."""


@dataclass(frozen=True)
class RemoteStore(Store):
    """A store behind a URL; it travels to other processes without its connection.

    Args:
        url: URL without user name, password, query or trailing slash.
        options: Options of fsspec's file system, credentials among them; never shown.
        options_file: File that holds them; other processes read it themselves. None: they travel.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    options_file: Path | None = field(default=None, repr=False, compare=False)
    _fs: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    _offset: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    patience: ClassVar[float] = 5.0

    def __reduce__(self) -> tuple[Any, ...]:
        if self.options_file is not None:
            return _reopened, (type(self), self.url, self.options_file)
        return type(self), (self.url, dict(self.options))

    def place(self, name: str = "") -> str:
        """Return the URL of a file or of the store."""
        return f"{self.url}/{name}" if name else self.url

    def inside(self, folder: str) -> RemoteStore:
        """Return the store of a subfolder, with the same connection."""
        return self.at(self.place(folder))

    def at(self, url: str) -> RemoteStore:
        """Return another folder of the same file system, with the same connection."""
        other = type(self)(url, self.options, self.options_file)
        object.__setattr__(other, "_fs", self._fs)
        return other

    def size(self, name: str) -> int | None:
        """Return the length of a file."""

        def length(fs: Any, path: str) -> int | None:
            fs.invalidate_cache()
            found = fs.info(path)
            return int(found["size"]) if found["type"] == "file" else None

        return self._or_none(name, length)

    def check(self) -> None:
        """Write, create exclusively and remove a small object.

        Raises:
            BadInput: One of these cannot be done.
        """
        name = f".claims/.probe-{uuid.uuid4().hex}"
        created = [self._created(name, text) for text in (b"1", b"2")]
        self._removed(name)
        if created != [True, False]:
            raise BadInput(
                f"{self.url} does not create files exclusively, which several processes need to share a run; choose "
                f"another {option('out')}"
            )

    def read(self, name: str, *, most: int | None = None) -> bytes | None:
        """Return the content of a file."""
        size = None if most is None else self.size(name)
        if most is not None and size is not None and size > most:
            raise BadInput(
                f"{self.place(name)} has {size:,} bytes, more than the {most:,} that are read of such a file"
            )
        data = self._or_none(name, lambda fs, path: fs.cat_file(path))
        return None if data is None else bytes(data)

    def read_part(self, name: str, start: int, length: int) -> bytearray | None:
        """Return some bytes of a file."""
        if length == 0:
            return bytearray()
        data = self._or_none(name, lambda fs, path: fs.cat_file(path, start=start, end=start + length))
        return None if data is None else bytearray(data)

    def write_whole(self, name: str, data: bytes | Iterable[Buffer]) -> None:
        """Write or replace a file; parts are collected in a temporary file first."""
        if isinstance(data, bytes):
            self._call("write", name, lambda fs, path: fs.pipe_file(path, data))
            return
        with tempfile.NamedTemporaryFile(prefix="unfooled-") as file:
            for part in data:
                file.write(part)
            file.flush()
            self._call("write", name, lambda fs, path: fs.put_file(file.name, path))

    def create_exclusive(self, name: str, data: bytes, *, durable: bool = True) -> bool:
        """Write a file unless it exists; a store has no file that is not durable.

        A request whose answer was lost is repeated by the client, which then finds its own object.
        """
        return self._created(name, data) or (len(data) < 1 << 16 and self.read(name) == data)

    def list(self, folder: str = "", *, deep: bool = False) -> list[str]:
        """Return the names of the files in a folder."""

        def listed(fs: Any, path: str) -> list[str]:
            fs.invalidate_cache()
            if deep:
                found = fs.find(path, refresh=True)
            else:
                found = [item["name"] for item in fs.ls(path, detail=True, refresh=True) if item["type"] == "file"]
            root = fs._strip_protocol(self.url).rstrip("/") + "/"
            names = [str(item) for item in found if str(item).rstrip("/") != path.rstrip("/")]
            return sorted(item.removeprefix(root) for item in names if item.startswith(root))

        return self._or_none(folder, listed) or []

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        self._removed(name)

    def age(self, name: str) -> float:
        """Return the seconds since a file was written, by the times that the store gives to its objects."""
        try:
            if not self._offset:
                probe = f".claims/.clock-{uuid.uuid4().hex}"
                self.write_whole(probe, b"0")
                began = time.monotonic()
                self._offset.append(self._written(probe) - began)
                self._removed(probe)
            return max(0.0, time.monotonic() + self._offset[0] - self._written(name))
        except BadInput:
            return 0.0

    def _written(self, name: str) -> float:
        """Return the time at which the store says that a file was written."""

        def modified(fs: Any, path: str) -> float:
            fs.invalidate_cache()
            return float(fs.modified(path).timestamp())

        return self._call("read", name, modified)

    def _created(self, name: str, data: bytes) -> bool:
        """Create an object exclusively; try again while the store only says that there is another writer."""
        for attempt in range(TRIES):
            try:
                self._call("write", name, lambda fs, path: fs.pipe_file(path, data, mode="create"), FileExistsError)
                return True
            except FileExistsError:
                return False
            except _Conflict:
                time.sleep(0.05 * 2**attempt)
        return False

    def _removed(self, name: str) -> None:
        self._or_none(name, lambda fs, path: fs.rm_file(path), "remove")

    def _or_none(self, name: str, do: Callable[[Any, str], T], verb: str = "read") -> T | None:
        """Call the file system; None where the file does not exist."""
        try:
            return self._call(verb, name, do, FileNotFoundError)
        except FileNotFoundError:
            return None

    def _call(self, verb: str, name: str, do: Callable[[Any, str], T], *passed: type[Exception]) -> T:
        """Call the file system with a path of its own; errors become sentences, except those that are passed on."""
        try:
            fs = self._open()
            return do(fs, fs._strip_protocol(self.place(name)))
        except Exception as error:  # of any client library
            if isinstance(error, (BadInput, *passed)):
                raise
            if FileExistsError in passed and EXISTS.search(describe_error(error)):
                raise FileExistsError from None
            if CONFLICT.search(describe_error(error)):
                raise _Conflict from None
            raise self._refused(verb, name, error) from None  # its text might hold credentials

    def _open(self) -> Any:
        """Return the file system, opened once in each process."""
        if not self._fs:
            from fsspec.core import url_to_fs

            self._fs.append(url_to_fs(self.url, **self.options)[0])
        return self._fs[0]

    def _refused(self, verb: str, name: str, error: Exception) -> BadInput:
        """Return the sentence about an error of the file system."""
        where, kind = self.place(name), type(error).__name__
        text = self._hidden(describe_error(error))
        by = f"give credentials in the environment or with {option('store_options', 'FILE')}"
        if NO_CREDENTIALS.search(kind):
            return BadInput(f"cannot {verb} {where}: there are no credentials for it; {by}")
        if isinstance(error, PermissionError):
            return BadInput(f"cannot {verb} {where}: these credentials do not allow it ({text}); {by}")
        if isinstance(error, FileNotFoundError):
            return BadInput(f"cannot {verb} {where}: there is no such bucket or container ({text}); create it first")
        if FULL.search(text) or getattr(error, "errno", None) in (28, 122):
            return BadInput(f"cannot {verb} {where}: the store is full ({text}); free some space")
        another = "" if verb == "read" else f"choose another {option('out')}, or "
        return BadInput(f"cannot {verb} {where}: {text}; {another}try again")

    def _hidden(self, text: str) -> str:
        """Return a text without the values of options and without credentials of the environment."""
        hidden = {value for name, value in _texts(self.options) if not any(word in name for word in OPEN_OPTIONS)}
        hidden |= {value for name, value in os.environ.items() if SECRET.search(name) and len(value) >= 8}
        for value in sorted(hidden, key=len, reverse=True):
            if len(value) >= 3:
                text = text.replace(value, "***")
        return re.sub(r"(?<=\?)[^\s\"'`]+=[^\s\"'`]+", "***", re.sub(r"//[^/\s@]*@", "//***@", text))


@dataclass(frozen=True)
class MemoryStore(RemoteStore):
    """A store in the memory of this process, `memory://...`."""

    patience: ClassVar[float] = 1.0
    private: ClassVar[bool] = True


class _Conflict(Exception):
    """Another writer is at the same object; who succeeds is not decided."""


def read_options(file: Path) -> dict[str, Any]:
    """Read the options of a store from a JSON file.

    Raises:
        BadInput: There is no such file, or it holds something else; the sentence shows nothing of it.
    """
    if str(file).lstrip().startswith("{"):
        raise BadInput(f"{option('store_options')} is JSON itself; write it to a file, and give the file's name")
    try:
        content = json.loads(read_regular(file, most=MAX_OPTIONS_BYTES))
    except OSError as error:
        raise BadInput(f"cannot read {option('store_options')} {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{option('store_options')} {file} is no JSON; it holds an object of options by name") from None
    if not isinstance(content, dict):
        raise BadInput(f"{option('store_options')} {file} holds no JSON object; it holds options by name")
    return content


def _reopened(kind: type[RemoteStore], url: str, options_file: Path) -> RemoteStore:
    """Open a store in another process, which reads the file of options itself."""
    return kind(url, read_options(options_file), options_file)


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts in nested options, each with the name of its option."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, str(key).lower())
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, (str, bytes)):
        yield name, value.decode(errors="replace") if isinstance(value, bytes) else value
