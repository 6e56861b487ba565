"""Output paths of workflows, checked before any work, so that no result is lost to a path that cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unfooled.runs.opening import FilePlace, Place, is_url, open_file, open_store, url_text
from unfooled.runs.store import LocalStore, Store, StoredFile
from unfooled.workflows.errors import BadOption

FILE_SUFFIXES = frozenset(
    ".npy .npz .txt .csv .json .html .htm .pt .pth .ckpt .safetensors .zip .h5 .png .jpg .jpeg .pdf .yaml .py".split()  # noqa: SIM905
)
"""Suffixes of files; a new folder may not end in one."""


def open_out(out: Place | None, store_options: str | Path | None = None, *, lasting: bool = False) -> Store | None:
    """Open the place where a run is kept, and check that it can be written; None for none.

    Args:
        out: Folder, URL such as "s3://bucket/run", or open store. None: the run is not kept.
        store_options: JSON file of options and credentials of a URL's store. None: those of the environment.
        lasting: True: refuse a place that ends with this process.

    Raises:
        BadInput: It cannot be used.
    """
    if out is None:
        if store_options is not None:
            raise BadOption("{store_options} belongs to the URL of a run; give {out:URL}")
        return None
    if not isinstance(out, Store) and not is_url(out) and store_options is None:
        out = check_folder(Path(out))
    store = _lasting(open_store(out, store_options), lasting)
    if is_url(out):
        if isinstance(store, LocalStore):
            check_folder(store.root)
        elif Path(store.place()).suffix.lower() in FILE_SUFFIXES:
            raise BadOption("{out} is {0}, which is the name of a file; give the name of a folder", url_text(out))
    return store


def open_out_file(
    out: FilePlace, suffix: str, store_options: str | Path | None = None, *, lasting: bool = False
) -> StoredFile:
    """Open the place of a result that is one file, and check that it can be written.

    Args:
        out: Path, to which the suffix is added if it has none; URL such as "s3://bucket/set.npz"; or open file.
        suffix: Suffix of the file.
        store_options: JSON file of options and credentials of a URL's store. None: those of the environment.
        lasting: True: refuse a place that ends with this process.

    Raises:
        BadInput: It cannot be used.
    """
    if isinstance(out, StoredFile):
        return out
    if not is_url(out):
        name = os.fspath(out)
        out = check_file(name if Path(name).suffix else f"{check_file(name)}{suffix}", (suffix,))
    elif Path(out).suffix.lower() != suffix:
        raise BadOption("{out} is {0}; the file ends in {1}: give {out:URL}{1}", url_text(out), suffix)
    file = open_file(out, store_options)
    if isinstance(file.store, LocalStore):
        check_file(file.store.root / file.name, (suffix,))
    _lasting(file.store, lasting)
    return file


def _lasting(store: Store, lasting: bool) -> Store:
    """Return a store; refuse one that ends with this process where it should last."""
    if lasting and store.private:
        raise BadOption("{out} is {0}, which ends with this command; give a folder or another URL", store.place())
    return store


def check_not_behind_url(place: object, option: str) -> None:
    """Refuse a URL of a store for what is read from this machine; a model may be a service, http://HOST.

    Raises:
        BadOption: It is a URL.
    """
    if is_url(place) and not str(place).lower().startswith(("http:", "https:")):
        sentence = "{" + option + "} is a URL, {0}; only a run of an audit is read from one, copy it to this machine"
        raise BadOption(sentence, url_text(place))


def check_folder(out: str | Path) -> Path:
    """Check that a workflow can write to a folder, which need not exist yet, and return its path.

    Raises:
        BadOption: it is empty, a file or named like one, or cannot be written.
    """
    path = _as_path(out)
    if _query(path, "is_dir"):
        return _writable(path, path)
    if _query(path, "exists"):
        raise BadOption("cannot write {0}: it is no folder; choose another {out}", path)
    if path.suffix.lower() in FILE_SUFFIXES:
        raise BadOption("{out} is {0}, which is the name of a file; give the name of a folder", path)
    return _writable(path, path.parent)


def check_file(out: str | Path, suffixes: Sequence[str] = (), *, option: str = "out") -> Path:
    """Check that a workflow can write a file, which need not exist yet, and return its path.

    Args:
        out: The file.
        suffixes: Suffixes that its name may have; none: any.
        option: Name of the option, for the error.

    Raises:
        BadOption: it is empty, a folder, a pipe or a device, has another suffix, or cannot be written.
    """
    path = _as_path(out, option)
    if _query(path, "is_dir", option):
        raise BadOption(f"{{{option}}} is {{0}}, which is a folder; give the name of a file", path)
    if suffixes and path.suffix.lower() not in suffixes:
        name = path.with_suffix(suffixes[0]).name
        raise BadOption(
            f"{{{option}}} is {{0}}; the file ends in {{1}}: give {{{option}:{{2}}}}",
            path, " or ".join(suffixes), path.parent / name,
        )  # fmt: skip
    return _writable(path, path.parent, option)


def _as_path(out: str | Path, option: str = "out") -> Path:
    """Return `out` as a path; refuse an empty name, and a link that leads nowhere, through which nothing is written."""
    if not str(out).strip() or "\0" in str(out):
        raise BadOption(f"{{{option}}} is {{0!r}}; give a name", str(out))
    if is_url(out):
        raise BadOption(
            f"{{{option}}} is a URL, {{0}}; what is written here is kept on this machine, give a name on it",
            url_text(out),
        )
    path = Path(out)
    if _query(path, "is_symlink", option) and not _query(path, "exists", option):
        raise BadOption(f"cannot write {{0}}: it is a link that leads nowhere; choose another {{{option}}}", path)
    return path


def _query(path: Path, question: str, option: str = "out") -> bool:
    """Call a method of the path such as "is_dir"; refuse a path for which it fails, such as one that is too long."""
    try:
        return bool(getattr(path, question)())
    except OSError as error:
        raise _refused(path, error, option) from error


def _writable(path: Path, folder: Path, option: str = "out") -> Path:
    """Return the path if a temporary file can be written in the nearest existing folder above it; else refuse it."""
    if not _query(path, "is_dir", option) and _query(path, "exists", option) and not _query(path, "is_file", option):
        raise BadOption(f"cannot write {{0}}: it is a pipe or a device; choose another {{{option}}}", path)
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _refused(path, error, option) from error
    while not _query(folder, "exists", option) and folder != folder.parent:
        folder = folder.parent
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise _refused(path, error, option) from error


def _refused(path: Path, error: OSError, option: str) -> BadOption:
    return BadOption(f"cannot write {{0}}: {{1}}; choose another {{{option}}}", path, error.strerror or error)
