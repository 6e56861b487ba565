"""Locality scores beside their slow twin, and the twin's `compat` mode beside the published scripts re-typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats
from tests.reference import lens_slow
from torch import Tensor

from unfooled import distances
from unfooled.distances import chance, diverse_intersection, diverse_top_k, lens_precision, lens_recall, zero_share

HEIGHT, WIDTH = 9, 11


def make(kind: str, n: int = 4, seed: int = 0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(n, *shape, generator=generator)
    match kind:
        case "tied":
            return (a * 4).round()
        case "zeros":  # a few strokes on nothing
            return a * (torch.rand(n, *shape, generator=generator) < 0.1)
        case "border":  # the best pixels lie on the rim, corners first
            rows, columns = (torch.arange(s) for s in shape)
            edge = torch.minimum(rows, shape[0] - 1 - rows)[:, None] + torch.minimum(columns, shape[1] - 1 - columns)
            return a - edge
        case "signed":
            return a - 0.5
        case "smooth":
            return torch.nn.functional.avg_pool2d(a[:, None], 5, 1, 2)[:, 0]
    return a


KINDS = ["random", "tied", "zeros", "border", "signed", "smooth"]


def ours(a: Tensor, b: Tensor, k: int, w: int) -> dict[str, Tensor]:
    return {
        "top_k": distances.top_k_intersection(a, b, k=k),
        "recall": lens_recall(a, b, k=k, w=w),
        "precision": lens_precision(a, b, k=k, w=w),
        "diverse": diverse_intersection(a, b, k=k, w=w),
        "diverse_recall": lens_recall(a, b, k=k, w=w, diverse=True),
        "diverse_precision": lens_precision(a, b, k=k, w=w, diverse=True),
        "chance": chance(a, k=k, w=w),
        "diverse_chance": chance(a, k=k, w=w, diverse=True),
        "zero_share": zero_share(a, k=k),
    }


@pytest.mark.parametrize("w", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("k", [1, 7, 30, HEIGHT * WIDTH])
@pytest.mark.parametrize("kind", KINDS)
def test_every_score_equals_its_twin(kind: str, k: int, w: int) -> None:
    a, b = make(kind), make(kind, seed=1)
    b[1] = a[1]
    found = ours(a, b, k, w)
    want = [lens_slow.scores(u, v, k, w) for u, v in zip(a.numpy(), b.numpy(), strict=True)]
    assert set(found) == set(lens_slow.NAMES)
    for name, value in found.items():
        torch.testing.assert_close(value, torch.tensor([row[name] for row in want]), msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(1, 13), (13, 1), (2, 2), (17, 16), (40, 40)])
def test_the_diverse_set_is_the_sequential_one(kind: str, height: int, width: int) -> None:
    a = make(kind, n=3, shape=(height, width))
    for w in (0, 1, 2, 5):
        for k in {1, 3, min(50, height * width), height * width}:
            found = [set(m.flatten().nonzero()[:, 0].tolist()) for m in diverse_top_k(a, k, w)]
            assert found == [set(lens_slow.greedy(m, k, w)) for m in a.numpy()], (k, w)


def test_undefined_maps_are_nan_in_both_and_leave_the_others_alone() -> None:
    a, b = make("random", n=6), make("random", n=6, seed=1)
    a[0] = 0
    b[1] = 0.1
    a[2, 3, 3] = torch.nan
    b[3, 0, 0] = torch.nan
    found = ours(a, b, 12, 1)
    want = [lens_slow.scores(u, v, 12, 1) for u, v in zip(a.numpy(), b.numpy(), strict=True)]
    pairs = [name for name in found if "chance" not in name and name != "zero_share"]
    for name in pairs:
        torch.testing.assert_close(found[name], torch.tensor([row[name] for row in want]), equal_nan=True)
        assert found[name].isnan().tolist() == [True] * 4 + [False] * 2
    for name in ("chance", "diverse_chance"):  # of the clean map alone
        assert found[name].isnan().tolist() == [True, False, True, False, False, False]
    assert found["zero_share"].tolist()[0] == 1
    assert found["zero_share"].isnan().tolist() == [False, False, True, False, False, False]
    assert not diverse_top_k(a, 12, 1)[2].any()


@pytest.mark.parametrize("kind", KINDS)
def test_shifts_equal_a_loop_over_all_moves(kind: str) -> None:
    a, b = make(kind, n=2), make(kind, n=2, seed=1)
    for k, w in ((5, 0), (12, 1), (20, 3)):
        want = torch.tensor([lens_slow.shifted(u, v, k, w) for u, v in zip(a.numpy(), b.numpy(), strict=True)])
        torch.testing.assert_close(distances.shift_null(a, b, k=k, w=w), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [0, 1, 2, 12])
def test_correlations_of_local_means(kind: str, w: int) -> None:
    a, b = make(kind, n=3), make(kind, n=3, seed=1)
    for found, peer in ((distances.lens_spearman, stats.spearmanr), (distances.lens_kendall, stats.kendalltau)):
        means = [[lens_slow.local_mean(m, w) for m in batch.numpy()] for batch in (a, b)]
        if w == 12:  # every window is the whole map
            assert found(a, b, w=w).isnan().all()
            continue
        want = torch.tensor([float(peer(u.ravel(), v.ravel()).statistic) for u, v in zip(*means, strict=True)])
        torch.testing.assert_close(found(a, b, w=w), want, rtol=0, atol=2e-6)


# The published code


@pytest.fixture(scope="module")
def published() -> ModuleType:
    """The scripts' algorithm on index lists, as the benchmark re-types it."""
    path = Path(__file__).resolve().parents[2] / "benchmarks/lens_vs_reference.py"
    spec = importlib.util.spec_from_file_location("lens_vs_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first_is_best(a: Tensor) -> Tensor:
    """Pixel 0 before all others: where defects 1 and 3 meet."""
    a = a.clone()
    a[:, 0, 0] = 9
    return a


@pytest.mark.parametrize("w", [1, 2, 3])
@pytest.mark.parametrize("kind", ["random", "border", "signed", "first"])
def test_compat_equals_the_published_algorithm(published: ModuleType, kind: str, w: int) -> None:
    shape, k = (24, 20), 10
    a, b = make(kind, n=3, shape=shape), make(kind, n=3, seed=1, shape=shape)
    if kind == "first":
        a, b = first_is_best(a), first_is_best(b)
    for u, v in zip(a.numpy(), b.numpy(), strict=True):
        want = lens_slow.scores(u, v, k, w, compat=lens_slow.REFERENCE)
        for name, value in published.scores(u, v, k, w, candidates=480).items():
            assert value == pytest.approx(want[name]), name


def interior(seed: int, shape: tuple[int, int] = (24, 24), margin: int = 5) -> np.ndarray:
    """Positive away from the border, zero near it."""
    a = make("random", n=1, seed=seed, shape=shape)[0].numpy() + 1e-3
    a[:margin], a[-margin:], a[:, :margin], a[:, -margin:] = 0, 0, 0, 0
    return a


@pytest.mark.parametrize("w", [1, 2, 3])
def test_away_from_the_border_the_published_windows_are_right(w: int) -> None:
    a, b = interior(0), interior(1)
    right, published = (lens_slow.scores(a, b, 30, w, compat=c) for c in (None, lens_slow.REFERENCE))
    for name in ("top_k", "recall", "precision", "chance"):
        assert right[name] == published[name]


@pytest.mark.parametrize("w", [1, 2])
def test_the_second_diverse_pixel_is_lost_and_one_more_taken(w: int) -> None:
    a = interior(0)
    right = lens_slow.greedy(a, 7, w)
    assert lens_slow.greedy(a, 6, w, compat=lens_slow.REFERENCE) == right[:1] + right[2:]


@pytest.mark.parametrize("w", [1, 2, 3])
def test_published_windows_run_over_the_ends_of_rows_and_drop_pixel_0(w: int) -> None:
    shape = (12, 10)
    wrong = 0
    for i in range(120):
        right, published = (lens_slow.window(i, shape, w, c) for c in (None, lens_slow.REFERENCE))
        assert right - published == right & {0}
        column = i % 10
        assert all(abs(j % 10 - column) > w for j in published - right)
        assert not published - right or column < w or column >= 10 - w
        wrong += bool(published - right)
    assert wrong > 20
