"""The checks of a verdict and what each found."""

from __future__ import annotations

from unfooled.runs.records import Record


class Finding(Record):
    """One check of the verdict.

    Attributes:
        id: D1 to D25, as in the documentation of the diagnostics.
        fired: whether something was found.
        detail: what was seen, in words.
        action: what was done about it; empty where nothing fired.
        value, threshold: the figure that decides, where there is one.
    """

    id: str
    fired: bool
    detail: str
    action: str
    value: float | None = None
    threshold: float | None = None
