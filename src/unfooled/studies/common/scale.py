"""Scale of a study: named sizes, or sizes of your own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from unfooled.core.errors import BadInput
from unfooled.runs.spelling import as_json

OWN = "own"
"""Name in a summary for sizes that are none of the study's scales."""


@dataclass(frozen=True)
class Scale:
    """Base class for the sizes of a study; each study has a frozen dataclass with its own fields."""

    def settings(self) -> dict[str, Any]:
        """Return every field as plain values; a folder that was made with others is refused."""
        return dict(as_json(self, depth=1))


S = TypeVar("S", bound=Scale)


def pick_scale(scales: Mapping[str, S], scale: str | S) -> tuple[str, S]:
    """Return the name and the sizes of a scale.

    Args:
        scales: The study's scales by name.
        scale: One of their names, or your own sizes, which are named `OWN`.

    Raises:
        BadInput: there is no scale of that name.
    """
    if not isinstance(scale, str):
        return OWN, scale
    if scale not in scales:
        raise BadInput(f"there is no scale {scale!r}; there are {', '.join(scales)}")
    return scale, scales[scale]
