"""Reading of `torch.save` files without running code in them, and error messages for those that need it."""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unfooled.core.errors import BadInput, option
from unfooled.core.limits import read_regular


def _harmless() -> list[Any]:
    """Return types that are common beside weights and cannot run code: parsed arguments, NumPy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
    ]


def read_pickle(path: Path, trust_pickle: bool) -> Any:
    """Read a file of `torch.save` into host memory.

    Args:
        path: File of `torch.save`.
        trust_pickle: True: allow the file to run arbitrary code.

    Raises:
        BadInput: The file would run code (unless trusted), or is not a file of `torch.save`.
    """
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # torch.load reads these, or fails
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:  # a damaged file makes the unpickler raise nearly anything
        raise _unreadable(path, error, trust_pickle) from error


def _unreadable(path: Path, error: Exception, trusted: bool) -> BadInput:
    """Return the error for a file that did not load, with its cause if known."""
    text = str(error)
    if "TorchScript" in text:
        return BadInput(
            f"{path} is a TorchScript archive; save the model with torch.export.save (.pt2), or name a factory that "
            "loads it"
        )
    import_ = re.search(r"(?:GLOBAL|unrecognized function|[Uu]nsupported class) ([\w.]+)", text)
    wanted = import_.group(1) if import_ else _first_import(path)
    if wanted and not trusted:
        return BadInput(
            f"{path} was refused: it is a pickle that imports and may run {wanted}; save only the weights "
            "(safetensors.torch.save_file(model.state_dict(), ...)), or give "
            f"{option('trust_pickle', True)} if you trust its author"
        )
    if isinstance(error, MemoryError) or "can't allocate" in text or "tried to allocate" in text:
        return BadInput(
            f"{path} ({path.stat().st_size:,} bytes) states sizes beyond its own length, or does not fit into memory"
        )
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return BadInput(f"{path} is a Git LFS pointer, not the weights; run git lfs pull")
    own = "weights_only" in text or "weights only" in text.lower()  # advice of PyTorch that does not apply here
    reason = "not a file of torch.save" if own else f"{type(error).__name__}: {text[:200]}".rstrip(": ")
    return BadInput(f"{path} ({path.stat().st_size} bytes) is cut off, damaged or no checkpoint: {reason}")


def _first_import(path: Path) -> str:
    """Return the first name that a bare pickle would import, without running it; empty if there is none."""
    strings: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(read_regular(path)):
            if code.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if code.name == "STACK_GLOBAL":
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:  # not a pickle at all
        return ""
    return ""
