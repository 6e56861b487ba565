"""The five groups, bit for bit, and what every corruption promises."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import points
from torch import Tensor

from unfooled.core.errors import BadInput
from unfooled.features.corruptions import (
    FIVE,
    Corruption,
    groups,
    half_normal_noise,
    horizontal_lines,
    random_group,
    stroke_removal,
    unchanged,
    vertical_lines,
)
from unfooled.features.extra_corruptions import EXTRA, rotate, scale, shot_noise, translate

MNIST = Path(os.environ.get("UNFOOLED_DATA", "../shared/data")) / "mnist.npz"
PUBLISHED = ["f7be43666b47e763", "41809ef7bae5c5b7", "04db5353a593a0f8", "f4c7c69b6d48e0cb", "bc9f8f501f39b3ca"]
ALL = [*FIVE, *EXTRA]


def name_of(corrupt: Corruption) -> str:
    return corrupt.__name__  # type: ignore[attr-defined]


@pytest.mark.skipif(not MNIST.is_file(), reason="UNFOOLED_DATA has no mnist.npz")
def test_the_published_test_groups_are_repeated_bit_for_bit() -> None:
    with np.load(MNIST) as held:
        x = torch.from_numpy(held["x_test"].astype(np.float32) / np.float32(255))
    made = groups(x[:, None], legacy=0x1A2B3C4D)
    assert made.shape == (10000, 5, 1, 28, 28)
    found = [hashlib.sha256(made[:, g].numpy().tobytes()).hexdigest()[:16] for g in range(5)]
    assert found == PUBLISHED


def test_lines_stand_where_they_stood() -> None:
    x = torch.full((2, 1, 28, 28), 0.1)
    columns = (vertical_lines(x) > 0.1)[0, 0]
    assert columns.all(0).nonzero()[:, 0].tolist() == [0, 1, 6, 7, 13, 14, 20, 21, 26, 27]
    assert columns.sum() == 280
    rows = (horizontal_lines(x) > 0.1)[0, 0]
    assert rows.all(1).nonzero()[:, 0].tolist() == [0, 4, 9, 14, 18, 22, 27]
    assert torch.equal(vertical_lines(x)[columns.expand_as(x)].unique(), torch.tensor([0.1]) + 0.6)
    assert vertical_lines(x + 0.6).max() == 1


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (3, 6, 9), (1, 1, 1), (5, 2)])
def test_lines_of_other_sizes_do_not_add_up(shape: tuple[int, ...]) -> None:
    x = torch.zeros(1, *shape)
    for corrupt in (vertical_lines, horizontal_lines):
        assert set(corrupt(x).unique().tolist()) <= {0.0, float(np.float32(0.6))}
    columns = vertical_lines(torch.zeros(1, 8, 8))[0, 0].nonzero()[:, 0].tolist()
    assert columns == [0, 1, 2, 3, 4, 5, 6, 7]  # round(linspace(0, 6, 5)) = 0 2 3 4 6, each 2 wide: all of them, once


def test_removal_takes_a_run_of_the_list_of_bright_pixels() -> None:
    x = points(40, (1, 9, 7))
    made = stroke_removal(x)
    firsts = []
    for before, after in zip(x.flatten(1), made.flatten(1), strict=True):
        bright = (before > 0.3).nonzero()[:, 0]
        gone = (after[bright] == 0).nonzero()[:, 0]
        m = round(0.3 * len(bright))
        assert gone.tolist() == list(range(int(gone[0]), int(gone[0]) + m))
        assert int(gone[0]) <= len(bright) - m - 2
        assert torch.equal(after[before <= 0.3], before[before <= 0.3])
        firsts.append(int(gone[0]))
    assert len(set(firsts)) > 10


def test_an_image_with_too_few_bright_pixels_is_left_alone() -> None:
    x = torch.zeros(3, 1, 4, 4)
    x[1, 0, 0, 0], x[2, 0, 0, :2] = 1, 1  # n = 1: m = 0, no place; n = 2: m = 1, no place
    assert torch.equal(stroke_removal(x), x)
    assert torch.equal(groups(x, legacy=1)[:, 3], x)


def test_a_removed_pixel_of_a_colour_image_is_removed_in_all_channels() -> None:
    x = points(5, (3, 6, 6)).clamp_min(0.01)
    gone = stroke_removal(x) == 0
    assert torch.equal(gone.any(1), gone.all(1))
    assert gone.any((1, 2, 3)).all()


def test_noise_brightens_by_a_half_normal_variable() -> None:
    x = torch.zeros(400, 1, 10, 10)
    added = half_normal_noise(x, index=torch.arange(400)).double()
    assert added.min() >= 0
    assert added[added < 1].mean() == pytest.approx(0.3 * (2 / np.pi) ** 0.5, abs=4e-3)
    assert (half_normal_noise(torch.full((2, 1, 5, 5), 0.9)) <= 1).all()


@pytest.mark.parametrize("corrupt", ALL, ids=name_of)
def test_neither_batch_nor_order_changes_a_sample(corrupt: Corruption) -> None:
    x = points(6, (1, 8, 8))
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for index in (None, torch.arange(10, 16)):
        whole = corrupt(x, index=index)
        assert torch.equal(corrupt(x[order], index=None if index is None else index[order]), whole[order])
        assert torch.equal(corrupt(x[2:3], index=None if index is None else index[2:3]), whole[2:3])


@pytest.mark.parametrize("corrupt", ALL, ids=name_of)
@pytest.mark.parametrize("shape", [(1, 8, 8), (7, 9), (3, 6, 10)])
def test_what_every_corruption_promises(corrupt: Corruption, shape: tuple[int, ...]) -> None:
    x = points(4, shape)
    kept, state = x.clone(), torch.get_rng_state()
    made = corrupt(x, seed=1)
    assert made.shape == x.shape
    assert made.dtype == x.dtype
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made, corrupt(x, seed=1))
    if corrupt is not unchanged:
        assert not torch.equal(made, x)
    fixed = {"vertical_lines", "horizontal_lines", "unchanged", "brightness"}
    assert torch.equal(made, corrupt(x, seed=2)) == (name_of(corrupt) in fixed)
    double = corrupt(x.double(), seed=1)
    assert double.dtype == torch.float64


def test_equal_images_differ_where_they_are_told_apart_by_place() -> None:
    x = points(1, (1, 8, 8)).expand(2, 1, 8, 8)
    by_bytes, by_place = half_normal_noise(x), half_normal_noise(x, index=torch.arange(2))
    assert torch.equal(by_bytes[0], by_bytes[1])
    assert not torch.equal(by_place[0], by_place[1])


def test_groups_are_their_corruptions_in_order() -> None:
    x = points(5, (1, 8, 8))
    made = groups(x, seed=3)
    assert made.shape == (5, 5, 1, 8, 8)
    for g, corrupt in enumerate(FIVE):
        assert torch.equal(made[:, g], corrupt(x, seed=3))
    assert torch.equal(groups(x, corruptions=(rotate, partial(scale, least=0.5)))[:, 0], rotate(x))


def test_random_groups_take_every_corruption() -> None:
    x = points(300, (1, 12, 12))
    whole, made = groups(x, seed=4), random_group(x, seed=4)
    match = (whole == made[:, None]).flatten(2).all(2)
    assert (match.sum(1) == 1).all()
    assert (match.sum(0) > 35).all()
    other = (groups(x, seed=5) == random_group(x, seed=5)[:, None]).flatten(2).all(2)
    assert (match.int().argmax(1) != other.int().argmax(1)).float().mean() > 0.6


def test_shot_noise_counts_photons() -> None:
    made = 5 * shot_noise(torch.full((2000, 1, 4), 0.4), index=torch.arange(2000))
    assert torch.equal(made.round(), made.round(decimals=4))
    assert made.mean() == pytest.approx(2, abs=0.06)
    assert made.clamp(max=4).var() == pytest.approx(1.56, abs=0.06)  # of min(Poisson(2), 4); 5 photons clip at 1


def centre(x: Tensor) -> Tensor:
    """Mean place of an image's mass, (B, 2): row, column."""
    w = x.sum(1) / x.sum((1, 2, 3))[:, None, None]
    rows, columns = torch.arange(x.shape[-2]).float(), torch.arange(x.shape[-1]).float()
    return torch.stack([(w.sum(2) * rows).sum(1), (w.sum(1) * columns).sum(1)], 1)


