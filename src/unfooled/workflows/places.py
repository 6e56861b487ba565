"""Places that workflows write to, checked before any work: a place that cannot be written would lose the work."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from unfooled.workflows.errors import BadOption

FILES = frozenset(
    ".npy .npz .txt .csv .json .html .htm .pt .pth .ckpt .safetensors .zip .h5 .png .jpg .jpeg .pdf .yaml .py".split()  # noqa: SIM905
)
"""Suffixes that are those of a file, not of a folder."""


def check_folder(out: str | Path) -> Path:
    """Return the folder that a workflow writes to, which need not exist yet.

    Raises:
        BadOption: it is empty, a file or named like one, or cannot be written.
    """
    path = _given(out)
    if _mode(path, "is_dir"):
        return _writable(path, path)
    if _mode(path, "exists"):
        raise BadOption("cannot write {0}: it is no folder; choose another {out}", path)
    if path.suffix.lower() in FILES:
        raise BadOption("{out} is {0}, which is the name of a file; give the name of a folder", path)
    return _writable(path, path.parent)


def check_file(out: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """Return the file that a workflow writes, which need not exist yet.

    Args:
        out: The file.
        suffixes: Suffixes that its name may have; none: any.

    Raises:
        BadOption: it is empty, a folder, a pipe or a device, has another suffix, or cannot be written.
    """
    path = _given(out)
    if _mode(path, "is_dir"):
        raise BadOption("{out} is {0}, which is a folder; give the name of a file", path)
    if suffixes and path.suffix.lower() not in suffixes:
        name = path.with_suffix(suffixes[0]).name
        raise BadOption(
            "{out} is {0}; the file ends in {1}: give {out:{2}}", path, " or ".join(suffixes), path.parent / name
        )
    return _writable(path, path.parent)


def _given(out: str | Path) -> Path:
    """Return a path that is not empty."""
    if not str(out).strip() or "\0" in str(out):
        raise BadOption("{out} is {0!r}; give a name", str(out))
    return Path(out)


def _mode(path: Path, question: str) -> bool:
    """Ask a question about a path; refuse one that cannot be asked, such as one whose name is too long."""
    try:
        return bool(getattr(path, question)())
    except OSError as error:
        raise _refused(path, error) from error


def _writable(path: Path, folder: Path) -> Path:
    """Return a path, after a trial in the nearest folder that exists."""
    if not _mode(path, "is_dir") and _mode(path, "exists") and not _mode(path, "is_file"):
        raise BadOption("cannot write {0}: it is a pipe or a device; choose another {out}", path)
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _refused(path, error) from error
    while not _mode(folder, "exists") and folder != folder.parent:
        folder = folder.parent
    try:
        if not folder.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        with tempfile.TemporaryFile(dir=folder):
            return path
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> BadOption:
    return BadOption("cannot write {0}: {1}; choose another {out}", path, error.strerror or error)
