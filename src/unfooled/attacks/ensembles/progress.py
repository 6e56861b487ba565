"""What an ensemble of attacks records after each of its stages."""

from __future__ import annotations

from unfooled.runs.records import Record


class Progress(Record):
    """The attack after one of its stages: passes a sample so far, and the accuracy that is left."""

    stage: str
    forward: float
    backward: float
    accuracy: float
    taken: int
    closed: int
