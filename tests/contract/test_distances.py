"""Contract of the distances: closed forms, symmetry, one number per sample whatever the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled import distances
from unfooled.core.errors import BadInput
from unfooled.distances import (
    abs_sum,
    centroid_shift,
    cosine,
    diverse_intersection,
    either_nonzero,
    js,
    kendall,
    l0,
    l1,
    l2,
    lens_kendall,
    lens_precision,
    lens_recall,
    lens_spearman,
    linf,
    peak,
    psnr,
    signed,
    spearman,
    ssim,
    top_k_intersection,
    top_k_mask,
    total,
)
from unfooled.testing import check_distance

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """A distance with its options bound, and what is declared of it (keywords of `check_distance`)."""

    distance: Distance
    facts: Mapping[str, Any]


def draw_maps(n: int, seed: int) -> Tensor:
    return images(n, (9, 12), seed=seed)


def draw_probabilities(n: int, seed: int) -> Tensor:
    return images(n, (5, 6), seed=seed).log().mul(-2).flatten(1).softmax(1).reshape(n, 5, 6)


NORM = {"metric": True, "invariances": [lambda a, b: (a + 1, b + 1), lambda a, b: (a.flip(1), b.flip(1))]}
SIMILARITY: dict[str, Any] = {"equal": 1, "low": -1, "high": 1}
SHARE: dict[str, Any] = {"equal": 1, "low": 0, "high": 1}
ORDER = [lambda a, b: (3 * a.exp() - 7, b), lambda a, b: (a, b.square()), lambda a, b: (a.flip(-1), b.flip(-1))]
"""Changes that leave the order of the coordinates as it is, or change it alike."""
LENS = {**SHARE, "draw": draw_maps, "invariances": [*ORDER, lambda a, b: (a.mT, b.mT)]}
ONE_SIDED = {**LENS, "symmetric": False}
OF_MAPS = {"draw": draw_probabilities, "invariances": [lambda a, b: (a.flip(-1), b.flip(-1))]}
ROWS = {
    "linf": Row(distances.linf, NORM),
    "l2": Row(l2, NORM),
    "l1": Row(l1, NORM),
    "l0": Row(l0, NORM),
    "psnr": Row(psnr, {"equal": math.inf, "low": 0}),
    "ssim": Row(ssim, {**SIMILARITY, "invariances": [lambda a, b: (a.flip(-1), b.flip(-1))]}),
    "spearman": Row(spearman, {**SIMILARITY, "invariances": ORDER}),
    "kendall": Row(kendall, {**SIMILARITY, "invariances": ORDER}),
    "top_k": Row(partial(top_k_intersection, k=20), {**SHARE, "invariances": ORDER}),
    "lens_recall": Row(partial(lens_recall, k=12, w=2), ONE_SIDED),
    "lens_precision": Row(partial(lens_precision, k=12), ONE_SIDED),
    # Which of two near pixels is taken first depends on the order of the cells where they tie, and on nothing else.
    "diverse": Row(partial(diverse_intersection, k=12, w=1), LENS),
    "lens_spearman": Row(partial(lens_spearman, w=1), {**SIMILARITY, "draw": draw_maps}),
    "lens_kendall": Row(partial(lens_kendall, w=2), {**SIMILARITY, "draw": draw_maps}),
    "js": Row(js, {**OF_MAPS, "high": math.log(2)}),
    "cosine": Row(cosine, {**OF_MAPS, "high": 1}),
    "centroid_shift": Row(centroid_shift, {**OF_MAPS, "high": 1}),
}
every = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())


def images(
    n: int = 5, shape: tuple[int, ...] = (2, 9, 8), *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@every
def test_contract(row: Row) -> None:
    check_distance(row.distance, **row.facts)


@every
def test_bad_pairs_are_named(row: Row) -> None:
    a = row.facts.get("draw", images)(5, seed=0)
    with pytest.raises(BadInput, match="must have one shape"):
        row.distance(a, a[:2])
    with pytest.raises(BadInput, match="floating point"):
        row.distance(a, (a * 255).byte())
    with pytest.raises(BadInput, match=r"\(3,\)"):
        row.distance(a.flatten()[:3], a.flatten()[:3])


def test_norms_by_hand() -> None:
    a = torch.zeros(2, 1, 2, 2)
    b = torch.tensor([[0.3, 0.0, -0.4, 0.0], [0.0, 0.0, 0.0, 1.0]]).reshape(2, 1, 2, 2)
    for distance, want in ((linf, (0.4, 1)), (l2, (0.5, 1)), (l1, (0.7, 1)), (l0, (2, 1))):
        torch.testing.assert_close(distance(a, b), torch.tensor(want, dtype=torch.float32))


@every
def test_similarities_of_unrelated_images_are_low(row: Row) -> None:
    if row.facts.get("equal") == 1 and "draw" not in row.facts:
        assert (row.distance(images(), images(seed=1)) < 0.7).all()


# Image quality


def test_psnr_by_hand() -> None:
    a = torch.full((2, 3, 4, 4), 0.5)
    b = a + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    torch.testing.assert_close(psnr(a, b), torch.tensor([20.0, 40.0]), rtol=1e-4, atol=0)
    assert (psnr(a, a) == torch.inf).all()
    torch.testing.assert_close(psnr(a.flatten(1), b.flatten(1)), psnr(a, b))


def ssim_by_hand(a: Tensor, b: Tensor, window: int, sigma: float) -> Tensor:
    "The mean over a window around every pixel of every channel, edges reflected."
    place = torch.arange(window, dtype=a.dtype) - window // 2
    row = torch.exp(-place.square() / (2 * sigma**2))
    kernel = (row[:, None] * row[None]) / row.sum() ** 2

    def blur(t: Tensor) -> Tensor:
        channels, pad = t.shape[1], window // 2
        return F.conv2d(F.pad(t, (pad,) * 4, mode="reflect"), kernel.expand(channels, 1, -1, -1), groups=channels)

    m_a, m_b = blur(a), blur(b)
    s_a, s_b, s_ab = blur(a * a) - m_a**2, blur(b * b) - m_b**2, blur(a * b) - m_a * m_b
    c1, c2 = 0.01**2, 0.03**2
    value = (2 * m_a * m_b + c1) * (2 * s_ab + c2) / ((m_a**2 + m_b**2 + c1) * (s_a + s_b + c2))
    return value.flatten(1).mean(1)


@pytest.mark.parametrize(
    ("shape", "window", "sigma"),
    [((3, 32, 32), 11, 1.5), ((1, 11, 14), 11, 1.5), ((1, 8, 8), 7, 1.5 * 7 / 11), ((2, 3, 5), 3, 1.5 * 3 / 11)],
)
def test_ssim_is_its_formula_at_every_size(shape: tuple[int, ...], window: int, sigma: float) -> None:
    a = images(4, shape)
    b = (a + 0.2 * images(4, shape, seed=1)).clamp(0, 1)
    torch.testing.assert_close(ssim(a, b), ssim_by_hand(a, b, window, sigma), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ssim(a[:, 0], b[:, 0]), ssim(a[:, :1], b[:, :1]))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)], ids=str)
def test_quality_is_that_of_torchmetrics(shape: tuple[int, ...]) -> None:
    metrics = pytest.importorskip("torchmetrics.functional.image")
    a = images(4, shape)
    b = (a + 0.2 * images(4, shape, seed=1)).clamp(0, 1)
    side = min(11, shape[1] - 1 + shape[1] % 2)
    theirs = metrics.structural_similarity_index_measure(a, b, sigma=1.5 * side / 11, reduction="none", data_range=1.0)
    torch.testing.assert_close(ssim(a, b), theirs, rtol=1e-5, atol=1e-6)
    theirs = metrics.peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), theirs)


def test_ssim_of_a_single_pixel_and_of_no_image() -> None:
    a, b = images(2, (1, 1, 1)), images(2, (1, 1, 1), seed=1)
    assert ssim(a, b).isfinite().all()
    with pytest.raises(BadInput, match="ssim compares images"):
        ssim(a.flatten(1), b.flatten(1))


# Ranks


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_rank_correlations_see_order_alone(correlation: Distance) -> None:
    a, b = images(3), images(3, seed=1)
    torch.testing.assert_close(correlation(3 * a.exp() - 7, b), correlation(a, b))
    torch.testing.assert_close(correlation(a, -a), -torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(correlation(a, -b), -correlation(a, b))


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_undefined_correlations_are_nan(correlation: Distance) -> None:
    a, b = images(5), images(5, seed=1)
    a[0] = 0
    b[1] = 0.3
    a[2, 0, 0, 0] = torch.nan
    b[3, 1, 2, 3] = torch.inf
    found = correlation(a, b)
    assert found[:4].isnan().all()
    torch.testing.assert_close(found[4:], correlation(a[4:], b[4:]))


@pytest.mark.parametrize("correlation", [spearman, kendall])
def test_support_leaves_the_background_out(correlation: Callable[..., Tensor]) -> None:
    a, b = images(4, (10, 10)), images(4, (10, 10), seed=1)
    support = images(4, (10, 10), seed=2) < torch.tensor([0.1, 0.4, 0.9, 0.0]).reshape(4, 1, 1)
    found = correlation(a, b, support=support)
    for i in range(3):
        alone = correlation(a[i][support[i]][None], b[i][support[i]][None])
        torch.testing.assert_close(found[i : i + 1], alone)
    assert found[3].isnan()
    stroke = images(4, (10, 10), seed=2) < 0.2
    clean = a * stroke
    # Noise on the zeros ruins the full correlation, and the support cannot be told from the clean map's own.
    noisy = torch.where(stroke, clean, 1e-3 * b)
    assert (correlation(clean, noisy) < 0.8).all()
    assert (correlation(clean, noisy, support=stroke) > 0.999).all()
    assert torch.equal(either_nonzero(clean, clean * 2), clean != 0)
    with pytest.raises(BadInput, match="support is"):
        correlation(a, b, support=support.float())
    with pytest.raises(BadInput, match="support is"):
        correlation(a, b, support=support[0])


# Top k


def test_top_k_mask_by_hand() -> None:
    a = torch.tensor([[[1.0, 3.0], [3.0, 3.0]], [[0.0, -1.0], [-1.0, 5.0]]])
    want = torch.tensor([[[False, True], [True, False]], [[True, False], [False, True]]])
    assert torch.equal(top_k_mask(a, 2), want)
    assert torch.equal(top_k_mask(torch.zeros(1, 4), 3)[0], torch.tensor([True, True, True, False]))
    assert torch.equal(top_k_mask(a, 3)[1], torch.tensor([[True, True], [False, True]]))


def test_top_k_mask_equals_a_stable_sort() -> None:
    a = (images(6, (7, 9)) * 5).round()
    for k in (1, 10, 62, 63):
        order = (-a.flatten(1)).argsort(dim=1, stable=True)[:, :k]
        want = torch.zeros(6, 63, dtype=torch.bool).scatter(1, order, True)
        assert torch.equal(top_k_mask(a, k).flatten(1), want)
        assert (top_k_mask(a, k).sum((1, 2)) == k).all()


def test_top_k_intersection_by_hand() -> None:
    a = torch.tensor([[9.0, 8.0, 7.0, 0.0, 0.0, 0.0]]).repeat(4, 1)
    b = torch.tensor([[7.0, 8, 9, 0, 0, 0], [0, 0, 0, 3, 2, 1], [5, 0, 0, 6, 7, 0], [1, 1, 1, 1, 1, 1]])
    found = top_k_intersection(a, b, k=3)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1 / 3, torch.nan]), equal_nan=True)
    zeros, broken = torch.zeros(1, 6), torch.tensor([[torch.nan, 1, 2, 3, 4, 5]])
    for other in (zeros, broken):
        assert top_k_intersection(a[:1], other, k=3).isnan().all()
        assert top_k_intersection(other, a[:1], k=3).isnan().all()
    assert not top_k_mask(broken, 3).any()


def test_unrelated_maps_share_what_chance_gives() -> None:
    a, b = images(2000, (10, 10)), images(2000, (10, 10), seed=1)
    found = top_k_intersection(a, b, k=20)
    assert (found.mean() - 0.2).abs() < 4 * found.std() / 2000**0.5


@pytest.mark.parametrize("k", [0, -1, 61])
def test_k_must_fit(k: int) -> None:
    a = images(2, (6, 10))
    with pytest.raises(BadInput, match=f"k is {k}; maps of shape .6, 10. have 1 to 60 entries"):
        top_k_intersection(a, a, k=k)


# Channels


def test_channel_reductions_by_hand() -> None:
    a = torch.tensor([[1.0, -2.0], [-3.0, 0.0]]).reshape(1, 2, 1, 2)  # channel 0: (1, -2), channel 1: (-3, 0)
    torch.testing.assert_close(abs_sum(a), torch.tensor([[[4.0, 2.0]]]) / 3)
    torch.testing.assert_close(total(a), torch.tensor([[[2.0, 2.0]]]))
    torch.testing.assert_close(peak(a), torch.tensor([[[3.0, 2.0]]]))
    torch.testing.assert_close(signed(a), torch.tensor([[[-2.0, -2.0]]]))


@pytest.mark.parametrize("reduce", [abs_sum, total, peak, signed])
def test_channel_reductions(reduce: Callable[[Tensor], Tensor]) -> None:
    a = images(3, (3, 4, 5)) - 0.5
    found = reduce(a)
    assert found.shape == (3, 4, 5)
    torch.testing.assert_close(reduce(a[1:2]), found[1:2])
    assert (reduce(0 * a) == 0).all()
    leaf = a.clone().requires_grad_()
    (g,) = torch.autograd.grad(reduce(leaf).square().sum(), leaf)
    assert g.abs().max() > 0
    with pytest.raises(BadInput, match=r"takes \(B, C, H, W\)"):
        reduce(a[0])


def test_abs_sum_has_mean_one_and_a_finite_slope_at_zero() -> None:
    torch.testing.assert_close(abs_sum(images()).mean((1, 2)), torch.ones(5, dtype=torch.float64))
    leaf = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (g,) = torch.autograd.grad(abs_sum(leaf).sum(), leaf)
    assert g.isfinite().all()
