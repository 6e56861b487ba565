"""Verdicts on claims: a claim holds or fails where the whole interval of its figure says so."""

from __future__ import annotations

import numpy as np

from unfooled.statistics.intervals import Interval
from unfooled.studies.common.records import Claim, Outcome

MIN_DIFFERENCE = 1e-9
"""Bound of a claim that something is more than something else: a difference of exactly 0 is not more."""


def claim(text: str, source: str, interval: Interval, bound: float) -> Claim:
    """Decide a claim that a figure is at least `bound`.

    Args:
        text: The claim, a sentence that can be true or false.
        source: Citation of the claim, or "unfooled".
        interval: The figure with its 95 % interval; undecided where nothing was measured, or where `bound` lies in it.
        bound: Smallest figure for which the claim holds.
    """
    value, low, high, n = interval
    if not n or not np.isfinite(value):
        return Claim(claim=text, source=source, verdict="undecided", value=None, low=None, high=None, n=0)
    verdict: Outcome = "holds" if low >= bound else "fails" if high < bound else "undecided"
    return Claim(claim=text, source=source, verdict=verdict, value=value, low=low, high=high, n=n)


def lowest(intervals: list[Interval]) -> Interval:
    """Return the smallest value, the smallest ends and n: they decide whether all figures reach a bound."""
    value, low, high, n = (min(one[k] for one in intervals) for k in range(4))
    return Interval(value, low, high, int(n))
