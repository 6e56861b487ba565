"""Values of results as JSON, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def plain(value: Any) -> Any:
    """Return a value for JSON; tensors by type, shape and entries."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        numbers = value.flatten().tolist()
        return {"tensor": kind, "shape": list(value.shape), "values": [_number(v) for v in numbers]}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return _number(value) if isinstance(value, float) else value if isinstance(value, int) else str(value)


def _number(value: Any) -> Any:
    """Return a number for JSON; NaN and infinity as text."""
    return str(value) if isinstance(value, float) and not abs(value) < float("inf") else value


def restored(value: Any) -> Any:
    """Return what `plain` had; lists become tuples."""
    if isinstance(value, dict):
        dtype = getattr(torch, value["tensor"])
        numbers = [float(v) if isinstance(v, str) else v for v in value["values"]]
        return torch.tensor(numbers, dtype=dtype).reshape(value["shape"])
    return tuple(restored(item) for item in value) if isinstance(value, list) else value
