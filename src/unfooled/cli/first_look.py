"""Refusal of files that do not exist, before anything that takes long is imported."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unfooled.cli.command import RUNNING
from unfooled.data import known as known_data
from unfooled.models import known as known_models


def check_sources(model: str | None = None, data: str | None = None, model_kind: str | None = None) -> None:
    """Refuse a model or data that do not exist; what is no file is left to the loaders.

    Args:
        model: Value of --model. None: there is none.
        data: Value of --data, a labelled data set. None: there is none, or it may be something else.
        model_kind: Value of --model-kind.

    Raises:
        BadInput: There is no such file.
    """
    if _has_url():  # what is said of it comes first
        return
    if model is not None:
        known_models.check_there(model, model_kind)
    if data is not None:
        known_data.check_there(data)


def _has_url() -> bool:
    """Return whether an option of the running command is a URL, or belongs to one."""
    given = RUNNING.get() or {}
    return given.get("store_options") is not None or any(":/" in text for text in _texts(given.values()))


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        yield from _texts(value) if isinstance(value, (list, tuple)) else [str(value)]
