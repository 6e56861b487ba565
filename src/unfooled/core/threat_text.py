"""Threats written as text, such as "linf:8/255": what `str(threat)` gives, records store and the command line takes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Norm(StrEnum):
    """Names of the norms in text."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"


@dataclass(frozen=True)
class ThreatText:
    """The parts of a threat's text.

    Attributes:
        norm: Name of the norm, one of `Norm` for the threats of this package but "l0-pixel".
        eps: Radius as it is written, such as "8/255"; empty where there is none.
        radius: Radius as a number. None: it is none, such as that of "linf:per-sample".
        in_255ths: True if the radius is written as a multiple of 1/255.
    """

    norm: str
    eps: str
    radius: float | None
    in_255ths: bool


def parse_threat(text: str) -> ThreatText:
    """Take the text of a threat apart; any text is accepted.

    Args:
        text: Text such as "linf:8/255", "l2:0.5" or "linf:per-sample".

    Example:
        >>> parse_threat("linf:8/255").in_255ths
        True
    """
    norm, _, eps = text.partition(":")
    top, _, bottom = eps.partition("/")
    try:
        below = float(bottom) if bottom else 1.0
        return ThreatText(norm, eps, float(top) / below, in_255ths=below == 255)
    except (ValueError, ZeroDivisionError):
        return ThreatText(norm, eps, None, in_255ths=False)
