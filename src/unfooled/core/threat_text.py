"""Threats written as text, such as "linf:8/255": what `str(threat)` gives, records store and the command line takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum


class Norm(StrEnum):
    """Names of the norms in text."""

    LINF = "linf"
    L2 = "l2"
    L1 = "l1"
    L0 = "l0"


def norm_name(norm: float) -> str:
    """Return the name of a norm in text, such as "linf" for math.inf; one of `Norm` for 0, 1, 2 and math.inf."""
    return Norm.LINF.value if math.isinf(norm) else f"l{norm:g}"


@dataclass(frozen=True)
class ThreatText:
    """The parts of a threat's text.

    Attributes:
        norm: Name of the norm: one of `Norm`, or "l0-pixel", for the threats of this package.
        eps: Radius as it is written, such as "8/255"; empty where there is none.
        radius: Radius as a number. None: `eps` is not a number, as in "linf:per-sample".
        in_255ths: True if the radius is written as a multiple of 1/255.
    """

    norm: str
    eps: str
    radius: float | None
    in_255ths: bool


def parse_threat(text: str) -> ThreatText:
    """Split a threat's text into norm and radius; any text is accepted.

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


def eps_text(eps: float) -> str:
    """Format a radius as in papers: 0.3, 8/255, 12."""
    return f"{round(255 * eps)}/255" if in_255ths(eps) else f"{eps:.6g}"


def in_255ths(eps: float) -> bool:
    """Return whether papers write a radius as a multiple of 1/255: 8/255, but 0.2 instead of 51/255."""
    of_255 = eps * 255
    return len(f"{eps:.6g}") > 5 and 0.5 < of_255 < 255 and abs(of_255 - round(of_255)) < 1e-6
