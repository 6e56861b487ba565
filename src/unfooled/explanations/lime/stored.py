"""Checks of the fields of a stored result, so that a damaged one is refused by the name of its field."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.explanations.lime.findings import Flag, Kind

NUMBERS = {
    "weights": "BTM", "se": "BTM", "sd": "BTM", "intercept": "BT", "r2": "BT", "r2_held_out": "BT", "ess": "B",
    "prediction": "BT", "local_prediction": "BT", "outputs": "BK", "seen": "T2",
}  # fmt: skip
"""Fields of numbers with their dimensions: B samples, T outputs explained, M features, K outputs."""
WHOLE = {"y": "BT", "calls": "B"}
FINITE = ("weights", "se", "sd", "intercept", "ess", "prediction", "local_prediction", "outputs", "seen")
WORDS = ("sampler", "kernel", "baseline", "score", "link", "unit")
EACH = ("spans", "keys", "cells", "stability", "masks", "answers")
"""Fields with one entry a sample, None where they are unknown."""


def checked_fields(values: dict[str, Any], required: Iterable[str], optional: Iterable[str]) -> dict[str, Any]:
    """Return the fields of a stored result, checked; `kind` and `flags` become members of their enumerations.

    Args:
        values: Fields by name, as `restored` gives them.
        required: Names of the fields that have to be there.
        optional: Names of those that may be missing or None.

    Raises:
        BadInput: A field is missing, or has another type, number type or shape.
    """
    optional = set(optional)
    for name in required:
        _ask(values.get(name) is not None, name, "is missing")
    values = {name: value for name, value in values.items() if value is not None or name in optional}
    values["kind"] = _as(Kind, values["kind"], "kind")
    values["flags"] = tuple(tuple(_as(Flag, flag, "flags") for flag in own) for own in _rows(values, "flags"))
    count = len(_rows(values, "names"))
    sizes = {"B": count, "T": 0, "M": 0, "K": 0, "2": 2}
    _tensor(values["weights"], "weights", 3)
    sizes |= {"T": values["weights"].shape[1], "M": values["weights"].shape[2]}
    if values.get("outputs") is not None:
        sizes["K"] = _tensor(values["outputs"], "outputs", 2).shape[1]
    for name, dims in (NUMBERS | WHOLE).items():
        if values.get(name) is not None:
            shape = tuple(sizes[letter] for letter in dims)
            value = _tensor(values[name], name, len(dims))
            _ask(tuple(value.shape) == shape, name, f"has shape {tuple(value.shape)}, not {shape}")
            right = value.dtype == torch.int64 if name in WHOLE else value.is_floating_point()
            _ask(right, name, f"is of type {value.dtype}; it holds {'whole ' if name in WHOLE else ''}numbers")
            _ask(name not in FINITE or bool(torch.isfinite(value).all()), name, "holds NaN or infinite values")
    for name in WORDS:
        _ask(isinstance(values.get(name, ""), str), name, "is no text")
    _ask(_is_whole(values["seed"]), "seed", "is no whole number")
    _ask(_is_number(values["seconds"]), "seconds", "is no number")
    for name in ("flags", *EACH):
        if values.get(name) is not None:
            _ask(len(_rows(values, name)) == count, name, f"has {len(values[name])} entries for {count} samples")
            _ask(all(own is not None for own in values[name]), name, "has no entry for a sample")
    _check_names(values, sizes)
    _check_content(values)
    _check_samples(values, sizes["T"])
    return values


def _check_names(values: dict[str, Any], sizes: dict[str, int]) -> None:
    """Refuse names, keys, classes and soft stabilities that are none."""
    for i, own in enumerate(values["names"]):
        _ask(_all(own, str) and len(own) <= sizes["M"], "names", "does not hold the names of each sample's features")
        keys = values.get("keys")
        right = keys is None or (isinstance(keys[i], tuple) and len(keys[i]) == len(own) and _all(keys[i], tuple))
        _ask(right, "keys", "does not hold one key a feature")
    _ask(max(map(len, values["names"]), default=0) == sizes["M"], "names", f"names other than {sizes['M']} features")
    y, k = values["y"], sizes["K"] if values.get("outputs") is not None else math.inf
    _ask(not y.numel() or (int(y.amin()) >= 0 and int(y.amax()) < k), "y", "has an output that the model does not have")
    if values.get("classes") is not None:
        classes = values["classes"]
        _ask(_all(classes, str) and len(classes) <= k, "classes", "does not hold one name an output")
    for own in values.get("stability") or ():
        right = isinstance(own, tuple) and len(own) == 3 and all(v != v or _is_number(v) for v in own)
        _ask(right, "stability", "does not hold value, low and high of each sample")


def _check_content(values: dict[str, Any]) -> None:
    """Refuse what was explained, and its segments, marks or cells, where they do not belong together."""
    kind, content, count = values["kind"], values["content"], len(values["names"])
    if kind == Kind.IMAGE:
        image = isinstance(content, Tensor) and content.is_floating_point() and content.ndim > 1
        _ask(image and len(content) == count, "content", f"does not hold {count} images")
        _ask(bool(torch.isfinite(content).all()), "content", "holds NaN or infinite values")
    else:
        entry = str if kind == Kind.TEXT else tuple
        _ask(_all(content, entry) and len(content) == count, "content", f"does not hold {count} inputs of kind {kind}")
    if values.get("segments") is not None:
        ids = values["segments"]
        shapes = {tuple(content.shape), (count, *content.shape[2:])} if isinstance(content, Tensor) else set()
        whole = isinstance(ids, Tensor) and ids.dtype == torch.int64
        _ask(whole and tuple(ids.shape) in shapes, "segments", "does not hold the segment of each value")
        within = all(int(i.amin()) >= 0 and int(i.amax()) < len(n) for i, n in zip(ids, values["names"], strict=True))
        _ask(within, "segments", "has a segment without a name")
    for i, names in enumerate(values["names"]):
        marks, cells = (None if values.get(name) is None else values[name][i] for name in ("spans", "cells"))
        _ask(marks is None or _marks(marks, content[i], len(names)), "spans", "does not hold places in the text")
        _ask(cells is None or _cells(cells, len(names)), "cells", "does not hold the columns of each row")
        if kind == Kind.PARTS:
            right = all(map(_part, content[i])) and sum(part[0] for part in content[i]) == len(names)
            _ask(right, "content", "does not hold the parts of the input")


def _check_samples(values: dict[str, Any], outputs: int) -> None:
    """Refuse stored masks and answers of other shapes."""
    masks, answers = values.get("masks"), values.get("answers")
    for i, names in enumerate(values["names"]):
        if masks is not None:
            z = masks[i]
            right = isinstance(z, Tensor) and (z.dtype == torch.bool or z.is_floating_point())
            right = right and z.ndim == 2 and z.shape[1] == len(names)
            _ask(right, "masks", "does not hold a mask of each sample's features")
        if answers is not None:
            y, rows = answers[i], None if masks is None else len(masks[i])
            right = isinstance(y, Tensor) and y.is_floating_point() and y.ndim == 2 and y.shape[1] == outputs
            _ask(right and rows in (None, len(y)), "answers", "does not hold an answer for each mask")


def _part(part: Any) -> bool:
    """Return whether a value is a part of an input, (number of features, kind, ...)."""
    if not isinstance(part, tuple) or len(part) < 2 or not _is_whole(part[0]) or not isinstance(part[1], str):
        return False
    count, kind, *more = part
    if kind == "text":
        return len(more) == 2 and _marks(more[1], more[0], count)
    if kind == "row":
        return len(more) == 1 and _cells(more[0], count)
    if kind == "image":
        tensors = len(more) == 2 and all(isinstance(value, Tensor) for value in more)
        if not tensors or more[1].dtype != torch.int64 or not more[0].is_floating_point() or not more[1].numel():
            return False
        shapes = {tuple(more[0].shape), tuple(more[0].shape[1:])}
        return tuple(more[1].shape) in shapes and int(more[1].amin()) >= 0 and int(more[1].amax()) < count
    return True


def _marks(marks: Any, text: Any, features: int) -> bool:
    """Return whether a value holds places in a text, (start, end, feature)."""
    return (
        isinstance(text, str)
        and _all(marks, tuple)
        and all(len(mark) == 3 and all(map(_is_whole, mark)) for mark in marks)
        and all(0 <= start <= end <= len(text) and 0 <= j < features for start, end, j in marks)
    )


def _cells(cells: Any, features: int) -> bool:
    """Return whether a value holds columns of a row, (column, value, bin, feature)."""
    return _all(cells, tuple) and all(
        len(cell) == 4 and _all(cell[:3], str) and _is_whole(cell[3]) and cell[3] < features for cell in cells
    )


def _tensor(value: Any, name: str, dims: int) -> Tensor:
    """Return a tensor of a number of dimensions; refuse anything else."""
    _ask(isinstance(value, Tensor), name, "is no array of numbers")
    _ask(value.ndim == dims, name, f"has {value.ndim} dimensions, not {dims}")
    tensor: Tensor = value
    return tensor


def _rows(values: dict[str, Any], name: str) -> tuple[Any, ...]:
    """Return a field with one entry a sample; refuse one that is no list."""
    _ask(isinstance(values[name], tuple), name, "is no list with an entry a sample")
    if name in ("flags", "names"):
        _ask(_all(values[name], tuple), name, "is no list of lists, one a sample")
    rows: tuple[Any, ...] = values[name]
    return rows


def _as(kind: Callable[[Any], Any], value: Any, name: str) -> Any:
    """Return a value as a member of an enumeration."""
    try:
        return kind(value)
    except ValueError:
        _ask(False, name, f"has {str(value)[:40]!r}, which is none of its values")


def _all(values: Any, kind: type) -> bool:
    """Return whether a value is a list with entries of one type."""
    return isinstance(values, tuple) and all(isinstance(value, kind) for value in values)


def _is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _ask(right: bool, name: str, what: str) -> None:
    """Refuse a field."""
    if not right:
        raise BadInput(f"the explanation is incomplete or damaged: field {name!r} {what}; write it again by to_json")
