"""What every distance promises: closed forms, symmetry, one number a sample whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unfooled.core.errors import BadInput
from unfooled.distances import (
    abs_sum,
    either_nonzero,
    kendall,
    l0,
    l1,
    l2,
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

Distance = Callable[[Tensor, Tensor], Tensor]
NORMS: dict[str, Distance] = {"linf": linf, "l2": l2, "l1": l1, "l0": l0}
LIKENESS: dict[str, Distance] = {
    "ssim": ssim,
    "spearman": spearman,
    "kendall": kendall,
    "top_k": partial(top_k_intersection, k=20),
}
ALL = NORMS | LIKENESS | {"psnr": psnr}


def images(
    n: int = 5, shape: tuple[int, ...] = (2, 9, 8), *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("distance", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_number_a_sample(distance: Distance, dtype: torch.dtype) -> None:
    a, b = images(dtype=dtype), images(seed=1, dtype=dtype)
    kept = a.clone(), b.clone()
    found = distance(a, b)
    assert found.shape == (5,)
    assert found.dtype == dtype
    torch.testing.assert_close(distance(b, a), found, rtol=1e-5, atol=1e-6)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(distance(a[order], b[order]), found[order])
    for i in range(5):
        torch.testing.assert_close(distance(a[i : i + 1], b[i : i + 1]), found[i : i + 1], rtol=1e-5, atol=1e-6)
    assert torch.equal(a, kept[0])
    assert torch.equal(b, kept[1])


@pytest.mark.parametrize("distance", ALL.values(), ids=ALL.keys())
def test_bad_pairs_are_named(distance: Distance) -> None:
    a = images()
    with pytest.raises(BadInput, match="must have one shape"):
        distance(a, a[:2])
    with pytest.raises(BadInput, match="floating point"):
        distance(a, (a * 255).byte())
    with pytest.raises(BadInput, match=r"\(3,\)"):
        distance(a[0, 0, 0, :3], a[0, 0, 0, :3])


@pytest.mark.parametrize("distance", NORMS.values(), ids=NORMS.keys())
def test_norms_are_metrics(distance: Distance) -> None:
    a, b, c = images(), images(seed=1), images(seed=2)
    assert (distance(a, a) == 0).all()
    assert (distance(a, b) > 0).all()
    assert (distance(a, c) <= distance(a, b) + distance(b, c)).all()


def test_norms_by_hand() -> None:
    a = torch.zeros(2, 1, 2, 2)
    b = torch.tensor([[0.3, 0.0, -0.4, 0.0], [0.0, 0.0, 0.0, 1.0]]).reshape(2, 1, 2, 2)
    for distance, want in ((linf, (0.4, 1)), (l2, (0.5, 1)), (l1, (0.7, 1)), (l0, (2, 1))):
        torch.testing.assert_close(distance(a, b), torch.tensor(want, dtype=torch.float32))


@pytest.mark.parametrize("distance", LIKENESS.values(), ids=LIKENESS.keys())
def test_likeness_is_one_for_equal_maps_and_less_for_others(distance: Distance) -> None:
    a, b = images(), images(seed=1)
    torch.testing.assert_close(distance(a, a), torch.ones(5, dtype=torch.float64))
    assert (distance(a, b) < 0.7).all()
    assert (distance(a, b) >= -1).all()


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
