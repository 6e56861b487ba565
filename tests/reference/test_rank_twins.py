"""Rank correlations beside scipy's, and beside the pairwise definition."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from unfooled.distances.rank import _inversions, kendall, spearman


def pairs_of_maps(n: int, levels: int, *, seed: int = 0, batch: int = 4) -> tuple[Tensor, Tensor]:
    "Related maps with about `levels` distinct values, half of them negative."
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(batch, n, generator=generator, dtype=torch.float64)
    b = 0.5 * a + torch.randn(batch, n, generator=generator, dtype=torch.float64)
    if levels:
        a, b = (a * levels / 4).round(), (b * levels / 6).round()
    return a, b


def by_pairs(a: Tensor, b: Tensor) -> Tensor:
    "tau-b from the signs of all pairs, O(n^2)."
    s, t = ((m[:, :, None] - m[:, None]).sign() for m in (a, b))
    return (s * t).sum((1, 2)) / (s.abs().sum((1, 2)) * t.abs().sum((1, 2))).sqrt()


@pytest.mark.parametrize("levels", [0, 2, 5, 40])
@pytest.mark.parametrize("n", [2, 3, 7, 8, 9, 64, 100, 784, 1025, 3000])
@pytest.mark.parametrize("ours", [spearman, kendall])
def test_equals_scipy(ours: Callable[[Tensor, Tensor], Tensor], n: int, levels: int) -> None:
    peer = stats.spearmanr if ours is spearman else stats.kendalltau
    a, b = pairs_of_maps(n, levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant input: NaN there and here
        want = torch.tensor([float(peer(u, v).statistic) for u, v in zip(a.numpy(), b.numpy(), strict=True)])
    torch.testing.assert_close(ours(a, b).float(), want, equal_nan=True)


@pytest.mark.parametrize("levels", [0, 3, 20])
def test_equals_the_pairwise_definition(levels: int) -> None:
    a, b = pairs_of_maps(150, levels, seed=3)
    torch.testing.assert_close(kendall(a, b), by_pairs(a, b))


def test_inversions_of_known_permutations() -> None:
    for n in (1, 2, 5, 16, 17):
        up = torch.arange(n)
        assert _inversions(torch.stack([up, up.flip(0)])).tolist() == [0, n * (n - 1) // 2]
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(45, generator=generator) for _ in range(6)])
    later = torch.ones(45, 45).triu(1).bool()
    want = ((rows[:, :, None] > rows[:, None]) & later).sum((1, 2))
    assert torch.equal(_inversions(rows), want)


def test_large_maps_are_exact_and_not_quadratic() -> None:
    n = 224 * 224
    a, b = pairs_of_maps(n, 0, batch=1)
    start = time.process_time()
    found = kendall(a, b)
    # 2.5e9 pairs would take far longer than this on any core.
    assert time.process_time() - start < 3
    torch.testing.assert_close(float(found), float(stats.kendalltau(a[0], b[0]).statistic), rtol=1e-12, atol=0)
