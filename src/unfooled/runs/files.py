"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from unfooled.core.errors import BadInput


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part.

    Raises:
        BadInput: the folder cannot be written, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            temporary = Path(f.name)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as e:
        raise BadInput(f"cannot write {path}: {e.strerror or e}; choose another --out or free some space") from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
