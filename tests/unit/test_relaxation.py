"""Lines and windows hold at every point between the bounds, and touch the curve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unfooled.certification.operations import Activation, Curve, MaxPool
from unfooled.certification.relaxation import Lines, lines

CURVES = [
    Activation(Curve.RELU),
    Activation(Curve.LEAKY_RELU, 0.2),
    Activation(Curve.SIGMOID),
    Activation(Curve.TANH),
]


def ends(n: int = 400) -> tuple[Tensor, Tensor]:
    """Return intervals of many widths, on both sides of 0 and across it."""
    generator = torch.Generator().manual_seed(0)
    middle = 6 * torch.rand(1, n, generator=generator, dtype=torch.float64) - 3
    width = 10 ** (5 * torch.rand(1, n, generator=generator, dtype=torch.float64) - 4)
    return middle - width, middle + width


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: str(c.curve))
def test_a_curve_lies_between_its_lines(curve: Activation) -> None:
    low, high = ends()
    found = lines(curve, low, high)
    assert isinstance(found, Lines)
    for slopes in (None, 0.0, 0.3, 1.0):
        own = found if slopes is None else found.with_slopes(torch.full_like(low, slopes))
        for share in torch.linspace(0, 1, 41, dtype=torch.float64):
            z = low + share * (high - low)
            assert (own.low_slope * z + own.low_shift <= curve(z) + 1e-9).all()
            assert (own.high_slope * z + own.high_shift >= curve(z) - 1e-9).all()


@pytest.mark.parametrize("curve", CURVES, ids=lambda c: str(c.curve))
def test_the_lines_are_no_wider_than_the_values(curve: Activation) -> None:
    low, high = ends()
    found = lines(curve, low, high)
    assert isinstance(found, Lines)
    gap = torch.stack(
        [(found.high_slope - found.low_slope) * z + found.high_shift - found.low_shift for z in (low, high)]
    ).mean(0)
    assert (gap <= curve(high) - curve(low) + 1e-9).all()
    stable = (low > 0) | (high < 0)
    if curve.bends:
        assert (gap[stable] < 1e-12).all()


def bound(pool: MaxPool, a: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the lower bound of a . pool(z) over the box."""
    back, constant = lines(pool, low, high).back(a, tuple(low.shape[1:]))
    return torch.where(back > 0, back * low, back * high).flatten(1).sum(1) + constant


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (MaxPool([2, 2], [2, 2], [0, 0], [1, 1]), (2, 4, 4)),
        (MaxPool([3, 2], [1, 2], [1, 0], [1, 1]), (2, 5, 4)),
        (MaxPool([2, 2], [1, 1], [0, 0], [2, 1]), (1, 4, 4)),
        (MaxPool([2, 2], [2, 2], [0, 0], [1, 1], True), (1, 5, 5)),
        (MaxPool([3], [2], [1], [1]), (2, 7)),
    ],
)
def test_pooling_is_bounded_from_below_for_any_coefficients(pool: MaxPool, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    middle = torch.randn(30, *shape, generator=generator, dtype=torch.float64)
    width = torch.rand(30, *shape, generator=generator, dtype=torch.float64)
    for scale in (0.02, 0.4):  # many windows are decided, and few
        low, high = middle - scale * width, middle + scale * width
        a = torch.randn(pool(low).shape, generator=generator, dtype=torch.float64)
        least = bound(pool, a, low, high)
        for draw in range(60):
            share = torch.rand(low.shape, generator=generator, dtype=torch.float64).round() if draw % 2 else 0.5
            assert (least <= (a * pool(low + share * (high - low))).flatten(1).sum(1) + 1e-9).all()
    exact = bound(pool, a, middle, middle)
    assert torch.allclose(exact, (a * pool(middle)).flatten(1).sum(1))
