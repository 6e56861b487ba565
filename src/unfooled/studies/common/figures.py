"""The figures that decide claims: a value, its 95 % interval, and how many samples it is over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unfooled.statistics.intervals import Estimate
from unfooled.studies.common.records import Claim, Outcome

Figures = tuple[float, float, float, int]
"""Value, ends of its 95 % interval, n."""


def mean(values: np.ndarray, draws: int = 2000) -> Figures:
    """The mean with its percentile bootstrap interval, of values in [-1, 1] of which few differ.

    Where all are the same, a bootstrap knows of nothing else: the interval is then as far as they are
    moved by the largest share of others, 1 away, that Clopper and Pearson allow where n samples hold none of them.

    Samples drawn with replacement are told by how often each value came, which is multinomial: 2000 draws of 10,000
    images cost no more than 2000 of a few counts.
    """
    found, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    n = int(counts.sum())
    if not n:
        return np.nan, np.nan, np.nan, 0
    drawn = np.random.default_rng(0).multinomial(n, counts / n, size=draws) @ found / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    if len(found) == 1:
        unseen = 1 - 0.025 ** (1 / n)
        low, high = max(low - unseen, -1.0), min(high + unseen, 1.0)
    return float(found @ counts / n), float(low), float(high), n


def over_seeds(each: Sequence[float], figures: Figures) -> Figures:
    """Widen an interval over images by that over seeds (Student's t), where there are three seeds or more."""
    value, low, high, n = figures
    if len(each) < 3 or not np.isfinite(value):
        return figures
    from scipy.stats import t

    reach = float(t.ppf(0.975, len(each) - 1)) * float(np.std(each, ddof=1)) / len(each) ** 0.5
    return value, min(low, value - reach), max(high, value + reach), n


def claim(says: str, source: str, figures: Figures, bound: float) -> Claim:
    """A claim that a figure is at least `bound`: it holds or fails where the whole interval says so."""
    value, low, high, n = figures
    if not n or not np.isfinite(value):
        return Claim(claim=says, source=source, verdict="undecided", value=None, low=None, high=None, n=0)
    verdict: Outcome = "holds" if low >= bound else "fails" if high < bound else "undecided"
    return Claim(claim=says, source=source, verdict=verdict, value=value, low=low, high=high, n=n)


def figures_of(share: Estimate | None) -> Figures:
    """Those of a share; none where there is none."""
    if share is None or share.value is None:
        return np.nan, np.nan, np.nan, 0
    return share.value, share.low, share.high, share.n


def text(figures: Figures) -> str:
    """0.829 [0.821, 0.836]."""
    value, low, high, n = figures
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if n else ""
