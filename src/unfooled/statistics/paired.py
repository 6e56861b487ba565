"""Paired comparison of two attacks or measures on the same images."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from unfooled.statistics.bootstrap import Columns, Statistic
from unfooled.statistics.distributions import at_least


def mcnemar(a: Tensor, b: Tensor) -> float:
    """Compute the exact two-sided p-value of the hypothesis that two attacks fool equally many images.

    Args:
        a: Images that the first attack fooled, (n,) bool.
        b: Images that the second attack fooled, on the same images, (n,) bool.

    Returns:
        McNemar's p-value; 1 where they agree on every image. Only images on which they differ count.

    References:
        McNemar, Note on the sampling error of the difference between correlated proportions or percentages,
        Psychometrika 1947.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b has {tuple(b.shape)}; they must be the same images")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def mean_difference(a: str, b: str) -> Statistic:
    """Build the mean over images of column a minus column b, for `Cases.interval` and `over_images`."""

    def statistic(columns: Columns, w: np.ndarray) -> np.ndarray:
        return (w @ (columns[a] - columns[b])) / w.sum(1)

    return statistic


def worse(before: Tensor, now: Tensor) -> float:
    """Compute the exact one-sided p-value of the hypothesis that a model is right no less often than before.

    Args:
        before: Samples that were right, (n,) bool.
        now: The same samples that are right now, (n,) bool.

    Returns:
        Probability of at least as many losses among the samples that differ, if each were as likely a gain; 1 where
        none differs.
    """
    if before.shape != now.shape:
        raise ValueError(f"before has shape {tuple(before.shape)}, now has {tuple(now.shape)}; they must be the same")
    lost, gained = int((before & ~now).sum()), int((now & ~before).sum())
    if lost + gained == 0:
        return 1.0
    return at_least(lost, lost + gained, 0.5)
