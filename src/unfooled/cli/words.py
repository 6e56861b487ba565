"""Text for the terminal: escaping of untrusted text, and names of stages."""

from __future__ import annotations

from rich.markup import escape

from unfooled.core.errors import printable


def plain(text: object) -> str:
    """Escape untrusted text for the terminal: brackets are not markup, control characters are visible."""
    return escape(printable(str(text)))


def stage_description(stage: str) -> str:
    """Return the description of a stage for the terminal."""
    from unfooled.runs.stage_names import stage_name

    return stage_name(stage).description
