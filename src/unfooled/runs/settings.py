"""Settings of resumable work: storage and comparison.

Audits, data sets, studies, training checkpoints and the results of `unfooled attack` store the settings that they were
started with. `refuse_changed` raises an error when a second start has other settings. `LAYOUT` is stored beside them:
work with another layout is not continued.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from unfooled.core.errors import BadInput, option
from unfooled.core.used_files import CODE, FILE
from unfooled.runs.answers import answers_differ
from unfooled.runs.spelling import as_json

LAYOUT = 2
"""Version of the format of stored work; version 0.1 of the package stored none."""

SUM = "sha256"
"""Entry that holds the SHA-256 of the settings."""

PRINTS, ANSWERS = "fingerprint", "answers"
"""Setting that identifies the model and the data by hashes, and its entry for `unfooled.runs.answers`."""

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
    """Return the SHA-256 of settings, with the files and the answers of the model in their fingerprint."""
    return _sum([LAYOUT, _without_none(_identified(plain(settings)))])


def difference(before: Settings, now: Settings) -> str:
    """Name the first setting that differs, with both values, and up to three more; empty where all are equal.

    Example:
        >>> difference({"seed": 0, "options": {"steps": 10}}, {"seed": 1, "options": {"steps": 20}})
        'options: steps was 10, now it is 20 (and 1 more: seed)'
    """
    a, b = _identified(plain(before)), _identified(plain(now))
    seen: list[dict[str, str]] = [settings.pop(PRINTS, None) or {} for settings in (a, b)]
    changed = [(name, f"{name} was {old!r}, now it is {new!r}") for name, old, new in _changes(a, b)]
    changed += _changed_prints(*seen)
    if not changed:
        return ""
    changed.sort(key=lambda change: change[0])
    (_, sentence), *others = changed
    more = f" (and {len(others)} more: {', '.join(name for name, _ in others[:3])})" if others else ""
    return sentence + more


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
    """Return the stored form: JSON with the layout, the settings and their SHA-256."""
    stored = plain(settings)
    return json.dumps({"layout": LAYOUT, "settings": stored, SUM: _sum(stored)}, indent=2) + "\n"


def parse(text: str | bytes) -> tuple[int | None, dict[str, Any]]:
    """Parse the output of `as_text`, or the bare settings of version 0.1, whose layout is None.

    Raises:
        ValueError: The text is neither of them, or was changed.
    """
    try:
        stored = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(stored, dict) or ("layout" not in stored and SUM in stored):
        raise ValueError("it holds no settings")
    if "layout" not in stored:
        return None, stored
    layout, settings = stored["layout"], stored.get("settings")
    if not isinstance(layout, int) or not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    if layout == LAYOUT and stored.get(SUM, _sum(settings)) != _sum(settings):
        raise ValueError("it was changed")
    return layout, settings


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _identified(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the names of a model and data that the fingerprint identifies.

    The same weights and data under another path are the same; of user code, the names of the file and the function are
    compared.
    """
    prints = settings.get(PRINTS)
    if not isinstance(prints, Mapping):
        return settings
    identified = dict(settings)
    if "data" in prints:
        identified["data"] = None
    if "model" in prints and isinstance(settings.get("model"), str):
        identified["model"] = _code(settings["model"])
        arch = dict(settings.get("options") or {}).get("arch")
        if isinstance(arch, str):
            identified["options"] = {**settings["options"], "arch": _code(arch, arch)}
    return identified


def _changed_prints(before: Mapping[str, str], now: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what differs between two fingerprints: names, and sentences.

    A file that is only read at the second start may be a cache that the first one wrote. Answers are compared up to
    rounding; a random model has none.
    """
    changed = []
    files = Counter(value for name, value in now.items() if name.startswith(FILE))
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if name.startswith(FILE):
            lost = old is not None and not files[old]
            sentence = f"{name.removeprefix(FILE)}, which the model's code reads, has changed or is no longer read"
        elif name == ANSWERS:
            lost = answers_differ(old or "", new or "")
            sentence = "the model answers otherwise to the first samples, so code or files that it uses have changed"
        elif name.startswith(CODE):
            lost = old != new
            became = "is new" if old is None else "is no longer used" if new is None else "has changed"
            sentence = f"the model's code in {name.removeprefix(CODE)} {became}"
        else:
            lost, sentence = old != new, f"{PRINTS}: {name} was {old!r}, now it is {new!r}"
        if lost:
            changed.append((f"{PRINTS}: {name}", sentence))
    return changed


def _code(name: str, other: str | None = None) -> str | None:
    """Return "net.py:make" for "some/place/net.py:make", and `other` for a name without a colon."""
    file, colon, function = name.rpartition(":")
    return f"{Path(file).name}:{function}" if colon and file.endswith(".py") else other if not colon else name


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
