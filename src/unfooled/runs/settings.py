"""Settings of resumable work: storage and comparison.

Audits, data sets, studies, training checkpoints and the results of `unfooled attack` store the settings that they were
started with. `refuse_changed` raises an error when a second start has other settings. `LAYOUT` is stored beside them:
work with another layout is not continued.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unfooled.core.errors import BadInput, option
from unfooled.runs.spelling import as_json

LAYOUT = 2
"""Version of the format of stored work; version 0.1 of the package stored none."""

OTHER_FOLDER = f"choose another {option('out')}, or remove that folder"
OTHER_FILE = f"choose another {option('out')}, or start again with {option('fresh', True)}"

Settings = Mapping[str, Any] | BaseModel
"""Settings by name, nested mappings allowed; values that are not JSON are stored as text, see `as_json`."""


def plain(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON values, the form in which they are stored and compared.

    Example:
        >>> plain({"norms": (1, 2), "attack": plain})
        {'norms': [1, 2], 'attack': 'plain'}
    """
    return dict(json.loads(settings.model_dump_json()) if isinstance(settings, BaseModel) else as_json(settings))


def settings_hash(settings: Settings) -> str:
    """Return the SHA-256 of settings; equal where `difference` finds none."""
    return hashlib.sha256(json.dumps([LAYOUT, _without_none(plain(settings))], sort_keys=True).encode()).hexdigest()


def difference(before: Settings, now: Settings) -> str:
    """Name the first setting that differs, with both values, and up to three more; empty where all are equal.

    Example:
        >>> difference({"seed": 0, "options": {"steps": 10}}, {"seed": 1, "options": {"steps": 20}})
        'options: steps was 10, now it is 20 (and 1 more: seed)'
    """
    changed = _changes(plain(before), plain(now))
    if not changed:
        return ""
    (name, old, new), *others = changed
    more = f" (and {len(others)} more: {', '.join(other for other, _, _ in others[:3])})" if others else ""
    return f"{name} was {old!r}, now it is {new!r}{more}"


def refuse_changed(
    place: Path | str,
    before: Settings,
    now: Settings,
    *,
    layout: int | None = LAYOUT,
    kind: str = "run",
    remedy: str = OTHER_FOLDER,
) -> None:
    """Refuse to continue work that was started with other settings, or stored by another version.

    Args:
        place: Folder or file that holds the work.
        before: Settings stored there.
        now: Settings of this start.
        layout: Layout stored there; None: version 0.1, which stored none.
        kind: Name of the work in the error message.
        remedy: Advice at the end of the error message.

    Raises:
        BadInput: The layout or a setting differs; the message names the first difference and up to three more.
    """
    if layout is None:
        raise BadInput(f"{place} was made by version 0.1; {remedy}")
    if layout != LAYOUT:
        raise BadInput(f"{place} has layout {layout}, this version of unfooled continues layout {LAYOUT}; {remedy}")
    if changed := difference(before, now):
        raise BadInput(f"{place} holds another {kind}: {changed}; {remedy}")


def as_text(settings: Settings) -> str:
    """Return the stored form: JSON with the layout and the settings."""
    return json.dumps({"layout": LAYOUT, "settings": plain(settings)}, indent=2) + "\n"


def parse(text: str | bytes) -> tuple[int | None, dict[str, Any]]:
    """Parse the output of `as_text`, or the bare settings of version 0.1, whose layout is None.

    Raises:
        ValueError: The text is neither of them.
    """
    try:
        stored = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(stored, dict):
        raise ValueError("it holds no settings")
    if "layout" not in stored:
        return None, stored
    layout, settings = stored["layout"], stored.get("settings")
    if not isinstance(layout, int) or not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    return layout, settings


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Return the settings that differ, with both values; a missing one counts as None."""
    changes = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += _changes(old, new, f"{prefix}{name}: ")
        elif old != new:
            changes.append((prefix + name, old, new))
    return changes


def _without_none(value: Any) -> Any:
    """Return nested settings without those that are None."""
    if not isinstance(value, Mapping):
        return value
    return {name: _without_none(item) for name, item in value.items() if item is not None}