def test_the_geometry_is_what_it_says() -> None:
    x = torch.zeros(50, 1, 40, 20)
    x[:, :, 18:22, 8:12] = 1
    index = torch.arange(50)
    moved = (centre(translate(x, index=index, share=0.2)) - centre(x)) / torch.tensor([40.0, 20.0])
    assert (moved.norm(dim=1) - 0.15).abs().max() < 0.051
    bar = torch.zeros(50, 1, 40, 20)
    bar[:, :, 12:28, 9:11] = 1
    turned = rotate(bar, index=index)
    torch.testing.assert_close(centre(turned), centre(bar), atol=0.05, rtol=0)
    torch.testing.assert_close(turned.sum((1, 2, 3)), bar.sum((1, 2, 3)), atol=1.5, rtol=0)  # turned, not sheared
    spread = (turned * (torch.arange(20.0) - 9.5).square()).sum((1, 2, 3)) / turned.sum((1, 2, 3))
    angle = ((spread - 0.25) / 21.25).clamp_min(0).sqrt().asin().rad2deg()
    assert angle.min() > 13
    assert angle.max() < 32
    x[:, :, 10:30, 5:15] = 1
    area = scale(x, index=index, least=0.6).sum((1, 2, 3)) / 200
    assert area.min() > 0.33
    assert area.min() < 0.42
    assert area.max() > 0.58
    assert area.max() < 0.68


def test_bad_calls_are_named() -> None:
    x = points(2, (1, 4, 4))
    with pytest.raises(BadInput, match=r"x has shape \(2, 16\); corruptions are for images"):
        groups(x.flatten(1))
    with pytest.raises(BadInput, match=r"x lies in \[.*\], outside \[0, 1\]"):
        vertical_lines(x + 1)
    with pytest.raises(BadInput, match=r"index is \(3,\)"):
        half_normal_noise(x, index=torch.arange(3))
    with pytest.raises(BadInput, match="legacy is the stream of the study's five"):
        groups(x, legacy=0, corruptions=EXTRA)
    for stream in ("a", -1, 1 << 32):
        with pytest.raises(BadInput, match=r"give a numpy\.random\.RandomState, or its seed"):
            groups(x, legacy=stream)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="there are no corruptions"):
        groups(x, corruptions=())
