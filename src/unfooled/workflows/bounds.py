"""Bounds on an audit's figures, such as "robust_accuracy=0.4", or "robust_accuracy.low=0.4" for the interval's end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unfooled.workflows.errors import BadOption, BelowBound
from unfooled.workflows.words import number

if TYPE_CHECKING:
    from unfooled.evaluation.audit.records import Summary

FIGURES = ("robust_accuracy", "clean_accuracy", "certified_accuracy")
ENDS = ("value", "low", "high")


@dataclass(frozen=True)
class Bound:
    """Lower bound on a figure of an audit.

    Attributes:
        figure: Field of the `Summary`.
        end: "value", "low" or "high".
        least: The bound, in [0, 1].
    """

    figure: str
    end: str
    least: float


def read_bound(text: str) -> Bound:
    """Read "robust_accuracy=0.4" or "robust_accuracy.low=0.4".

    Raises:
        BadOption: another figure, another end, or no bound in [0, 1].
    """
    name, equals, value = text.partition("=")
    figure, _, end = name.strip().partition(".")
    end = end or "value"
    if not equals or figure not in FIGURES or end not in ENDS:
        raise BadOption(
            "{fail_under} is {0!r}; write {1}, with .low for the interval's end, as in robust_accuracy.low=0.4",
            text, " or ".join(FIGURES),
        )  # fmt: skip
    least = number(value, f"the bound on {name.strip()}")
    if not 0 <= least <= 1:
        raise BadOption("{fail_under:{0}}: the bound lies in [0, 1]; write 0.4 for 40 %", text)
    return Bound(figure, end, least)


def check_bounds(summary: Summary, bounds: Iterable[Bound]) -> None:
    """Check an audit's figures, and that they can be believed.

    Raises:
        BelowBound: the verdict is not trusted, whatever the figures; or a figure is below its bound. The message names
            the verdict and why, or the figure, its value and the bound.
    """
    bounds = list(bounds)
    if bounds and not summary.trusted:
        verdict = summary.verdict or "not known"
        raise BelowBound(f"the verdict is {verdict}, so no figure passes. {summary.because}".rstrip())
    for bound in bounds:
        value = getattr(getattr(summary, bound.figure), bound.end, None)
        if value is None or value < bound.least:
            text = "not available" if value is None else f"{value:.4f}"
            raise BelowBound(f"{bound.figure}.{bound.end} is {text}, below {bound.least:g}")
