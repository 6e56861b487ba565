"""Records of workflows."""

from __future__ import annotations

from typing import Any

from pydantic import model_serializer

from unfooled.runs.records import Record


class Partial(Record):
    """A record whose JSON leaves out optional fields that were not set."""

    @model_serializer(mode="wrap")
    def _only_set_fields(self, whole: Any) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if name in self.model_fields_set}
