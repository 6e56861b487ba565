"""Words of the command: text of others made harmless, and names of stages."""

from __future__ import annotations

from rich.markup import escape

from unfooled.core.errors import printable


def plain(text: object) -> str:
    """Return text of others for the terminal: its brackets are no markup, its control characters visible."""
    return escape(printable(str(text)))


STAGES = {
    "clean": "clean samples",
    "judge": "judging what was found",
    "explain": "explanations",
    "twin": "training a stand-in",
}


def called(stage: str) -> str:
    """Return the words for a stage on the terminal; "NAME/STAGE" is the stage of one of several runs."""
    run, slash, stage = stage.rpartition("/")
    if slash:
        return f"{run}: {called(stage)}"
    kind, _, rest = stage.partition("-")
    head, _, tail = rest.partition("-")
    match kind:
        case "cascade" if head.isdigit():
            return f"attack, stage {int(head) + 1}: {tail}"
        case "cascade":
            return f"attack, {rest}"
        case "autoattack":
            return f"AutoAttack, {rest}"
        case "nearest":
            return f"nearest points in {rest}"
        case "reasons":
            return f"reasons under attack, {rest} eps"
        case "diagnostics":
            return f"check {tail.replace('-', ': ', 1)}"
    return STAGES.get(stage, stage.replace("-", " "))
