"""Contract of the locality scores: limits, monotony, symmetry, borders, and the level of chance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import source
from torch import Tensor

from unfooled import distances
from unfooled.core.errors import BadInput
from unfooled.distances import (
    chance,
    corrected,
    dilate,
    diverse_intersection,
    diverse_top_k,
    lens_kendall,
    lens_precision,
    lens_recall,
    lens_spearman,
    shift_null,
    shift_p,
    shift_quantile,
    top_k_intersection,
    top_k_mask,
    zero_share,
)

Score = Callable[[Tensor, Tensor], Tensor]
SCORES: dict[str, Score] = {
    "recall": partial(lens_recall, k=12, w=2),
    "precision": partial(lens_precision, k=12),
    "diverse": partial(diverse_intersection, k=12, w=1),
    "diverse recall": partial(lens_recall, k=12, w=1, diverse=True),
    "diverse precision": partial(lens_precision, k=12, w=1, diverse=True),
    "spearman": partial(lens_spearman, w=1),
    "kendall": partial(lens_kendall, w=2),
}


def maps(n: int = 5, shape: tuple[int, int] = (9, 12), *, seed: int = 0, levels: int = 0) -> Tensor:
    a = torch.rand(n, *shape, generator=source(seed))
    return (a * levels).round() if levels else a


shapes = st.tuples(st.integers(1, 9), st.integers(2, 9))
pairs = st.builds(
    lambda shape, seed, levels: (maps(3, shape, seed=seed, levels=levels), maps(3, shape, seed=~seed, levels=levels)),
    shapes,
    st.integers(0, 10**6),
    st.sampled_from([0, 2, 5]),
)
quick = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_number_a_map_whatever_the_batch(score: Score, dtype: torch.dtype) -> None:
    a, b = maps().to(dtype), maps(seed=1).to(dtype)
    kept = a.clone(), b.clone()
    found = score(a, b)
    assert found.shape == (5,)
    assert found.dtype == dtype
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(score(a[order], b[order]), found[order], rtol=0, atol=0)
    for i in range(5):
        torch.testing.assert_close(score(a[i : i + 1], b[i : i + 1]), found[i : i + 1], rtol=0, atol=0)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])
    torch.testing.assert_close(score(a, a), torch.ones(5, dtype=dtype))


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_maps_without_an_order_are_undefined(score: Score) -> None:
    a, b = maps(), maps(seed=1)
    a[0], b[1], a[2, 0, 0] = 0, 0.1, torch.nan
    assert score(a, b).isnan().tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_bad_pairs_are_named(score: Score) -> None:
    a = maps()
    with pytest.raises(BadInput, match="must have one shape"):
        score(a, a[:2])
    with pytest.raises(BadInput, match=r"maps are \(B, H, W\), try abs_sum"):
        score(a[:, None], a[:, None])
    with pytest.raises(BadInput, match="floating point"):
        score(a, (a * 255).byte())


@quick
@given(pairs, st.data())
def test_identities(pair: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    a, b = pair
    n = a[0].numel()
    k, w = data.draw(st.integers(1, n)), data.draw(st.integers(0, 10))
    equal = partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    equal(lens_recall(a, b, k=k, w=0), top_k_intersection(a, b, k=k))
    equal(lens_recall(a, b, k=k, w=0, diverse=True), top_k_intersection(a, b, k=k))
    equal(diverse_intersection(a, b, k=k, w=0), top_k_intersection(a, b, k=k))
    for diverse in (False, True):
        recall = lens_recall(a, b, k=k, w=w, diverse=diverse)
        equal(recall, lens_precision(b, a, k=k, w=w, diverse=diverse))
        assert (recall.isnan() | ((recall >= 0) & (recall <= 1))).all()
        self = lens_recall(a, a, k=k, w=w, diverse=diverse)
        assert (self.isnan() | (self == 1)).all()
        null = shift_null(a, b, k=k, w=w, diverse=diverse)
        equal(null[:, 0], recall)
        torch.testing.assert_close(null.mean(1), chance(a, k=k, w=w, diverse=diverse).where(~recall.isnan(), torch.nan),
                                   rtol=1e-6, atol=1e-6, equal_nan=True)  # fmt: skip
        p = shift_p(null)
        assert (p.isnan() | ((p >= 1 / n - 1e-6) & (p <= 1))).all()
    less = lens_recall(a, b, k=k, w=w)
    more = lens_recall(a, b, k=k, w=w + 1)
    assert (more.isnan() | (more >= less)).all()
    torch.testing.assert_close(chance(a, k=k, w=0).nan_to_num(k / n), torch.full((3,), k / n))


def test_windows_end_at_the_border() -> None:
    mask = torch.zeros(3, 6, 5, dtype=torch.bool)
    mask[0, 2, 4] = mask[1, 0, 0] = mask[2, 5, 1] = True
    want = torch.zeros_like(mask)
    want[0, 1:4, 3:] = want[1, :2, :2] = want[2, 4:, :3] = True
    assert torch.equal(dilate(mask, 1), want)
    assert torch.equal(dilate(mask, 0), mask)
    assert dilate(mask, 9).all()
    # The last pixel of a row and the first of the next are neighbours in memory only.
    a, b = torch.zeros(1, 4, 7), torch.zeros(1, 4, 7)
    a[0, 1, 6] = b[0, 2, 0] = 1
    for w in (1, 2, 5):
        assert lens_recall(a, b, k=1, w=w) == lens_precision(a, b, k=1, w=w) == 0
    assert lens_recall(a, b, k=1, w=6) == 1


def test_recall_dilates_the_clean_map() -> None:
    """a is a block, b its middle and a far pixel twice as often: the two scores differ."""
    a, b = torch.zeros(1, 9, 9), torch.zeros(1, 9, 9)
    a[0, 1:3, 1:3] = 1
    b[0, 2, 2], b[0, 7, 5:8] = 1, 1
    assert lens_recall(a, b, k=4, w=1).item() == 0.25  # one of b's four is near a
    assert lens_precision(a, b, k=4, w=1).item() == 1  # all of a is near one of b's
    assert top_k_intersection(a, b, k=4).item() == 0.25


@pytest.mark.parametrize("make", [lambda s: maps(4, (14, 11), seed=s), lambda s: maps(4, (14, 11), seed=s, levels=3)])
def test_diverse_pixels_are_apart_and_none_is_missed(make: Callable[[int], Tensor]) -> None:
    a = make(0)
    for w in (1, 2, 3):
        mask = diverse_top_k(a, 154, w)
        wide = torch.nn.functional.avg_pool2d(mask[:, None].double(), 2 * w + 1, 1, w, divisor_override=1)[:, 0]
        assert (wide[mask] == 1).all()  # alone in its window
        assert (wide > 0).all()  # and every pixel is near one
        few = diverse_top_k(a, 5, w)
        assert (few.sum((1, 2)) == 5).all()
        assert (few <= mask).all()
        assert (a.where(few, torch.inf).amin((1, 2)) >= a.where(mask & ~few, -torch.inf).amax((1, 2))).all()


def test_the_count_found_is_the_divisor() -> None:
    a = maps(1, (4, 4))
    found = int(diverse_top_k(a, 10, 2).sum())
    assert found < 10
    b = a.flip(1)
    want = int((diverse_top_k(a, 10, 2) & diverse_top_k(b, 10, 2)).sum()) / found
    other = int(diverse_top_k(b, 10, 2).sum())
    torch.testing.assert_close(diverse_intersection(a, b, k=10, w=2).item(), want * found / max(found, other))


def test_zeros_that_were_chosen_are_counted() -> None:
    a = torch.zeros(3, 5, 5)
    a[0, 2, :3] = 1
    a[1] = maps(1, (5, 5))[0] + 1
    torch.testing.assert_close(zero_share(a, k=4), torch.tensor([0.25, 0, 1]))


# Chance


@pytest.mark.parametrize("w", [0, 1, 2])
@pytest.mark.parametrize("diverse", [False, True])
def test_chance_is_what_random_sets_score(w: int, diverse: bool) -> None:
    a = maps(1, (12, 15))
    mask = diverse_top_k(a, 9, w) if diverse else top_k_mask(a, 9)
    generator = source(1)
    drawn = torch.rand(4000, 180, generator=generator).topk(9, dim=1).indices  # uniform 9-sets
    hits = dilate(mask, w).flatten(1)[0][drawn].double().mean(1)
    found = float(chance(a, k=9, w=w, diverse=diverse))
    assert abs(float(hits.mean()) - found) < 4 * float(hits.std()) / 4000**0.5
    if not diverse:  # the score itself, of unrelated maps
        b = torch.rand(4000, 12, 15, generator=generator)
        scores = lens_recall(a.expand(4000, -1, -1), b, k=9, w=w).double()
        assert abs(float(scores.mean()) - found) < 4 * float(scores.std()) / 4000**0.5


@pytest.mark.parametrize(
    ("side", "k", "levels"), [(28, 100, (0.128, 0.69, 0.95, 0.99)), (32, 100, (0.098, 0.59, 0.90, 0.99))]
)
def test_the_levels_of_scattered_maps(side: int, k: int, levels: tuple[float, ...]) -> None:
    a = maps(50, (side, side))
    for w, level in enumerate(levels):
        assert float(chance(a, k=k, w=w).mean()) == pytest.approx(level, abs=0.012)


def test_corrected_scores() -> None:
    score, level = torch.tensor([1.0, 0.6, 0.2, 1.0, torch.nan]), torch.tensor([0.5, 0.6, 0.6, 1.0, 0.5])
    want = torch.tensor([1.0, 0.0, -1.0, torch.nan, torch.nan])
    torch.testing.assert_close(corrected(score, level), want, equal_nan=True)


def test_the_null_of_moves_tells_near_from_unrelated() -> None:
    a = maps(40, (20, 20))
    blur = torch.nn.functional.avg_pool2d(a[:, None], 5, 1, 2)[:, 0]
    near, unrelated = blur.roll(1, 2), blur.roll(1, 0)
    p_near, p_far = (shift_p(shift_null(blur, b, k=20, w=1)) for b in (near, unrelated))
    assert (p_near < 0.05).double().mean() > 0.9
    assert (p_far < 0.05).double().mean() < 0.3
    null = shift_null(blur, unrelated, k=20, w=1)
    high = shift_quantile(null)
    below = (null <= high[:, None]).double().mean(1)
    assert (below >= 0.95).all()
    assert ((null < high[:, None]).double().mean(1) < 0.95).all()
    with pytest.raises(BadInput, match="q is 0"):
        shift_quantile(null, 0)


def test_moves_are_listed_by_rows() -> None:
    a, b = torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)
    a[0, 2, 3] = b[0, 1, 1] = 1
    null = shift_null(a, b, k=1, w=0)
    assert null.argmax().item() == 1 * 5 + 2  # one down, two to the right
    assert null.sum() == 1


# Refusals


@pytest.mark.parametrize("k", [0, 109])
def test_k_must_fit(k: int) -> None:
    a = maps()
    for call in (
        lambda: lens_recall(a, a, k=k),
        lambda: diverse_top_k(a, k, 1),
        lambda: chance(a, k=k),
        lambda: zero_share(a, k=k),
        lambda: shift_null(a, a, k=k),
    ):
        with pytest.raises(BadInput, match=f"k is {k}; maps of shape .9, 12. have 1 to 108 entries"):
            call()


def test_whole_numbers_of_any_kind_and_nothing_else() -> None:
    a, b = maps(), maps(seed=1)
    k: Any = np.int64(5)
    w: Any = np.int64(2)
    for score in (lens_recall, lens_precision, diverse_intersection):
        assert torch.equal(score(a, b, k=k, w=w), score(a, b, k=5, w=2))
    assert torch.equal(lens_recall(a, b, k=k, w=w, diverse=True), lens_recall(a, b, k=5, w=2, diverse=True))
    assert torch.equal(lens_spearman(a, b, w=w), lens_spearman(a, b, w=2))
    k = torch.tensor(5)
    assert torch.equal(chance(a, k=k, w=w), chance(a, k=5, w=2))
    calls: list[Any] = [lens_recall, top_k_intersection, diverse_intersection]
    for bad in (5.0, "5", None, True):
        for call in calls:
            with pytest.raises(BadInput, match=f"k is {bad!r}; .* give a whole number"):
                call(a, b, k=bad)


def test_no_maps_at_all() -> None:
    none = torch.zeros(0, 9, 12)
    calls: list[Any] = [lens_recall, top_k_intersection, diverse_intersection, shift_null]
    for call in calls:
        with pytest.raises(BadInput, match="there are n"):
            call(none, none, k=5)
    with pytest.raises(BadInput, match="there are no maps"):
        chance(none, k=5)
    with pytest.raises(BadInput, match="there are no maps"):
        lens_kendall(none, none)


@pytest.mark.parametrize("w", [-1, 1.5, True])
def test_w_must_be_a_whole_number(w: float) -> None:
    a = maps()
    for call in (
        lambda: lens_recall(a, a, k=3, w=w),  # type: ignore[arg-type]
        lambda: diverse_top_k(a, 3, w),  # type: ignore[arg-type]
        lambda: dilate(a > 0, w),  # type: ignore[arg-type]
        lambda: lens_spearman(a, a, w=w),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadInput, match=f"w is {w}; the reach"):
            call()
    with pytest.raises(BadInput, match="dilate takes bool"):
        dilate(a, 1)
    with pytest.raises(BadInput, match=r"windows need \(B, H, W\)"):
        dilate(a[0] > 0, 1)


def test_large_maps_and_many_zeros_stay_quick() -> None:
    """A tenth of the pixels is not zero: choosing among the zeros must not take a round for each."""
    a = maps(2, (224, 224)) * (maps(2, (224, 224), seed=1) < 0.1)
    mask = diverse_top_k(a, 1000, 3)
    assert (mask.sum((1, 2)) == 1000).all()
    assert top_k_mask(a, 1000).sum() == 2000
    want = a.flatten(1).sort(dim=1, descending=True).values[:, 999]
    torch.testing.assert_close(a.where(top_k_mask(a, 1000), torch.inf).amin((1, 2)), want)
    assert distances.lens_recall(a, a, k=1000, w=3, diverse=True).tolist() == [1, 1]


@pytest.mark.parametrize("k", [1, 2, 5, 11])
@pytest.mark.parametrize("levels", [0, 3, 40])
def test_the_top_is_found_in_every_corner_of_a_map(k: int, levels: int) -> None:
    """A prime number of entries does not fall into blocks: the rest is searched too."""
    a = maps(6, (1, 101), levels=levels)
    for tail in (a, a + torch.arange(101) // 98, a - torch.arange(101)):  # the best last, and first
        order = tail.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :k]
        want = torch.zeros(6, 101, dtype=torch.bool).scatter_(1, order, True)
        assert torch.equal(top_k_mask(tail, k).flatten(1), want)


def test_diverse_pixels_of_low_rank_are_reached() -> None:
    """Blocks of one window each, every pixel of a block better than the next block: the best is its middle."""
    w, blocks = 2, 8
    rows = torch.arange(blocks * (2 * w + 1))
    number = rows[:, None] // 5 * blocks + rows // 5
    middle = (rows[:, None] % 5 == w) & (rows % 5 == w)
    a = (middle * 0.5 - number + 0.1 * maps(1, (40, 40))[0])[None]
    mask = diverse_top_k(a, 50, w)
    assert torch.equal(mask[0], middle & (number < 50))
