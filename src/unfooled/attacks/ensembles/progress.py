"""The record of what an ensemble of attacks has reached after one of its stages."""

from __future__ import annotations

from unfooled.runs.records import Record


class Progress(Record):
    """A point of the curve of accuracy against passes.

    Attributes:
        stage: Label of the stage, such as "3-square".
        forward: Forward passes a sample so far.
        backward: Backward passes a sample so far.
        accuracy: Share of the samples that nothing has fooled yet.
        taken: Samples that the stage attacked.
        closed: Samples that it fooled.
        method: Name of the stage's method, such as "square"; empty in records of version 0.1.
        check: Id of the check that the stage belongs to, such as "D14"; empty for none.
    """

    stage: str
    forward: float
    backward: float
    accuracy: float
    taken: int = 0
    closed: int = 0
    method: str = ""
    check: str = ""
