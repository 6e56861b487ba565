"""Values of results as JSON, and back."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput

VERSION = 1
"""Version of the fields of a result."""


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


def loaded(text: Any) -> dict[str, Any]:
    """Return the record of a JSON text.

    Raises:
        BadInput: The text is something else, or of another version.
    """
    try:
        record = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput("this is no JSON; Surrogates.to_json writes what from_json reads") from error
    check_version(record)
    read: dict[str, Any] = record
    return read


def check_version(record: Any) -> None:
    """Refuse a record of another version."""
    version = record.get("version") if isinstance(record, dict) else None
    if isinstance(version, bool) or version != VERSION:
        raise BadInput(f"the explanation has version {version}; this release reads version {VERSION}")


def restored(value: Any, name: str) -> Any:
    """Return what `plain` had; lists become tuples.

    Args:
        value: The value.
        name: Name of the field, for the error.

    Raises:
        BadInput: A tensor is damaged.
    """
    if isinstance(value, dict):
        try:
            dtype = getattr(torch, value["tensor"])
            numbers = [float(v) if isinstance(v, str) else v for v in value["values"]]
            return torch.tensor(numbers, dtype=dtype).reshape(value["shape"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise BadInput(
                f"the explanation is incomplete or damaged: field {name!r} is no array of numbers; write it again by "
                "to_json"
            ) from error
    if name == "stability" and value == "nan":
        return float("nan")
    return tuple(restored(item, name) for item in value) if isinstance(value, list) else value
