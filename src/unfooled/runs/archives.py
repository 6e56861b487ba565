"""Results in one `.npz` file together with their settings, such as those of `unfooled attack`.

The work is kept in chunks in a folder beside the archive until the archive is written:

    out = open_file("adversarial.npz")                     or a URL
    found = read_archive(out, settings, kind="attack")     None: not made yet
    run = Run(out.parts, settings, progress=progress)
    rows = run.map("attack", compute, n, model=model)
    write_archive(out, arrays, settings)
    discard(out.parts)
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from unfooled.core.errors import BadInput, option
from unfooled.runs.hashes import content_hash
from unfooled.runs.opening import FilePlace, open_file
from unfooled.runs.settings import Settings, as_text, parse, plain, refuse_changed

if TYPE_CHECKING:
    import numpy as np

SETTINGS = "asked"
"""Name of the array that holds the settings."""
SUM = "sha256"
"""Name of the array that holds the SHA-256 of the others."""
OTHER_OUT = f"choose another {option('out')}"


def write_archive(out: FilePlace, arrays: Mapping[str, np.ndarray], settings: Settings) -> None:
    """Write arrays and their settings to an archive atomically.

    Raises:
        BadInput: The file cannot be written.
    """
    import numpy as np

    content = {**arrays, SETTINGS: np.array(as_text(settings))}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content, **{SUM: np.array(_hash(content))})  # type: ignore[arg-type]
    open_file(out).write(buffer.getvalue())


def read_archive(out: FilePlace, settings: Settings, *, kind: str = "result") -> dict[str, np.ndarray] | None:
    """Read an archive and compare its settings; None where there is no file.

    Args:
        out: The archive.
        settings: Settings that the archive must have.
        kind: Name of the work in the error message.

    Raises:
        BadInput: The file was not written by `write_archive`, is damaged, or was made with other settings or by version
            0.1.
    """
    import numpy as np

    file = open_file(out)
    data = file.read()
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        layout, before = parse(str(arrays[SETTINGS]))
    except Exception as error:  # a damaged archive makes the reader raise nearly anything
        raise BadInput(f"{file} exists and is no result of this command; {OTHER_OUT}") from error
    now = plain(settings)
    if "fingerprint" not in before:  # of an earlier version
        now.pop("fingerprint", None)
    refuse_changed(str(file), before, now, layout=layout, kind=kind, remedy=OTHER_OUT)
    if str(arrays.pop(SUM, "")) != _hash(arrays):
        raise BadInput(f"{file} is damaged: it does not hold what was written there; remove it, or {OTHER_OUT}")
    del arrays[SETTINGS]
    return arrays


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of names, shapes, types and bytes."""
    parts = {
        name: [list(array.shape), str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in arrays.items()
    }
    return content_hash(parts)
