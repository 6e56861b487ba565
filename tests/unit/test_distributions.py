"""Distributions without `scipy.stats`: the same numbers, and an audit that does not import it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from unfooled.statistics import distributions as d
from unfooled.statistics.intervals import share, share_of_hits

SIZES = (0, 1, 2, 5, 16, 64, 100, 500, 5000)
CASES = [(int(k), n) for n in SIZES for k in np.unique(np.linspace(0, n, 23).astype(int))]


@pytest.mark.parametrize("p", [0.001, 0.1, 1 / 7, 0.5])
def test_tails_of_the_binomial_are_those_of_scipy(p: float) -> None:
    for k, n in [(-1, 5), (6, 5), *CASES]:
        assert d.at_least(k, n, p) == pytest.approx(stats.binom.sf(k - 1, n, p), rel=1e-9)
        assert d.at_most(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-9)


@pytest.mark.parametrize(
    ("population", "marked", "drawn"), [(20, 4, 3), (20, 0, 5), (7, 7, 3), (900, 450, 30), (50, 40, 30)]
)
def test_draws_without_replacement_are_those_of_scipy(population: int, marked: int, drawn: int) -> None:
    for hits in range(-1, min(marked, drawn) + 3):
        want = stats.hypergeom.sf(hits - 1, population, marked, drawn)
        assert d.hypergeometric_at_least(hits, population, marked, drawn) == pytest.approx(want, rel=1e-9, abs=1e-300)


def test_quantiles_are_those_of_scipy() -> None:
    for k, n in CASES:
        if n:
            assert d.binomial_quantile(0.025, n, 0.5) == int(stats.binom.ppf(0.025, n, 0.5))
            assert d.student_quantile(0.975, n) == pytest.approx(stats.t.ppf(0.975, n), rel=1e-12)
        if 0 < k <= n:
            assert d.beta_quantile(0.025, k, n - k + 1) == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1), rel=1e-12)
    for level in (0.001, 0.3, 0.975):
        assert d.normal_quantile(level) == pytest.approx(stats.norm.ppf(level), rel=1e-12)
    ends = np.array([-3.0, 0.0, 1.5])
    assert d.normal_probabilities(ends) == pytest.approx(stats.norm.cdf(ends), rel=1e-12)


def test_light_quantiles_are_those_of_scipy() -> None:
    for k, n in [*CASES, (1, 9_999), (37, 10_000), (10_000, 10_000), (3, 50_000)]:
        if n:
            assert d.median_rank(0.025, n) == d.binomial_quantile(0.025, n, 0.5)
        for level, a, b in ((0.025, k, n - k + 1), (0.975, k + 1, n - k)):
            if a > 0 and b > 0:
                assert d.light_beta_quantile(level, a, b) == pytest.approx(d.beta_quantile(level, a, b), rel=1e-10)
    assert [d.median_rank(0.025, n) for n in range(1, 300)] == [
        d.binomial_quantile(0.025, n, 0.5) for n in range(1, 300)
    ]


def test_a_light_share_is_shown_as_the_stored_one() -> None:
    for k, n in CASES:
        light = share_of_hits(k, n, quantile=d.light_beta_quantile)
        stored = share(torch.arange(n) < k)
        assert (light.value, light.n) == (stored.value, stored.n)
        assert [light.low, light.high] == pytest.approx([stored.low, stored.high], rel=1e-10)


AUDIT = """
import sys
import torch
import unfooled as uf

torch.manual_seed(0)
x = torch.rand(20, 1, 8, 8)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
with torch.no_grad():  # is the upper half the brighter one?
    model[1].bias.zero_()
    model[1].weight.copy_(torch.arange(64).div(32).floor() == torch.tensor([[0.0], [1.0]]))
uf.audit(model, x, model(x).argmax(1), uf.Linf(0.001), plan=uf.Plan(effort=uf.QUICK))
print(*(name for name in ("scipy.stats", "scipy.optimize", "sklearn", "torch._dynamo") if name in sys.modules))
"""


def test_an_audit_imports_nothing_that_takes_longer_than_its_checks() -> None:
    done = subprocess.run([sys.executable, "-c", AUDIT], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
