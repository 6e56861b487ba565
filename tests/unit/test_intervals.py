"""Intervals against scipy and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from unfooled.statistics import intervals
from unfooled.statistics.paired import mcnemar


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 10), (918, 1000)])
def test_share_is_clopper_pearson(k: int, n: int) -> None:
    got = intervals.share(torch.arange(n) < k)
    want = binomtest(k, n).proportion_ci(0.95, method="exact")
    assert got.value == pytest.approx(k / n)
    assert (got.low, got.high) == pytest.approx((want.low, want.high))
    assert got.n == n


def test_share_of_nothing_says_nothing() -> None:
    got = intervals.share(torch.zeros(0, dtype=torch.bool))
    assert (got.value, got.low, got.high, got.n) == (None, 0.0, 1.0, 0)


def test_mean_covers_and_leaves_out_what_is_not_finite() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(200):
        m = intervals.mean(torch.from_numpy(rng.normal(3.0, 1.0, 60)), seed=i)
        assert m.low is not None
        assert m.high is not None
        covered += m.low <= 3.0 <= m.high
    assert 180 <= covered <= 200
    m = intervals.mean(torch.tensor([1.0, torch.nan, torch.inf, 3.0]))
    assert (m.value, m.n) == (2.0, 2)
    assert intervals.mean(torch.tensor([torch.nan])).value is None


def test_mcnemar_counts_only_where_they_differ() -> None:
    a = torch.tensor([True] * 8 + [False] * 92)
    b = torch.tensor([False] * 6 + [True] * 2 + [False] * 92)
    assert mcnemar(a, a) == 1.0
    assert mcnemar(a, b) == pytest.approx(2 * 0.5**6)
    assert mcnemar(a[:8], b[:8]) == mcnemar(a, b) == mcnemar(b, a)
    with pytest.raises(ValueError, match="the same images"):
        mcnemar(a, b[:5])
