"""Habits of models, learnt at their first call: whether they write into their input, and where their logits are.

They are kept beside the models, not in them, and forgotten with them.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from unfooled.core.model.anatomy import modules_of

_NOTES: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@dataclass
class Habits:
    """Habits of a model that were observed.

    Attributes:
        writes: whether it writes into its input. None: not seen yet.
        logits: where its logits are in what it returns, such as "[1]". Empty: not seen yet.
        notes: sentences about it.
    """

    writes: bool | None = None
    logits: str = ""
    notes: list[str] = field(default_factory=list)


_KNOWN: dict[int, tuple[weakref.ref[Any], Habits]] = {}


def bare(model: Any) -> Any:
    """Return the model behind wrappers that only watch its calls."""
    while getattr(type(model), "watches", False):
        model = model.__dict__["model"]
    return model


def habits_of(model: Any) -> Habits | None:
    """Return what is known about a model, to be added to; None where nothing can be remembered about it."""
    model = bare(model)
    entry = _KNOWN.get(id(model))
    return entry[1] if entry is not None and entry[0]() is model else _remember(model, Habits())


def copied(model: Any) -> Any:
    """Return a deep copy of a model, about which the same is known, now and later."""
    twin = copy.deepcopy(model)
    for own, other in zip(_members(model), _members(twin), strict=False):
        habits = habits_of(own)
        if other is not own and habits is not None:
            _remember(other, habits)
    return twin


def _members(model: Any) -> list[Any]:
    """Return a model and its modules."""
    return [bare(model), *(module for root in modules_of(model) for module in root.modules())]


def _remember(model: Any, habits: Habits) -> Habits | None:
    """Keep habits as long as the model lives; None where that cannot be seen."""
    key = id(model)
    try:
        _KNOWN[key] = (weakref.ref(model, lambda _: _KNOWN.pop(key, None)), habits)
    except TypeError:
        return None
    return habits


def notice(model: Any, sentence: str) -> None:
    """Say something about a model once: as a Python warning, or to the `noticing` context around the call."""
    habits = habits_of(model)
    if habits is not None and sentence not in habits.notes:
        habits.notes.append(sentence)
    notes = _NOTES.get()
    if notes is None:
        warnings.warn(sentence, UserWarning, stacklevel=6)
    elif sentence not in notes:
        notes.append(sentence)


def remind(habits: Habits) -> None:
    """Repeat what is known about a model to the `noticing` context around the call, if there is one."""
    notes = _NOTES.get()
    if notes is not None and habits.notes:
        notes.extend(sentence for sentence in habits.notes if sentence not in notes)


@contextmanager
def noticing() -> Iterator[list[str]]:
    """Collect what is noticed about models instead of warning of it; yield the sentences."""
    notes: list[str] = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)
