"""Class names in what a checkpoint holds beside its weights, under the keys that training programs use."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unfooled.core.class_names import counting, few_names, plain_name
from unfooled.core.errors import BadInput
from unfooled.core.limits import check_classes

BY_NAME = ("class_to_idx", "label2id")
BY_INDEX = ("idx_to_class", "id2label")
KEYS = ("classes", *BY_NAME, *BY_INDEX, "class_names", "names", "labels")
"""Names of entries with class names; `classes` at the top is always meant so, others if their length fits."""
MAX_LEVELS = 2  # largest number of mappings around an entry
MAX_ENTRIES = 1000  # largest number of entries of a mapping that is searched for others


def stated_names(content: Mapping[Any, Any], outputs: Collection[int], path: Path) -> list[str] | None:
    """Return the class names that a checkpoint states, in the order of the outputs; None: it states none.

    Args:
        content: Entries of the file, also nested: lists, {name: index} or {index: name}.
        outputs: Possible numbers of the model's outputs; lists of other lengths are passed over.
        path: The file, for messages.

    Raises:
        BadInput: Entries disagree, or one cannot be read as class names.
    """
    found: list[tuple[str, list[str]]] = []
    for place, value in _entries(content):
        names = _listed(place, value, path)
        if names and (place == "classes" or len(names) in outputs):
            found.append((place, names))
    real = [(place, names) for place, names in found if not counting(names)] or found[:1]
    for place, names in real[1:]:
        if [plain_name(name) for name in names] != [plain_name(name) for name in real[0][1]]:
            raise BadInput(
                f"{path} states different class names: {real[0][0]} has {few_names(real[0][1])}, {place} "
                f"{few_names(names)}; remove the wrong list from the file"
            )
    return real[0][1] if real else None


def _entries(content: Any, place: str = "", level: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the entries that may hold class names, with their place such as "hyper_parameters.labels"."""
    for key, value in content.items():
        if not isinstance(key, str) or value is None or (isinstance(value, Tensor) and place + key != "classes"):
            continue
        value = vars(value) if isinstance(value, Namespace) else value
        if key in KEYS:
            yield place + key, value
        elif level < MAX_LEVELS and isinstance(value := _from_json(value), Mapping) and len(value) <= MAX_ENTRIES:
            yield from _entries(value, f"{place}{key}.", level + 1)


def _from_json(value: Any) -> Any:
    """Return the mapping or list that a text states as JSON; everything else stays."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _listed(place: str, value: Any, path: Path) -> list[str] | None:
    """Return the class names of an entry; None: it is something else, such as a number or a file's name.

    Raises:
        BadInput: The entry must hold class names, and does not.
    """
    value, key = _from_json(value), place.rpartition(".")[2]
    if isinstance(value, str):
        parts = [part.strip() for part in (value.splitlines() if "\n" in value.strip() else value.split(","))]
        value = [part for part in parts if part] if len(parts) > 1 else None
    if isinstance(value, Mapping) and value:
        check_classes(len(value), str(path))
        return _by_index(place, value, path)
    if isinstance(value, (list, tuple)):
        check_classes(len(value), str(path))
        if all(isinstance(name, (str, int)) for name in value):
            return [str(name) for name in value]
    if place == "classes" and value and not isinstance(value, int):
        raise BadInput(f"{path} states {key} = a {type(value).__name__}, which cannot be read: the names are no text")
    return None


def _by_index(place: str, value: Mapping[Any, Any], path: Path) -> list[str] | None:
    """Return the names of {name: index} or {index: name}; None: it is neither."""
    key = place.rpartition(".")[2]
    turned = {str(index): name for name, index in value.items()}
    table = {str(index): name for index, name in value.items()}
    if key in BY_NAME or (key not in BY_INDEX and all(_is_index(index) for index in value.values())):
        table = turned
    elif key not in BY_INDEX and not all(_is_index(index) for index in value):
        table = {}
    if not table or not all(isinstance(name, (str, int)) for name in table.values()):
        if place == "classes" or key in (*BY_NAME, *BY_INDEX):
            raise BadInput(f"{path} states {place}, which is no table of class names and indices from 0")
        return None
    if len(table) != len(value) or set(table) != {str(k) for k in range(len(table))}:
        raise BadInput(
            f"{path} states {place} with the indices {few_names(list(table))}; they must be 0, 1, 2, ..., each once"
        )
    return [str(table[str(k)]) for k in range(len(table))]


def _is_index(value: Any) -> bool:
    """Return whether a value is a whole number, or the text of one."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())
