"""A base of explanations, which writes its version into a pickle."""

from __future__ import annotations

from typing import Any

from unfooled.core.errors import BadInput

FORMAT = 1


class Pickled:
    """A base class whose pickles are refused by versions that would misread them."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_format": FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        written = state.pop("_format", FORMAT)  # the original's pickles have none, and the same fields
        if written != FORMAT:
            raise BadInput(
                f"this {type(self).__name__} was pickled by another version of unfooled (format {written}, here "
                f"{FORMAT}); explain again, or save as_list() instead"
            )
        self.__dict__.update(state)
