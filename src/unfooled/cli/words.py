"""Words of the command: text of others made harmless, and names of stages."""

from __future__ import annotations

from rich.markup import escape

from unfooled.core.errors import printable


def plain(text: object) -> str:
    """Return text of others for the terminal: its brackets are no markup, its control characters visible."""
    return escape(printable(str(text)))


def called(stage: str) -> str:
    """Return the words for a stage on the terminal."""
    from unfooled.runs.stage_names import stage_name

    return stage_name(stage).description
