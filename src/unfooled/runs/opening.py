"""Opening of stores: a folder of this machine, or a URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, describe_error, option
from unfooled.runs.remote_store import PACKAGES, MemoryStore, RemoteStore, read_options
from unfooled.runs.store import LocalStore, Store, StoredFile

Place = str | os.PathLike[str] | Store
"""Folder, URL or open store of a run."""
FilePlace = str | os.PathLike[str] | StoredFile
"""Path, URL or open file of a result."""

LOCAL = ("file", "local")
"""Protocols of a folder of this machine."""
WITH_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
"""Protocols of URLs whose first part is a bucket or container, which is no folder."""
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+(?:::[^/]*)?):(//?)(.*)", re.DOTALL)
"""URL, or what `Path` makes of one; a single letter is a drive."""


def is_url(place: object) -> bool:
    """Return whether a text or path is a URL.

    Example:
        >>> is_url("s3://bucket/run"), is_url("runs/mine"), is_url("C:/runs")
        (True, False, False)
    """
    return isinstance(place, (str, os.PathLike)) and URL.fullmatch(os.fspath(place)) is not None


def url_text(place: object) -> str:
    """Return a URL with all its slashes, of which `Path` leaves one.

    Example:
        >>> url_text("s3:/bucket/run")
        's3://bucket/run'
    """
    text = str(place)
    return re.sub(r"^([^/]*:)/(?!/)", r"\1///" if text.startswith(LOCAL) else r"\1//", text)


def open_store(
    place: Place, options: Mapping[str, Any] | str | os.PathLike[str] | None = None, *, write: bool = True
) -> Store:
    """Open the store of a run.

    Args:
        place: Folder, or URL such as "s3://bucket/run"; an open store is returned as it is.
        options: Options of fsspec's file system, or a JSON file of them; never recorded. None: those of the
            environment.
        write: True: check at once that a URL can be written.

    Raises:
        BadInput: A URL that cannot be used, in one sentence.
    """
    if isinstance(place, Store):
        return place
    if not is_url(place):
        if options is not None:
            raise BadInput(f"{option('store_options')} belongs to a URL, and {place} is a folder; leave it out")
        return LocalStore(Path(place))
    url = _checked(place, option("out") if write else "a run")
    file = None if options is None or isinstance(options, Mapping) else Path(options)
    known = read_options(file) if file is not None else dict(options) if isinstance(options, Mapping) else {}
    protocol = url.partition("://")[0]
    if protocol in LOCAL:
        return LocalStore(Path(_known(protocol, url)._strip_protocol(url)))
    _known(protocol, url)
    kind = MemoryStore if protocol == "memory" else RemoteStore
    store = kind(url, known, None if file is None else file.absolute())
    if write:
        store.check()
    return store


def open_file(
    place: FilePlace, options: Mapping[str, Any] | str | os.PathLike[str] | None = None, *, write: bool = True
) -> StoredFile:
    """Open the place of a result that is one file; arguments and errors as for `open_store`."""
    if isinstance(place, StoredFile):
        return place
    if not is_url(place):
        path = Path(place)
        if options is not None:
            raise BadInput(f"{option('store_options')} belongs to a URL, and {place} is a file; leave it out")
        return StoredFile(LocalStore(path.parent), path.name)
    url = _checked(place, option("out") if write else "a file")
    parts = open_store(f"{url}.parts", options, write=write)  # where exclusive creation is needed
    if isinstance(parts, LocalStore):
        return StoredFile(LocalStore(parts.root.parent), parts.root.name.removesuffix(".parts"))
    assert isinstance(parts, RemoteStore)
    folder, _, name = parts.url.removesuffix(".parts").rpartition("/")
    return StoredFile(parts.at(f"{folder}/" if folder.endswith(":/") else folder), name)


def seen_by_helpers(store: Store, *, helped: bool) -> Store:
    """Return a store as helping processes open it.

    Args:
        store: The store.
        helped: True if other processes help.

    Raises:
        BadInput: It is seen by this process alone, and others should help.
    """
    if not helped:
        return store
    if store.private:
        raise BadInput(
            f"{store.place()} is seen by this process alone, so that no others can help; leave out "
            f"executor, or give a folder or another URL as {option('out')}"
        )
    return store.absolute()


def _checked(place: str | os.PathLike[str], what: str) -> str:
    """Return a URL, whose spelling is one that a store can be opened by.

    Args:
        place: The URL.
        what: Name of what lies there, for the error.

    Raises:
        BadInput: It went through `Path`, holds credentials, or is a chain of URLs.
    """
    match = URL.fullmatch(os.fspath(place))
    assert match is not None
    protocol, slashes, rest = match[1].lower(), match[2], match[3]
    host = rest.partition("/")[0]
    if "@" in host:
        raise BadInput(
            f"the URL of {what} holds a user name or a password, which would be recorded; give them in the "
            f"environment or with {option('store_options', 'FILE')}"
        )
    if slashes != "//":
        raise BadInput(f"{what} is the path {place}; give a URL as text, with two slashes")
    if "?" in rest or "#" in rest or "::" in protocol + rest:
        raise BadInput(f"the URL of {what} has a query or is a chain of URLs; give protocol://bucket/folder alone")
    if not (rest.partition("/")[2] if protocol in WITH_BUCKETS else rest).strip("/"):
        inside = f"{host or 'bucket'}/run" if protocol in WITH_BUCKETS else "folder/run"
        raise BadInput(f"{what} is {place}, the root of a store; name a folder in it, such as {protocol}://{inside}")
    return f"{protocol}://{rest.rstrip('/')}"


def _known(protocol: str, url: str) -> Any:
    """Return the class of a protocol's file system.

    Raises:
        BadInput: fsspec does not know the protocol, or its package is not installed.
    """
    from fsspec import get_filesystem_class

    try:
        return get_filesystem_class(protocol)
    except ImportError:
        package = PACKAGES.get(protocol)
        extra = 'pip install "unfooled[s3]"' if package == "s3fs" else f"pip install {package}"
        remedy = f"install it: {extra}" if package else "see the list of fsspec for it"
        raise BadInput(f"{url} needs the package {package or 'of its protocol'}; {remedy}") from None
    except ValueError as error:
        words = describe_error(error, longest=80)
        raise BadInput(
            f"there is no store for {protocol}:// ({words}); give a folder, or a URL such as s3://bucket/run"
        ) from None
