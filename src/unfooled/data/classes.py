"""Class names, and conversion of labels to the class order that a model expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unfooled.core.class_names import counting, few_names, plain_name
from unfooled.core.errors import BadInput, nearest, option
from unfooled.core.limits import check_classes, read_regular
from unfooled.data.dataset import Dataset, Source

MAX_BYTES = 1 << 25  # largest file of names, in bytes

Names = list[tuple[str, ...]]
"""Accepted names of each class; the last one is displayed."""


def read_names(path: Path) -> Names:
    """Read class names from a file: one per line, a JSON list, or a JSON object `{index: name}` or `{name: index}`.

    A name may itself be a list of names (ImageNet's `[id, word]`), all of which are accepted.

    Raises:
        BadInput: The file is missing, empty or in another format, or its indices are not 0, 1, 2, ...
    """
    try:
        text = read_regular(path, most=MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the labels in {path} cannot be read: {error}") from error
    content: Any = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            if path.suffix.lower() == ".json" or not _lines(text):
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
    check_classes(len(content), str(path))
    if any(isinstance(part, (list, dict)) for item in content for part in (item if isinstance(item, list) else [item])):
        raise BadInput(f"the labels in {path} are nested; it holds one class name per line, or a JSON list of names")
    names = [tuple(map(str, item)) if isinstance(item, list) else (str(item),) for item in content]
    if not names or not all(names):
        raise BadInput(f"there are no labels in {path}; it must hold one class name per line, or a JSON list")
    return names


def _lines(text: str) -> bool:
    """Return whether text that begins like JSON, and is none, is a list of lines: names such as "[unknown]".

    Each line that begins with a bracket closes it, and no line ends like an element of a list.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    closing = {"[": "]", "{": "}"}
    whole = all(closing.get(line[0], "") in line[1:] for line in lines if line[0] in closing)
    return len(lines) > 1 and whole and not any(line.endswith(",") for line in lines)


def check_names(names: Sequence[str], place: object) -> None:
    """Raise if classes share names; 1 % of duplicates is allowed, since long lists, such as ImageNet's, have a few.

    Raises:
        BadInput: More than 1 % of the names are duplicates.
    """
    first: dict[str, int] = {}
    twice = [name for k, name in enumerate(names) if first.setdefault(plain_name(name), k) != k]
    if len(twice) > len(names) // 100:
        raise BadInput(
            f"{place} has {len(names)} classes, and {len(twice) + 1} or more share a name, such as {twice[0]!r}"
        )


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
        for name in {plain_name(name) for name in item}:
            known.setdefault(name, []).append(k)
    present = [source.classes[k] for k in _present(source.y)]
    lost = [name for name in present if plain_name(name) not in known]
    if lost and source.classes == [str(k) for k in range(len(source.classes))]:
        if len(shown) < len(source.classes):
            raise BadInput(f"{place} names {len(shown)} classes; {source.name} has {len(source.classes)}")
        check_names(shown, place)
        return replace(source, classes=shown, sorted=False)
    if lost:
        hint = nearest(lost[0], (name for item in names for name in item))
        raise BadInput(
            f"{len(lost)} classes of {source.name} are not in {place}, the first is {lost[0]!r}{hint}; the data have "
            f"{few_names(source.classes)}, {place} {few_names(shown)}"
        )
    twice = [name for name in present if len(known[plain_name(name)]) > 1]
    if twice:
        raise BadInput(f"the class {twice[0]!r} of {source.name} is in {place} more than once")
    check_names(shown, place)
    to = np.array([known.get(plain_name(name), [-1])[0] for name in source.classes], np.int64)
    if source.y.ndim == 2:
        return replace(source, y=source.y[:, _columns(to, shown, place, source.name)], classes=shown, sorted=False)
    return replace(source, y=to[source.y], classes=shown, sorted=False)


def for_model(data: Dataset, known: Sequence[str] | None, outputs: int, *, labels: bool = False) -> Dataset:
    """Return the same samples with their labels in the order of a model's outputs.

    Classes are matched by name with those that the model states. Class numbers (0, 1, 2, ..., LABEL_0, ...)
    are treated as no names, and never replace real ones. For a model without names the order of the data is kept,
    unless the data's names were sorted and are fewer than the outputs: then it is unknown which outputs they belong to,
    and only digits are matched, by value, for at most 10 outputs.

    Args:
        data: Samples, with the classes of their source.
        known: Class names that the model states, in the order of its outputs; an entry may hold several names, such as
            "tench, Tinca tinca". None: it states none.
        outputs: Number of the model's outputs.
        labels: True if the user gave the order of the data's classes, which is then compared with the model's.

    Raises:
        BadInput: The names contradict each other, match only in part, or are needed and missing.
    """
    known = None if known is None or counting(known) else list(known)
    if counting(data.classes):
        return data if known is None else replace(data, classes=_padded(known, max(outputs, len(data.classes))))
    if labels:
        _check_order(data.classes, known or [])
        return data
    if known is None and (not data.sorted or len(data.classes) >= outputs):
        return data
    if known is None and outputs <= 10 and all(name.isdigit() for name in data.classes):
        known = [str(k) for k in range(outputs)]  # up to 10 classes, numbers sort alike as numbers and as text
    if known is None:
        raise BadInput(
            f"{data.name} has {len(data.classes)} classes ({few_names(data.classes)}) and the model {outputs} outputs "
            f"without names, so their order is unknown; give all class names in the model's order: {option('labels')}"
        )
    places = _places(known)
    present = _present(data.y.cpu().numpy())
    lost = [data.classes[k] for k in present if len(places.get(plain_name(data.classes[k]), [])) != 1]
    if lost:
        raise BadInput(
            f"{len(lost)} of the {len(present)} classes of {data.name} are not among the model's, or more than once, "
            f"the first is {lost[0]!r}; the data have {few_names(data.classes)}, the model {few_names(known)}; give "
            f"the data's names in the model's order: {option('labels')}"
        )
    to = torch.tensor([places.get(plain_name(name), [-1])[0] for name in data.classes])
    if data.y.ndim == 2:
        columns = _columns(to.numpy(), [str(name) for name in known], "the model", data.name)
        return replace(data, y=data.y[:, columns.tolist()], classes=known, sorted=False)
    return replace(data, y=to.to(data.y.device)[data.y], classes=_padded(known, outputs), sorted=False)


def _present(y: np.ndarray) -> list[int]:
    """Return the classes that occur; of several labels per sample, all."""
    return list(range(y.shape[1])) if y.ndim == 2 else np.unique(y).tolist()


def _columns(to: np.ndarray, names: Sequence[str], place: object, source: str) -> np.ndarray:
    """Return the columns of several labels per sample in the order of names.

    Args:
        to: Place of each column among the names.
        names: Names of the labels in the model's order.
        place: Source of these names.
        source: Source of the samples.

    Raises:
        BadInput: A name has no column, so that it is unknown which samples have this label, or has two.
    """
    if lost := sorted(set(range(len(names))) - set(to.tolist())):
        raise BadInput(
            f"{place} has {len(names)} labels, and {source} {len(to)} per sample, of which none is {names[lost[0]]!r}"
        )
    if len(to) != len(names):
        raise BadInput(f"{place} has {len(names)} labels, and {source} {len(to)} per sample, of which two share a name")
    return np.argsort(to)


def _check_order(given: Sequence[str], known: Sequence[str]) -> None:
    """Raise if the user's order of class names disagrees with the model's.

    If no name is among the model's, for example in another language, nothing is compared.
    """
    places = _places(known)
    at = [places.get(plain_name(name), []) for name in given]
    if any(at) and not all(k in place for k, place in enumerate(at)):
        k = next(k for k, place in enumerate(at) if k not in place)
        raise BadInput(
            f"the labels and the model name the classes differently, the first is number {k}: the labels "
            f"({option('labels')}) are {few_names(given)}, the model's {few_names(known)}"
        )


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """Return name -> its positions; each part of an entry such as "tench, Tinca tinca" is a name too."""
    places: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        for part in {plain_name(part) for part in (name, *name.split(","))}:
            places.setdefault(part, []).append(k)
    return places


def _padded(names: Sequence[str], n: int) -> list[str]:
    """Return at least n names; those that are missing are numbers."""
    return [*names, *(str(k) for k in range(len(names), n))]
