"""Record of the progress of an ensemble of attacks after a stage."""

from __future__ import annotations

from unfooled.runs.records import Count, Part, Record, Size


class Progress(Record):
    """A point of the curve of accuracy against passes.

    Attributes:
        stage: Label of the stage, such as "3-square".
        forward: Forward passes per sample so far.
        backward: Backward passes per sample so far.
        accuracy: Share of the samples that are not fooled yet.
        taken: Number of samples that the stage attacked.
        closed: Number of samples that it fooled.
        method: Name of the stage's method, such as "square"; empty in records of version 0.1.
        check: Id of the check that the stage belongs to, such as "D14"; empty for none.
    """

    stage: str
    forward: Size
    backward: Size
    accuracy: Part
    taken: Count = 0
    closed: Count = 0
    method: str = ""
    check: str = ""
