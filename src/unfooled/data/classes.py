"""Class names, and conversion of labels to the class order that a model expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput, nearest
from unfooled.data.dataset import Source

Names = list[tuple[str, ...]]
"""Accepted names of each class; the last one is displayed."""


def read_names(path: Path) -> Names:
    """Read class names from a file: one per line, a JSON list, or a JSON object `{index: name}` or `{name: index}`.

    A name may itself be a list of names (ImageNet's `[id, word]`), all of which are accepted.

    Raises:
        BadInput: The file is missing, empty or in another format, or its indices are not 0, 1, 2, ...
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the labels in {path} cannot be read: {error}") from error
    content: Any = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except ValueError as error:
            raise BadInput(f"the labels in {path} are not JSON: {error}") from error
    if isinstance(content, dict):
        if all(isinstance(value, int) for value in content.values()):  # {name: index}, the other way round
            content = {str(k): name for name, k in content.items()}
        keys = sorted(content, key=lambda key: int(key) if key.isdigit() else -1)
        if keys != [str(k) for k in range(len(keys))]:
            raise BadInput(
                f"the labels in {path} have the indices {', '.join(keys[:4])}, ...; they must be 0, 1, 2, ..."
            )
        content = [content[key] for key in keys]
    names = [tuple(map(str, item)) if isinstance(item, list) else (str(item),) for item in content]
    if not names or not all(names):
        raise BadInput(f"there are no labels in {path}; it holds one class name a line, or a JSON list")
    return names


def in_order(source: Source, labels: str | Path | Sequence[str]) -> Source:
    """Return the source with its labels as indices into `labels`.

    Classes are matched by name, ignoring case and underscores. If the classes of the source are numbers and `labels`
    are not, `labels` name these classes in order.

    Raises:
        BadInput: A class is missing in `labels`, or occurs twice.
    """
    place = labels if isinstance(labels, (str, Path)) else "labels"
    names = read_names(Path(labels)) if isinstance(labels, (str, Path)) else [(str(name),) for name in labels]
    shown = [item[-1] for item in names]
    known: dict[str, list[int]] = {}
    for k, item in enumerate(names):
        for name in {_plain(name) for name in item}:
            known.setdefault(name, []).append(k)
    present = [source.classes[k] for k in np.unique(source.y)]
    lost = [name for name in present if _plain(name) not in known]
    if lost and source.classes == [str(k) for k in range(len(source.classes))]:
        if len(shown) < len(source.classes):
            raise BadInput(f"{place} names {len(shown)} classes; {source.name} has {len(source.classes)}")
        return replace(source, classes=shown)
    if lost:
        hint = nearest(lost[0], (name for item in names for name in item))
        raise BadInput(f"{len(lost)} classes of {source.name} are not in {place}, the first is {lost[0]!r}{hint}")
    twice = [name for name in present if len(known[_plain(name)]) > 1]
    if twice:
        raise BadInput(f"the class {twice[0]!r} of {source.name} is in {place} more than once")
    to = np.array([known.get(_plain(name), [-1])[0] for name in source.classes], np.int64)
    return replace(source, y=to[source.y], classes=shown)


def _plain(name: str) -> str:
    """Normalise a name: case, underscores and spaces."""
    return " ".join(name.casefold().replace("_", " ").split())
