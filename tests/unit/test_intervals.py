"""Intervals against scipy and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from unfooled.statistics import discrete_mean, intervals, mean_of, over_images
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
    assert 184 <= covered <= 198
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


def test_intervals_cover_down_to_ten_samples() -> None:
    draw, repeats = np.random.default_rng(0), 300
    sources = {0.0: lambda: draw.normal(size=10), 1.0: lambda: draw.exponential(size=10)}
    for truth, source in sources.items():
        samples = [source() for _ in range(repeats)]
        found = [intervals.mean(torch.from_numpy(values), seed=i) for i, values in enumerate(samples)]
        assert np.mean([m.low <= truth <= m.high for m in found]) >= 0.93  # type: ignore[operator]
        columns = [{"id": np.arange(10), "a": values} for values in samples[:150]]
        held = [over_images(mean_of("a"), c) for c in columns]
        assert np.mean([one.low <= truth <= one.high for one in held]) >= 0.9
    few = [discrete_mean(draw.integers(-1, 2, size=10).astype(float)) for _ in range(repeats)]
    assert np.mean([one.low <= 0 <= one.high for one in few]) >= 0.93


def test_the_interval_of_few_values_is_what_is_known() -> None:
    alone = intervals.mean(torch.tensor([0.25]))
    assert (alone.value, alone.low, alone.high, alone.n) == (0.25, None, None, 1)
    bounded = intervals.mean(torch.ones(10), within=(0, 1))
    exact = binomtest(10, 10).proportion_ci(0.95, method="exact")
    assert bounded.high == 1
    assert bounded.low == pytest.approx(exact.low, abs=0.01)
    skewed = intervals.mean(torch.tensor([1.0] * 9 + [0.0]), within=(0, 1))
    assert skewed.high == 1
    assert skewed.low is not None
    assert skewed.low < 0.7


def test_the_interval_of_frequencies_covers_and_has_a_width() -> None:
    draw = np.random.default_rng(0)
    hits = torch.arange(10) < 7
    assert intervals.mean_of_shares(hits.double()) == intervals.share(hits)
    nearly = intervals.mean_of_shares(torch.tensor([1.0] * 9 + [0.95]))
    exact = intervals.share(torch.ones(10, dtype=torch.bool))
    assert nearly.low == pytest.approx(exact.low, abs=0.02)
    assert nearly.high > 0.999
    for chance in (0.45, 0.999):
        rates = [torch.from_numpy(draw.binomial(20, np.full(10, chance)) / 20) for _ in range(100)]
        found = [intervals.mean_of_shares(rate) for rate in rates]
        assert np.mean([m.low <= chance <= m.high for m in found]) >= 0.95
        assert min(m.high - m.low for m in found) > 0.1


def test_the_share_that_is_lost_agrees_with_both_means() -> None:
    draw = np.random.default_rng(0)
    before, after = (torch.from_numpy(draw.binomial(20, np.full(60, p)) / 20) for p in (0.8, 0.4))
    lost = intervals.share_lost(before, after)
    assert lost.value == pytest.approx(1 - float(after.mean() / before.mean()))
    assert lost.low < 0.5 < lost.high
    assert lost.high - lost.low < 0.15
    same = intervals.share_lost(torch.ones(10), torch.ones(10))
    assert (same.value, same.low) == (0, 0)
    assert same.high == pytest.approx(0.308, abs=0.01)
    assert intervals.share_lost(torch.zeros(10), torch.zeros(10)).value is None
