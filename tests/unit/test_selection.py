"""Selection of the top k of large maps: the same sets as by sorting, whatever ties, zeros and NaN there are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from torch import Tensor

from unfooled.distances.maps import selection
from unfooled.distances.maps.locality import TopSets, lens_precision, lens_recall, lens_scores, top_k_intersection
from unfooled.distances.maps.windows import _by_shifts, window_max


def by_sorting(rows: Tensor, k: int) -> Tensor:
    """Mark the k largest, ties to the lower index."""
    best = rows.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(rows, dtype=torch.bool).scatter(1, best, torch.ones_like(best, dtype=torch.bool))


def maps(side: int, dtype: torch.dtype) -> Tensor:
    """Maps with distinct values, with many ties, sparse, signed zeros, constant, and with NaN."""
    source = torch.Generator().manual_seed(0)
    a = torch.randn(7, side * side, generator=source, dtype=dtype)
    a[1] = (2 * a[1]).round()
    a[2] = torch.where(a[2] > 0.5, a[2], 0.0)
    a[3] = torch.where(a[3] > 0, 0.0, -0.0)
    a[4] = 0.25
    a[5, 7] = torch.nan
    a[6] = (a[6] > 0).to(dtype)
    return a


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("side", [8, 72])
@pytest.mark.parametrize("k", [1, 30, 64])
def test_the_largest_entries_are_those_by_sorting(side: int, k: int, dtype: torch.dtype) -> None:
    a = maps(side, dtype)
    mask, ordered = selection.k_largest(a, k)
    expected = by_sorting(a, k)
    expected[5] = False
    assert torch.equal(mask, expected)
    assert ordered.tolist() == [True, True, True, False, False, False, True]
    assert torch.equal(selection.count(mask), expected.sum(1).double())


def test_large_maps_that_are_parts_of_others_are_read_too() -> None:
    a = maps(72, torch.float32)[:2].reshape(2, 72, 72).transpose(1, 2)[:, :, 1:]
    assert torch.equal(selection.k_largest(a.flatten(1), 50)[0], by_sorting(a.flatten(1), 50))


def test_the_sets_of_a_map_are_selected_once_for_all_scores_and_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.rand(2, 3, 70, 70).unbind(0)
    calls: list[int] = []

    def counted(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        calls.append(k)
        return selection.k_largest(rows, k)

    monkeypatch.setattr("unfooled.distances.maps.locality.k_largest", counted)
    scores = lens_scores(a, b, k=90, w=(1, 2, 3))
    assert len(calls) == 2
    assert torch.equal(scores["intersection", 0], top_k_intersection(a, b, k=90))
    for w in (1, 2, 3):
        assert torch.equal(scores["recall", w], lens_recall(a, b, k=90, w=w))
        assert torch.equal(scores["precision", w], lens_precision(a, b, k=90, w=w))
    assert bool(TopSets.of(a, 90).valid.all())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 9), (2, 9, 1), (5, 13, 8), (70, 6, 5), (3, 120, 250)])
def test_windows_are_those_of_a_maximum_filter(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a = (
        drawn > 1.5
        if dtype is torch.bool
        else (50 * drawn.abs()).to(dtype)
        if dtype is torch.uint8
        else drawn.to(dtype)
    )
    turned = a.transpose(1, 2).contiguous().transpose(1, 2)  # other strides
    for w in (0, 1, 2, 3, 4, 7, 200):
        want = maximum_filter(a.numpy(), (1, 2 * w + 1, 2 * w + 1), mode="nearest")
        for maps in (a, turned):
            found = window_max(maps, w)
            assert found.dtype == dtype
            assert found.data_ptr() != maps.data_ptr()
            assert np.array_equal(found.numpy(), want), (shape, w)
        assert torch.equal(_by_shifts(a, min(w, shape[1] - 1), min(w, shape[2] - 1)), window_max(a, w))


@pytest.mark.parametrize("n", [4096, 5003, 16 * 1024 + 1])
@pytest.mark.parametrize("k", [1, 2, 40, 1000, 4096])
@pytest.mark.parametrize("levels", [0, 2, 5, 40])
def test_the_largest_of_large_maps_are_those_of_a_stable_sort(n: int, k: int, levels: int) -> None:
    rows = torch.randn(6, n, generator=torch.Generator().manual_seed(n + k), dtype=torch.float64)
    rows = (rows * levels).round() / levels if levels else rows
    rows[0], rows[1, :], rows[1, n // 3] = rows[0] * (rows[0] > 2), 0.5, 0.75  # mostly zeros; constant but for one
    rows[2, -1], rows[3, 5], rows[4, :] = math.nan, math.nan, 0.25
    rows[5, -3:] = torch.tensor([math.inf, -math.inf, math.inf])
    mask, ordered = selection.k_largest(rows, k)
    want = by_sorting(rows, k)
    want[2], want[3] = False, False
    assert torch.equal(mask, want)
    assert ordered.tolist() == [True, True, False, False, False, True]
    assert torch.equal(selection.k_largest(rows.float(), k)[0], selection.k_largest(rows.float().double(), k)[0])
