"""What a result was made from, told by its bytes."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from unfooled.core.modes import modules_of


def tensors_hash(*tensors: Tensor) -> str:
    """SHA-256 of the shapes, dtypes and bytes of tensors, in their order."""
    held = hashlib.sha256()
    for t in tensors:
        held.update(f"{tuple(t.shape)} {t.dtype}".encode())
        held.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return held.hexdigest()


def weights_hash(model: Any) -> str:
    """SHA-256 of the state dicts of the modules behind a callable, names and bytes, in the order of the names.

    Empty for a callable that holds no modules: nothing tells it from another.
    """
    roots = modules_of(model)
    if not roots:
        return ""
    held = hashlib.sha256()
    for root in roots:
        for name, value in sorted(root.state_dict().items()):
            held.update(name.encode())
            if isinstance(value, Tensor):
                held.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return held.hexdigest()
